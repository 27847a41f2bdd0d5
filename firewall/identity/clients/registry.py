"""OAuth clients: those an operator registered, and those that their metadata document describes."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from firewall.core.jsonvalue import JSON
from firewall.identity.cimd.documents import ClientDocuments
from firewall.identity.settings import AuthMethod, ClientSettings, IdentitySettings
from firewall.wire import canonical, oauth
from firewall.wire.cimd import ClientDocument, is_client_url


@dataclass(frozen=True, slots=True)
class Client:
    """A known client.

    host: what a person is shown as its identity; "" for a registered one, whose name the operator chose.
    resource, may_act, orchestrator: see `ClientSettings`; never what a document says of itself.
    tenant: "" for clients of every tenant. digest: changes when a person must be asked again (UI-01).
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

    @property
    def loopback_only(self) -> bool:
        """Whether every redirect leads to a program on the user's own computer."""
        return all(oauth.is_loopback_redirect(uri) for uri in self.redirect_uris)


class Clients:
    """Finds clients by id. An id that starts with https:// is always a document, never a registration."""

    def __init__(self, settings: IdentitySettings, documents: ClientDocuments) -> None:
        self._registered = {c.client_id: _from_settings(c) for c in settings.clients}
        self._documents = documents

    async def find(self, client_id: str, *, allow_stale: bool = False) -> Client | None:
        """Return the client, None when nobody registered it; raises Malformed (cimd_…) for a bad document."""
        if not is_client_url(client_id):
            return self._registered.get(client_id)
        return _from_document(await self._documents.get(client_id, allow_stale=allow_stale))


def _from_settings(settings: ClientSettings) -> Client:
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
    )


def _from_document(document: ClientDocument) -> Client:
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
    )
