"""What a caller's person could still give its client, without asking anybody: what a step-up would bring (MCP, scope challenge).

It opens nothing. A list may show what stands behind it, and a call of that is answered with the challenge; the
person decides on the consent page, on what is true then.
"""

from __future__ import annotations

from typing import Final

from firewall.core.principal import Principal
from firewall.identity.clients.registry import Clients
from firewall.identity.people.offers import offered_scopes
from firewall.identity.people.users import Users
from firewall.identity.resources import Resources

ASKS_PEOPLE: Final = frozenset({"authorization_code", "device_code"})  # grants by which a client comes back with more


class ReachableScopes:
    """Implements `core.ports.Reachable`. Reads one account; never waits and never fetches."""

    def __init__(self, issuer: str, resources: Resources, clients: Clients, users: Users) -> None:
        self._issuer = issuer
        self._resources = resources
        self._clients = clients
        self._users = users

    def beyond(self, principal: Principal) -> frozenset[str]:
        """Return the scopes, frozenset() for whoever has nobody to ask.

        That is everybody but a person's own client with a plain token of ours: not a service, not an agent that was
        handed a token (its person is not there), not a run (a step-up would leave its clean context), and not a token
        whose details name single calls, which its person chose on purpose.
        """
        who = principal
        if who.issuer != self._issuer or who.kind != "user" or not who.grant_id:
            return frozenset()
        if who.hop or who.run or who.details or len(who.chain) != 1:
            return frozenset()
        client, user = self._clients.known(who.client_id), self._users.get(who.tenant, who.subject)
        if client is None or user is None or ASKS_PEOPLE.isdisjoint(client.grant_types):
            return frozenset()
        known = self._resources.by_uri.get(who.audience)
        wanted = known.scopes if known is not None else ()
        return frozenset(offered_scopes(wanted, known, client, user)) - who.scopes
