"""What token exchange works with, beside the parts of every grant."""

from __future__ import annotations

from dataclasses import dataclass

from firewall.core.errors import Malformed, StateUnavailable
from firewall.core.label import MOST_RESTRICTIVE, Label
from firewall.core.ports import Labels
from firewall.core.principal import Principal
from firewall.identity.clients.registry import Client, Clients
from firewall.identity.rfc8693.presented import PresentedTokens
from firewall.identity.run_tokens.runs import Runs
from firewall.wire.cimd import is_client_url
from firewall.wire.oauth import OAuthError


class NoLabels:
    """Labels of a process that serves no agents: nobody is clean, and nothing can be handed on."""

    def current(self, principal: Principal) -> Label:
        """Return MOST_RESTRICTIVE."""
        return MOST_RESTRICTIVE

    def raise_(self, principal: Principal, label: Label) -> None:
        """Raise StateUnavailable."""
        raise StateUnavailable("labels")


@dataclass(frozen=True, slots=True)
class Delegation:
    """clients: all that are known. presented: reads subject and actor tokens. labels: of callers. runs: begins runs."""

    clients: Clients
    presented: PresentedTokens
    labels: Labels
    runs: Runs

    def is_there(self, name: str, tenant: str) -> bool:
        """Return whether a client that ``may_act`` names exists, for a tenant's client that names it.

        One that is registered by command may not be there yet. A token that named it all the same would be for whoever
        is registered under that name next; and in another tenant, that is another operator. A document is not fetched for it.
        """
        if is_client_url(name):
            return True
        named = self.clients.known(name)
        return named is not None and named.tenant in ("", tenant)

    async def client(self, client_id: str, tenant: str) -> Client:
        """Return a client of the chain as it stands now. Raises OAuthError invalid_request: chain_gone.

        A chain is as strong as its weakest link: one that nobody knows any more permits nothing.
        """
        try:
            client = await self.clients.find(client_id, allow_stale=True)
        except Malformed:
            client = None
        if client is None or client.tenant not in ("", tenant):
            raise OAuthError("invalid_request", "chain_gone")
        return client
