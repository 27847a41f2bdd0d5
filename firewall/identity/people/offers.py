"""What a person may give a client at a resource now: the intersection that every consent page shows (DESIGN §6b-6)."""

from __future__ import annotations

from collections.abc import Iterable

from firewall.identity.clients.registry import Client
from firewall.identity.people.users import User
from firewall.identity.settings import ProtectedResource
from firewall.wire import oauth


def offered_scopes(
    wanted: Iterable[str], known: ProtectedResource | None, client: Client, user: User
) -> tuple[str, ...]:
    """Return the scopes, () when nothing is left: an unknown resource, another tenant, or no permission in common."""
    if known is None or (known.tenants and user.tenant not in known.tenants):
        return ()
    if client.tenant not in ("", user.tenant):
        return ()
    return oauth.intersect(wanted, known.scopes, client.scopes, user.scopes)
