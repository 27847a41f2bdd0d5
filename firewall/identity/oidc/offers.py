"""Which ways to sign in a page offers, and which a tenant's people may use. Pure.

A tenant can be bound to one provider (`forced_for`): its people sign in there and nowhere else, a local
password of theirs counts for nothing. Where a request leads to one tenant alone, the page offers only its way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from firewall.core.errors import ConfigFault
from firewall.identity.oidc.settings import ProviderSettings
from firewall.identity.people.sign_in import Choice, Offer
from firewall.identity.people.transactions import Transaction
from firewall.identity.resources import Resources


class Offers:
    """passwords: whether local passwords are on at all. client_tenants: of registered clients, by client id."""

    def __init__(
        self,
        providers: Sequence[ProviderSettings],
        *,
        passwords: bool,
        resources: Resources,
        client_tenants: Mapping[str, str],
    ) -> None:
        self._choices = tuple(Choice(p.name, p.title or p.name) for p in providers)
        self._passwords = passwords
        self._resources = resources
        self._client_tenants = client_tenants
        self._forced: dict[str, str] = {}
        for provider in providers:
            for tenant in provider.forced_for:
                if self._forced.setdefault(tenant, provider.name) != provider.name:
                    raise ConfigFault("idp_forced", f"tenant {tenant}", fix="bind a tenant to one provider")
        if not passwords and not self._choices:
            raise ConfigFault("idp_none", "nobody could sign in", fix="configure a provider before passwords: off")

    def of(self, transaction: Transaction | None) -> Offer:
        """Return what to offer for a transaction, or for a page of our own."""
        tenant = self._tenant_of(transaction)
        choices = tuple(c for c in self._choices if not tenant or self.permitted(c.name, tenant))
        return Offer(choices, self._passwords and (not tenant or tenant not in self._forced))

    def offered(self, provider: str, transaction: Transaction | None) -> bool:
        """Return whether a provider's button stood on the page of this transaction."""
        return any(choice.name == provider for choice in self.of(transaction).choices)

    def permitted(self, provider: str, tenant: str) -> bool:
        """Return whether people of a tenant may sign in at a provider; "" stands for a local password."""
        if not provider:
            return self._passwords and tenant not in self._forced
        return self._forced.get(tenant, provider) == provider

    def _tenant_of(self, transaction: Transaction | None) -> str:
        """Return the only tenant whose people a request can be for, "" when that is not known."""
        if transaction is None:
            return ""
        asked = transaction.request
        if tenant := self._client_tenants.get(asked.client_id, ""):
            return tenant
        known = self._resources.by_uri.get(asked.resource)
        return known.tenants[0] if known is not None and len(known.tenants) == 1 else ""
