"""Legacy sessions in front of us: sealed ids bound to their principal (SH-1, SH-2), and the table of the live ones.

A session id is never authentication: the token of every request is verified first, and the id opens
only for the same tenant, subject, client and endpoint; for anyone else it is unknown (404). The id
names the worker that holds the live part (DESIGN §6b-2): what a client declared, its log level, its
running requests, the questions it was asked, its streams. That part lives in a bounded table and ends
with a DELETE, with idleness, or with the id; its client then opens another one.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Final

from firewall.core.bounds import MIB
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.ports import Clock
from firewall.core.principal import Principal
from firewall.net.runtime import Tasks
from firewall.state.vault import Sealer
from mcp_gateway.pipe import KEEP_ALIVE_S
from mcp_gateway.session import Session
from mcp_gateway.settings import Bounds
from mcp_gateway.streams import Budget, Journal
from mcp_gateway.versions import SESSION_VERSIONS

CURSOR_TTL_S: Final = 3600
JOURNALS_BYTES: Final = 64 * MIB
_NS: Final = 1_000_000_000
_SESSION: Final = "mcp.session"
_CURSOR: Final = "mcp.cursor"


class Sessions:
    """Mints, opens and ends sessions; seals list cursors. One per worker."""

    def __init__(
        self, sealer: Sealer, clock: Clock, bounds: Bounds, *, tasks: Tasks | None = None, worker: int = 0
    ) -> None:
        self._sealer = sealer
        self._clock = clock
        self._bounds = bounds
        self._tasks = tasks
        self._worker = worker
        self._live: dict[bytes, Session] = {}
        self._callers: dict[tuple[str, str, str], int] = {}
        self._held: dict[tuple[str, str, str], int] = {}
        self._budget = Budget(JOURNALS_BYTES)
        self._ticking = False
        self.unasked = 0  # answers that nobody waited for

    def __len__(self) -> int:
        return len(self._live)

    @property
    def kept_bytes(self) -> int:
        """What all journals keep for clients that may come back, bytes."""
        return JOURNALS_BYTES - self._budget.left

    def start(
        self,
        principal: Principal,
        endpoint: str,
        version: str,
        *,
        capabilities: JSONObject | None = None,
        client_info: JSONObject | None = None,
    ) -> bytes:
        """Return a new session's id: visible ASCII, unguessable. Raises Malformed: over_limit, sessions_full.

        A caller with too many sessions loses its own longest idle one, and nobody else's.
        """
        if self._callers.get(principal.key, 0) >= self._bounds.per_caller:
            own = [s for s in self._live.values() if s.caller == principal.key and s.idle]
            if not own:
                raise Malformed("over_limit")
            self.end(min(own, key=lambda s: s.used_ns))
        if len(self._live) >= self._bounds.sessions:
            self.sweep()
            if len(self._live) >= self._bounds.sessions:
                raise Malformed("sessions_full")
        now_us = self._clock.now_us()
        value: JSON = [version, now_us, self._worker]
        token = self._sealer.seal(
            _SESSION, principal.tenant, value, ttl_s=self._bounds.ttl_s, owner=_owner(principal, endpoint)
        ).encode()
        key = hashlib.sha256(token).digest()
        session = Session(key, version, principal.key, endpoint, Journal(self._budget), self._clock.monotonic_ns())
        session.worker = self._worker
        session.until_us = now_us + self._bounds.ttl_s * 1_000_000
        session.capabilities = capabilities or {}
        session.client_info = client_info or {}
        self._live[key] = session
        self._callers[principal.key] = self._callers.get(principal.key, 0) + 1
        self._tick()
        return token

    def open(self, principal: Principal, endpoint: str, token: bytes) -> Session:
        """Return the session. Raises Malformed("session_unknown"): foreign, changed, expired, ended or elsewhere."""
        self._opened(principal, endpoint, token)
        session = self._live.get(hashlib.sha256(token).digest())
        if session is None:
            raise Malformed("session_unknown")
        session.used_ns = self._clock.monotonic_ns()
        return session

    def owner_of(self, token: bytes, principal: Principal, endpoint: str) -> int:
        """Return the worker that holds a session's live part. Raises Malformed("session_unknown")."""
        return self._opened(principal, endpoint, token)[1]

    def end(self, session: Session) -> None:
        """End a session and everything of it."""
        if self._live.pop(session.key, None) is not None:
            _count(self._callers, session.caller, -1)
            session.end()

    def hold(self, principal: Principal) -> Callable[[], None]:
        """Count a stream that a caller holds open by GET; return what ends it. Raises Malformed("streams_full")."""
        if self._held.get(principal.key, 0) >= self._bounds.streams:
            raise Malformed("streams_full")
        _count(self._held, principal.key, 1)
        return lambda: _count(self._held, principal.key, -1)

    def sweep(self) -> None:
        """End what is idle for too long or whose id has expired."""
        now_us, now_ns = self._clock.now_us(), self._clock.monotonic_ns()
        for session in list(self._live.values()):
            if now_us >= session.until_us:
                self.end(session)
            elif not session.idle:
                session.used_ns = now_ns
            elif now_ns - session.used_ns > self._bounds.idle_s * _NS:
                self.end(session)

    def close(self) -> None:
        """End every session: the worker stops."""
        for session in list(self._live.values()):
            self.end(session)

    # -- cursors --------------------------------------------------------------------------------------

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

    # -- inside --------------------------------------------------------------------------------------------

    def _opened(self, principal: Principal, endpoint: str, token: bytes) -> tuple[str, int]:
        try:
            value = self._sealer.open(
                _SESSION, principal.tenant, token.decode("ascii"), owner=_owner(principal, endpoint)
            )
        except (Malformed, UnicodeDecodeError):
            raise Malformed("session_unknown") from None
        if not isinstance(value, list) or len(value) != 3:
            raise Malformed("session_unknown")
        version, _, worker = value
        if not isinstance(version, str) or version not in SESSION_VERSIONS or not isinstance(worker, int):
            raise Malformed("session_unknown")
        return version, worker

    def _tick(self) -> None:
        if not self._ticking and self._tasks is not None:
            self._ticking = True
            self._tasks.spawn(self._beat(), "mcp.sessions")

    async def _beat(self) -> None:
        """Keep open streams alive and end what nobody uses; one task for all sessions of a worker."""
        while True:
            await asyncio.sleep(KEEP_ALIVE_S)
            self.sweep()
            now_ns = self._clock.monotonic_ns()
            for count, session in enumerate(list(self._live.values())):
                session.tidy(now_ns)
                if count % 256 == 255:
                    await asyncio.sleep(0)  # thousands of sessions must not hold up a request


def _count(table: dict[tuple[str, str, str], int], key: tuple[str, str, str], by: int) -> None:
    table[key] = table.get(key, 0) + by
    if table[key] <= 0:
        del table[key]


def _owner(principal: Principal, endpoint: str) -> str:
    return "\0".join((principal.issuer, *principal.key, endpoint))
