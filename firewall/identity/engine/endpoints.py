"""The endpoints that programs post forms to, put together: token, revocation, introspection, pushed and device requests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from firewall.core.permit import FixedReply
from firewall.identity.clients.registry import Client
from firewall.identity.engine.parts import TokenParts
from firewall.identity.oauth21.token_endpoint import TokenEndpoint
from firewall.identity.rfc7009.revocation import RevocationEndpoint
from firewall.identity.rfc7662.introspection import IntrospectionEndpoint
from firewall.identity.rfc8628.endpoint import DeviceAuthorizationEndpoint
from firewall.identity.rfc9068.tokens import SigningKeys
from firewall.identity.rfc9126.par import PushedEndpoint, PushedRequests
from firewall.identity.web import WebRequest
from firewall.wire.oauth import Form

Routes = Mapping[str, Mapping[str, Callable[[WebRequest], Awaitable[FixedReply]]]]


def program_endpoints(
    parts: TokenParts, keys: SigningKeys, pushed: PushedRequests, check: Callable[[Form, Client], object]
) -> Routes:
    """Return their routes. check: judges an authorization request as `/authorize` does, raising OAuthError."""
    clients, throttle, clock, per_minute = parts.clients, parts.throttle, parts.clock, parts.per_minute
    revocation = RevocationEndpoint(clients, parts.refresh, parts.grants, keys, throttle, clock, per_minute=per_minute)
    introspection = IntrospectionEndpoint(
        clients, parts.resources, parts.refresh, parts.grants, keys, throttle, clock, per_minute=per_minute
    )
    par = PushedEndpoint(
        clients, pushed, check, parts.proofs, throttle, parts.limits, parts.record, parts.noted, per_minute=per_minute
    )
    routes = {
        "/token": {"POST": TokenEndpoint(parts).serve},
        "/revoke": {"POST": revocation.serve},
        "/introspect": {"POST": introspection.serve},
        "/par": {"POST": par.serve},
    }
    if parts.settings.device_grant:
        device = DeviceAuthorizationEndpoint(
            parts.settings, parts.resources, clients, parts.devices, throttle, parts.limits, parts.record, parts.noted
        )
        routes["/device_authorization"] = {"POST": device.serve}
    return routes
