"""Puts the decision point together from the parts of a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from firewall.adapters.authzen.action import House
from firewall.adapters.authzen.evaluate import Evaluator
from firewall.adapters.authzen.serve import AuthZENApp
from firewall.adapters.authzen.settings import settings_of
from firewall.adapters.authzen.subject import Known, People
from firewall.config import Config
from firewall.core.jsonvalue import JSON
from firewall.core.ports import AuditLog, Ids
from firewall.enforce.guard import Guard
from firewall.enforce.pins import Pins
from firewall.enforce.registry import Registry
from firewall.identity.authorization_server import Identity
from mcp_gateway.settings import UpstreamSpec


def build(
    config: Config,
    *,
    guard: Guard,
    identity: Identity,
    registry: Registry,
    pins: Pins,
    specs: Callable[[], Iterable[UpstreamSpec]],
    definition: Callable[[str], JSON],
    audit: AuditLog,
    ids: Ids,
    on_fault: Callable[[str, str], None],
) -> AuthZENApp:
    """Return the ASGI application. definition: what was seen under a digest, None when nobody remembers."""
    evaluator = Evaluator(
        guard,
        House(config.public_url, _kept(specs, pins), registry, pins, definition),
        _people(identity),
        audit,
        ids,
        lambda error: on_fault("authzen_internal", type(error).__name__),
        {given.issuer: name for name, given in config.identity.issuers.items()},
    )
    return AuthZENApp(settings_of(config), identity.resource_server, evaluator)


def _kept(specs: Callable[[], Iterable[UpstreamSpec]], pins: Pins) -> Callable[[], Iterable[UpstreamSpec]]:
    """Return the servers, made anew when the node's epoch moved: a registration or an approval anywhere moves it."""
    known: tuple[int, tuple[UpstreamSpec, ...]] = (-1, ())

    def now() -> tuple[UpstreamSpec, ...]:
        nonlocal known
        epoch = pins.epoch()
        if known[0] != epoch:
            known = (epoch, tuple(specs()))
        return known[1]

    return now


def _people(identity: Identity) -> People:
    users, links = identity.users, identity.links

    def known(tenant: str, issuer: str, subject: str) -> Known:
        if issuer:
            user = links.find(tenant, issuer, subject)
            return Known(user, barred=user is None and links.knows(tenant, issuer, subject))
        user = users.get(tenant, subject)
        return Known(user, barred=user is None and users.exists(tenant, subject))

    return known
