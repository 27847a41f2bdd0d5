"""Which clients that describe themselves are fetched at all: judged before anything leaves (oauth reference §3).

off         none
allowlist   hosts that the operator listed: a name, or ``*.name`` for everything below it
any         every public host
policy      Rego is asked, before the fetch about the host and after it about the document
"""

from __future__ import annotations

from urllib.parse import urlsplit

from firewall.core.errors import Malformed
from firewall.core.ports import ClientFacts, ClientTrust
from firewall.identity.settings import IdentitySettings
from firewall.wire import oauth
from firewall.wire.cimd import ClientDocument


class HostTrust:
    """Applies ``identity.cimd.policy``. Without an engine to ask, ``policy`` permits nothing."""

    def __init__(self, settings: IdentitySettings, policy: ClientTrust | None) -> None:
        self._mode = settings.cimd_policy
        self._names = frozenset(host for host in settings.cimd_hosts if not host.startswith("*."))
        self._ends = tuple(host[1:] for host in settings.cimd_hosts if host.startswith("*."))
        self._policy = policy

    def lists(self, host: str) -> bool:
        """Return whether the operator listed a (lower-case) host."""
        return host in self._names or host.endswith(self._ends)

    async def check_host(self, url: str, host: str) -> None:
        """Raise Malformed("cimd_host") unless this host may be reached."""
        if self._mode == "any" or (self._mode == "allowlist" and self.lists(host)):
            return
        if self._mode != "policy" or not await self._asked(ClientFacts(url, host, self.lists(host), "fetch")):
            raise Malformed("cimd_host")

    async def check_document(self, document: ClientDocument, host: str) -> None:
        """Raise Malformed("cimd_refused") when policy is asked and does not want what the document says."""
        if self._mode == "policy" and not await self._asked(_facts(document, host, listed=self.lists(host))):
            raise Malformed("cimd_refused")

    async def _asked(self, facts: ClientFacts) -> bool:
        return self._policy is not None and await self._policy.permits(facts)


def is_of_host(host: str, owner: str) -> bool:
    """Return whether a host is the owner's: the same name, or one below it."""
    return host == owner or host.endswith("." + owner)


def _facts(document: ClientDocument, host: str, *, listed: bool) -> ClientFacts:
    https = {urlsplit(uri).hostname or "" for uri in document.redirect_uris if uri.startswith("https:")}
    return ClientFacts(
        url=document.client_id,
        host=host,
        listed=listed,
        stage="document",
        redirect_hosts=tuple(sorted({oauth.redirect_host(uri) for uri in document.redirect_uris})),
        foreign_hosts=tuple(sorted(name for name in https if not is_of_host(name, host))),
        keys_host=urlsplit(document.jwks_uri).hostname or "",
        loopback_only=all(oauth.is_loopback_redirect(uri) for uri in document.redirect_uris),
        auth_method=document.auth_method,
        grant_types=document.grant_types,
        scopes=document.scope,
    )
