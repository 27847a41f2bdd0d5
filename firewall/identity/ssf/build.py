"""Puts the receiver together from the parts of the front door."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass

from firewall.core.ports import Clock, Store
from firewall.identity.oidc.provider import ProviderFetcher
from firewall.identity.people.links import Links
from firewall.identity.people.users import Users
from firewall.identity.serve import Handler
from firewall.identity.settings import Noted, Record
from firewall.identity.ssf.poll import Poller
from firewall.identity.ssf.push import PushEndpoint
from firewall.identity.ssf.receiver import Receiver, ReceiverParts
from firewall.identity.ssf.settings import PATH, Transmitter
from firewall.identity.standing import Standing
from firewall.identity.throttle import Throttle


@dataclass(frozen=True, slots=True)
class Signals:
    """routes: for the front door. background: coroutine functions that run as long as the worker."""

    receiver: Receiver
    routes: Mapping[str, Mapping[str, Handler]]
    background: tuple[Callable[[], Coroutine[object, None, None]], ...]


def build(
    transmitters: Sequence[Transmitter],
    *,
    users: Users,
    links: Links,
    standing: Standing,
    store: Store,
    clock: Clock,
    fetcher: ProviderFetcher,
    secret: Callable[[str], str],
    record: Record,
    noted: Noted | None = None,
    on_fault: Callable[[str, str], None] = lambda _code, _detail: None,
) -> Signals:
    """Return the receiver. secret: the secret behind ``env:NAME`` or ``file:/path`` (`oidc.secret`). noted: see `build_identity`."""
    receiver = Receiver(transmitters, ReceiverParts(store, clock, users, links, standing, fetcher, record, on_fault))
    push = PushEndpoint(
        receiver, secret, Throttle(store, clock), noted or (lambda event, _address, facts: record(event, facts))
    )
    pollers = [Poller(one, receiver, fetcher, secret, store, clock, on_fault) for one in transmitters if one.poll_url]
    return Signals(receiver, {PATH: {"POST": push.serve}}, (receiver.run, *(p.run for p in pollers)))
