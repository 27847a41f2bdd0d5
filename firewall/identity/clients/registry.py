"""OAuth clients: those an operator registered, those that registered themselves, and those that describe themselves.

Which kind a client is follows from its id: ``https://…`` is a metadata document, ``dcr_…`` was given out at
``/register``, everything else was registered by an operator, in configuration or by command.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from firewall.core.jsonvalue import JSON
from firewall.identity.cimd.documents import ClientDocuments
from firewall.identity.settings import AuthMethod, ClientSettings, IdentitySettings
from firewall.net.address import Network
from firewall.wire import canonical, oauth
from firewall.wire.cimd import ClientDocument, is_client_url


@dataclass(frozen=True, slots=True)
class Client:
    """A known client.

    host: what a person is shown as its identity; "" for a registered one, whose name the operator chose.
    resource, may_act, orchestrator, pushed_only: see `ClientSettings`; never what a document says of itself.
    tenant: "" for clients of every tenant. digest: changes when a person must be asked again (UI-01).
    claimed: it chose its name itself, and nobody vouches for that. logo_uri: never shown; see `cimd.logos`.
    dpop: gets bound tokens only (RFC 9449 §5.2). listed: an operator listed its host, or wrote its document down.
    network: where its ``jwks_uri`` is; another class than public only where configuration says so.
    """

    client_id: str
    name: str
    host: str
    redirect_uris: tuple[str, ...]
    auth_method: AuthMethod
    grant_types: tuple[str, ...]
    scopes: tuple[str, ...]
    tenant: str
    jwks: JSON
    jwks_uri: str
    secret_sha256: str
    digest: str
    first_party: bool
    resource: str = ""
    may_act: str = ""
    orchestrator: bool = False
    claimed: bool = False
    logo_uri: str = ""
    dpop: bool = False
    pushed_only: bool = False
    listed: bool = False
    network: Network = "public"

    @property
    def loopback_only(self) -> bool:
        """Whether every redirect leads to a program on the user's own computer: any program there could be asking."""
        return bool(self.redirect_uris) and all(oauth.is_loopback_redirect(uri) for uri in self.redirect_uris)

    def sends_astray(self, redirect_uri: str) -> bool:
        """Whether its redirect leads to a web site that a stranger named: nobody is sent there but who agreed to it.

        Else every link to `/authorize` would be a link of ours to wherever somebody likes (RFC 9700 §4.11.2).
        """
        return self.claimed and not self.listed and redirect_uri.startswith("https://")


class ClientSource(Protocol):
    """Clients that are kept in the store."""

    def find(self, client_id: str) -> Client | None:
        """Return the client of an id, None when there is none."""


class Clients:
    """Finds clients by id. An id that starts with https:// is always a document, never a registration."""

    def __init__(self, settings: IdentitySettings, documents: ClientDocuments, *sources: ClientSource) -> None:
        """sources: asked in order for what configuration does not name; it always wins."""
        self._configured = {c.client_id: from_settings(c) for c in settings.clients}
        self._documents = documents
        self._sources = sources

    @property
    def configured(self) -> tuple[Client, ...]:
        """The clients of the configuration file."""
        return tuple(self._configured.values())

    async def find(self, client_id: str, *, allow_stale: bool = False, address: str = "") -> Client | None:
        """Return the client, None when nobody registered it; raises Malformed (cimd_…) for a bad document.

        allow_stale: a document that was good within 24 h will do (refresh, CL-03).
        address: of whoever named it, so that one stranger cannot make us fetch without end.
        """
        if is_client_url(client_id):
            document = await self._documents.get(client_id, allow_stale=allow_stale, address=address)
            return from_document(document, listed=self._documents.listed(client_id))
        return self.known(client_id)

    def known(self, client_id: str) -> Client | None:
        """Return what is known of a client now: as `find`, but a document is not fetched, and may be a day old."""
        if is_client_url(client_id):
            document = self._documents.known(client_id)
            return from_document(document, listed=self._documents.listed(client_id)) if document else None
        known = self._configured.get(client_id)
        if known is not None:
            return known
        return next((found for source in self._sources if (found := source.find(client_id)) is not None), None)


def from_settings(settings: ClientSettings) -> Client:
    """Return a client that an operator registered."""
    return Client(
        client_id=settings.client_id,
        name=settings.name,
        host="",
        redirect_uris=tuple(oauth.check_redirect_uri(uri) for uri in settings.redirect_uris),
        auth_method=settings.auth_method,
        grant_types=settings.grant_types,
        scopes=settings.scopes,
        tenant=settings.tenant,
        jwks=settings.jwks,
        jwks_uri=settings.jwks_uri,
        secret_sha256=settings.secret_sha256.lower(),
        digest=canonical.digest([settings.name, list(settings.redirect_uris), settings.auth_method]),
        first_party=settings.first_party,
        resource=settings.resource,
        may_act=settings.may_act,
        orchestrator=settings.orchestrator,
        dpop=settings.dpop,
        pushed_only=settings.pushed_only,
        network=settings.network,
    )


def from_document(document: ClientDocument, *, listed: bool = False) -> Client:
    """Return a client that describes itself."""
    method: AuthMethod = "private_key_jwt" if document.auth_method == "private_key_jwt" else "none"
    return Client(
        client_id=document.client_id,
        name=document.client_name,
        host=urlsplit(document.client_id).netloc,
        redirect_uris=document.redirect_uris,
        auth_method=method,
        grant_types=document.grant_types,
        scopes=document.scope or ("*",),
        tenant="",
        jwks=document.jwks,
        jwks_uri=document.jwks_uri,
        secret_sha256="",
        digest=document.digest,
        first_party=False,
        claimed=True,
        logo_uri=document.logo_uri,
        dpop=document.dpop,
        pushed_only=document.pushed_only,
        listed=listed,
    )
