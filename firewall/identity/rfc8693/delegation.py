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
