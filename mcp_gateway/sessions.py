"""Legacy sessions in front of us: sealed tokens bound to their principal (SH-1, SH-2).

A session id is never authentication: the token of every request is verified first, and the id opens
only for the same tenant, subject, client and endpoint; for anyone else it is unknown (404). What a
session holds travels in the id, so only its end needs memory.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON
from firewall.core.ports import Clock
from firewall.core.principal import Principal
from firewall.state.vault import Sealer
from mcp_gateway.versions import SESSION_VERSIONS

ENDED_KEPT: Final = 50_000
CURSOR_TTL_S: Final = 3600
_SESSION: Final = "mcp.session"
_CURSOR: Final = "mcp.cursor"


@dataclass(frozen=True, slots=True)
class Session:
    """An open session: its negotiated revision, and the key of its running requests."""

    version: str
    key: bytes


class Sessions:
    """Mints, opens and ends session ids; seals list cursors."""

    def __init__(self, sealer: Sealer, clock: Clock, ttl_s: int) -> None:
        self._sealer = sealer
        self._clock = clock
        self._ttl_s = ttl_s
        self._ended: OrderedDict[bytes, int] = OrderedDict()
        self._closed_before_us = 0

    def start(self, principal: Principal, endpoint: str, version: str) -> bytes:
        """Return a new session id: visible ASCII, unguessable."""
        value: JSON = [version, self._clock.now_us()]
        owner = _owner(principal, endpoint)
        return self._sealer.seal(_SESSION, principal.tenant, value, ttl_s=self._ttl_s, owner=owner).encode()

    def open(self, principal: Principal, endpoint: str, token: bytes) -> Session:
        """Return the session. Raises Malformed("session_unknown"): foreign, changed, expired or ended."""
        try:
            value = self._sealer.open(
                _SESSION, principal.tenant, token.decode("ascii"), owner=_owner(principal, endpoint)
            )
        except (Malformed, UnicodeDecodeError):
            raise Malformed("session_unknown") from None
        key = hashlib.sha256(token).digest()
        version, since = value if isinstance(value, list) and len(value) == 2 else ("", 0)
        if key in self._ended or not isinstance(since, int) or since < self._closed_before_us:
            raise Malformed("session_unknown")
        if not isinstance(version, str) or version not in SESSION_VERSIONS:
            raise Malformed("session_unknown")
        return Session(version, key)

    def end(self, session: Session) -> None:
        """End a session. Beyond the bound of remembered ends, every older session ends too: never a revival."""
        now = self._clock.now_us()
        while self._ended and next(iter(self._ended.values())) <= now:
            self._ended.popitem(last=False)
        if len(self._ended) >= ENDED_KEPT:
            self._ended.clear()
            self._closed_before_us = now
        self._ended[session.key] = now + self._ttl_s * 1_000_000

    def seal_cursor(self, principal: Principal, endpoint: str, after: str) -> str:
        """Return the cursor of the page after a name, "" at the end."""
        if not after:
            return ""
        return self._sealer.seal(
            _CURSOR, principal.tenant, after, ttl_s=CURSOR_TTL_S, owner=_owner(principal, endpoint)
        )

    def open_cursor(self, principal: Principal, endpoint: str, token: object) -> str:
        """Return the name after which a page starts; raises Malformed("params_invalid")."""
        if token is None:
            return ""
        try:
            after = self._sealer.open(
                _CURSOR, principal.tenant, token if isinstance(token, str) else "", owner=_owner(principal, endpoint)
            )
        except Malformed:
            raise Malformed("params_invalid") from None
        if not isinstance(after, str):
            raise Malformed("params_invalid")
        return after


def _owner(principal: Principal, endpoint: str) -> str:
    return "\0".join((principal.issuer, *principal.key, endpoint))
