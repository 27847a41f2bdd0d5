"""What grants work with. Nothing here imports authlib: the front door is put together without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from firewall.core.permit import FixedReply
from firewall.core.ports import Clock, Ids
from firewall.identity.client_limits import ClientLimits
from firewall.identity.clients.registry import Client
from firewall.identity.grants import OAuthGrants
from firewall.identity.id_jag.accepting import AcceptedAssertions
from firewall.identity.oauth21.codes import Codes
from firewall.identity.oauth21.refresh import RefreshTokens
from firewall.identity.people.users import Users
from firewall.identity.resources import Resources
from firewall.identity.rfc8628.codes import DeviceCodes
from firewall.identity.rfc8693.delegation import Delegation
from firewall.identity.rfc9068.tokens import TokenIssuer
from firewall.identity.settings import IdentitySettings, Noted, Record
from firewall.identity.throttle import Throttle
from firewall.identity.web import WebRequest
from firewall.wire.oauth import Form


class ClientAuthentication(Protocol):
    """Turns the credentials of a request into a client."""

    async def authenticate(self, form: Form, authorization: bytes | None, *, address: str = "") -> Client:
        """Return the authenticated client. Raises OAuthError: invalid_client, invalid_request, slow_down.

        address: of whoever asks, so that failures delay it alone (AS-19).
        """


class AssertedAuthentication(ClientAuthentication, Protocol):
    """Client authentication of one further kind, beside the registered secrets and keys."""

    def recognises(self, form: Form, authorization: bytes | None) -> bool:
        """Return whether the request presents this kind of credentials; nothing is verified yet."""


class AnyOf:
    """Client authentication of several kinds: the first that recognises its own decides, alone.

    What it refuses is refused: no other kind is tried, so that credentials cannot be shopped around (AS-21).
    """

    def __init__(self, registered: ClientAuthentication, *others: AssertedAuthentication) -> None:
        self._registered = registered
        self._others = others

    async def authenticate(self, form: Form, authorization: bytes | None, *, address: str = "") -> Client:
        """Return the authenticated client; see `ClientAuthentication`."""
        for other in self._others:
            if other.recognises(form, authorization):
                return await other.authenticate(form, authorization, address=address)
        return await self._registered.authenticate(form, authorization, address=address)


class Proofs(Protocol):
    """Proof of possession at an endpoint that clients post to (RFC 9449 §5); `rfc9449.verifier` has it."""

    @property
    def nonce(self) -> str:
        """A fresh nonce for the client's next proof."""

    def thumbprint(
        self, headers: Mapping[bytes, bytes], *, path: str = ..., required: bool = ..., address: str = ...
    ) -> str:
        """Return the thumbprint of the key that a valid proof shows, "" where none was sent.

        Raises OAuthError: invalid_dpop_proof, use_dpop_nonce; StateUnavailable.
        """


def with_nonce(reply: FixedReply, proofs: Proofs | None, request: WebRequest) -> FixedReply:
    """Return the reply, with a fresh ``DPoP-Nonce`` for whoever sent a proof (RFC 9449 §8.2)."""
    if proofs is None or b"dpop" not in request.headers:
        return reply
    return FixedReply(reply.status, (*reply.headers, (b"dpop-nonce", proofs.nonce.encode())), reply.body)


@dataclass(frozen=True, slots=True)
class TokenParts:
    """What the token endpoint and its grants work with. proofs: None where no token is bound to a key."""

    settings: IdentitySettings
    resources: Resources
    clients: ClientAuthentication
    users: Users
    codes: Codes
    refresh: RefreshTokens
    grants: OAuthGrants
    tokens: TokenIssuer
    throttle: Throttle
    limits: ClientLimits
    clock: Clock
    ids: Ids
    record: Record
    noted: Noted
    per_minute: int
    devices: DeviceCodes
    delegation: Delegation
    assertions: AcceptedAssertions
    proofs: Proofs | None = None
