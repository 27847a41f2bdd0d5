"""The local resource server: one secret of this process, one principal, the user who started it.

For a node that one local client uses (`bartizan run`): there is no authorization server, the token is
made at the start, never leaves the process over stdio, and is worth nothing after its end. It reaches
one resource; the comparison takes the same time for every wrong token.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Literal

from firewall.core.action import Headers
from firewall.core.errors import Unauthenticated
from firewall.core.ports import ChallengeCode
from firewall.core.principal import Actor, Principal

LOCAL_CLIENT = "local"


def local_principal(tenant: str, user: str, resource: str, scopes: frozenset[str]) -> Principal:
    """Return the operating system's user as a principal. ``kind`` is local: it comes from no token of an issuer."""
    return Principal(
        tenant=tenant,
        issuer="local",
        subject=user,
        client_id=LOCAL_CLIENT,
        scopes=scopes,
        audience=resource,
        chain=(Actor(user, "user"),),
        expires_at=0,
        kind="local",
        auth_method="local",
    )


class LocalResourceServer:
    """Implements `core.ports.ResourceServer` for one token."""

    def __init__(self, token: bytes, principal: Principal) -> None:
        """token: at least 32 characters of a header value."""
        if len(token) < 32:
            raise ValueError("a local token has at least 32 characters")
        self._expected = b"Bearer " + token
        self._principal = principal

    def authenticate(
        self,
        headers: Mapping[bytes, bytes],
        resource: str,
        *,
        default_scope: str,
        method: str = "",
        path: str = "",
        handed: bool = False,
    ) -> Principal:
        """Return the principal. Raises Unauthenticated: token_missing, token_invalid."""
        value = headers.get(b"authorization")
        if value is None:
            raise Unauthenticated("token_missing", scope=default_scope)
        if not hmac.compare_digest(value, self._expected) or resource != self._principal.audience:
            raise Unauthenticated("token_invalid", scope=default_scope)
        return self._principal

    async def admit(
        self,
        headers: Mapping[bytes, bytes],
        resource: str,
        *,
        default_scope: str,
        method: str = "",
        path: str = "",
        handed: bool = False,
        address: str = "",
    ) -> Principal:
        """Return what `authenticate` returns: nothing has to be fetched."""
        return self.authenticate(headers, resource, default_scope=default_scope)

    def still(self, headers: Mapping[bytes, bytes], resource: str, principal: Principal) -> bool:
        """Return True: the token lives as long as this process."""
        return True

    def note_refused(self, error: Unauthenticated, resource: str, address: str) -> str:
        """Return "": the one program that may come has the token from us."""
        return ""

    def challenge(self, resource: str, code: ChallengeCode, scope: str) -> bytes:
        """Return the challenge: there is nowhere to sign in, so it names no metadata."""
        return b"Bearer" if code == "token_missing" else b'Bearer error="invalid_token"'

    def challenges(self, resource: str, error: Unauthenticated, scope: str) -> Headers:
        """Return the one challenge of a 401."""
        code: Literal["token_missing", "token_invalid"] = (
            "token_missing" if error.code == "token_missing" else "token_invalid"
        )
        return ((b"www-authenticate", self.challenge(resource, code, scope)),)
