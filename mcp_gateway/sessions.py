"""Legacy sessions in front of us: sealed ids bound to their principal (SH-1, SH-2), and what is alive of each.

A session id is never authentication: the token of every request is verified first, and the id opens
only for the same tenant, subject, client and endpoint; for anyone else it is unknown (404). The id
names the worker that holds the live part (DESIGN §6b-2): what a client declared, its log level, its
running requests, the questions it was asked, its streams. That part lives in a bounded table and ends
with a DELETE, with idleness, or with the id; its client then opens another one.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from firewall.core.bounds import MIB
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.permit import Cleared
from firewall.core.ports import Clock
from firewall.core.principal import Principal
from firewall.net.runtime import Tasks
from firewall.state.vault import Sealer
from mcp_gateway.leash import Leash
from mcp_gateway.message import LOG_LEVELS, Answer, Call, RpcId
from mcp_gateway.streams import KEEP_ALIVE_S, PRIMED, RETRY_MS, Budget, Journal, Pipe, Stream
from mcp_gateway.versions import SESSION_VERSIONS

CURSOR_TTL_S: Final = 3600
SESSIONS_PER_CALLER: Final = 256
STREAMS_PER_CALLER: Final = 64  # held open by GET at the same time
RUNNING: Final = 64  # requests of one session at the same time
STREAMS_KEPT: Final = 32  # ended streams of one session whose events may still be asked for
KEPT_S: Final = 120
JOURNALS_BYTES: Final = 64 * MIB
DEFAULT_LEVEL: Final = "info"
_NS: Final = 1_000_000_000
_SESSION: Final = "mcp.session"
_CURSOR: Final = "mcp.cursor"


class Session:
    """The live part of one session.

    key: digest of its id. capabilities, client_info: as declared at ``initialize``, closed lists.
    level: set by ``logging/setLevel``, "" before. subscriptions: resource URIs that the client watches.
    running: requests by id and its type, since 1 and "1" are two ids. questions: ours, by our own ids.
    on_end: called once each when the session ends.
    """

    __slots__ = (
        "_journal", "_next", "_standalone", "_tag", "caller", "capabilities", "client_info", "ended", "endpoint",
        "initialized", "key", "level", "on_end", "opened", "questions", "running", "since_ns", "streams",
        "subscriptions", "until_us", "used_ns", "version", "worker",
    )  # fmt: skip

    def __init__(
        self, key: bytes, version: str, caller: tuple[str, str, str], endpoint: str, journal: Journal, now_ns: int
    ) -> None:
        self.key = key
        self.version = version
        self.caller = caller
        self.endpoint = endpoint
        self.worker = 0
        self.capabilities: JSONObject = {}
        self.client_info: JSONObject = {}
        self.initialized = False
        self.level = ""
        self.subscriptions: set[str] = set()
        self.running: dict[tuple[RpcId, bool], Leash] = {}
        self.questions: dict[str, asyncio.Future[Answer]] = {}
        self.streams: dict[int, Stream] = {}
        self.on_end: list[Callable[[], None]] = []
        self.opened: asyncio.Event | None = None
        self.until_us = 0
        self.since_ns = self.used_ns = now_ns
        self.ended = False
        self._journal = journal
        self._next = 1
        self._standalone: Stream | None = None
        self._tag = base64.urlsafe_b64encode(hashlib.sha256(b"stream" + key).digest()[:9]).decode()

    # -- requests ------------------------------------------------------------------------------------

    def begin(self, rpc_id: RpcId, leash: Leash) -> Callable[[], None]:
        """Note a request that runs; return what ends the note. Raises Malformed: rpc_id (it runs already), over_limit."""
        slot = (rpc_id, isinstance(rpc_id, str))
        if slot in self.running:
            raise Malformed("rpc_id")
        if len(self.running) >= RUNNING:
            raise Malformed("over_limit")
        self.running[slot] = leash

        def ended() -> None:
            self.running.pop(slot, None)

        return ended

    def cancel(self, rpc_id: RpcId) -> None:
        """End a running request, on ``notifications/cancelled``; an unknown id is ignored."""
        if (leash := self.running.get((rpc_id, isinstance(rpc_id, str)))) is not None:
            leash.pull()

    def answered(self, answer: Answer) -> bool:
        """Deliver a client's answer; return whether anybody waits for it."""
        waiting = self.questions.pop(answer.id, None) if isinstance(answer.id, str) else None
        if waiting is None or waiting.done():
            return False
        waiting.set_result(answer)
        return True

    def wants(self, body: JSON) -> bool:
        """Return whether a message may go out: a log below the level that the client set may not."""
        if not self.level or not isinstance(body, dict) or body.get("method") != "notifications/message":
            return True
        params = body.get("params")
        level = params.get("level") if isinstance(params, dict) else None
        return isinstance(level, str) and _SEVERITY.get(level, -1) >= _SEVERITY[self.level]

    def speaks(self, call: Call) -> Call:
        """Return a request with what this session knows and its client does not repeat.

        Without a set level a modern upstream is asked for ``info``: a legacy client expects logs, and
        which ones is the server's choice then (MCP 2025-11-25, logging).
        """
        return replace(
            call, version=self.version, capabilities=self.capabilities, log_level=self.level or DEFAULT_LEVEL
        )

    # -- streams ---------------------------------------------------------------------------------------

    @property
    def primes(self) -> bool:
        """Whether the client can read an event without data."""
        return self.version in PRIMED

    @property
    def listening(self) -> bool:
        """Whether the client holds the standalone stream open now."""
        return self._standalone is not None and self._standalone.pipe is not None

    def new_stream(self) -> Stream:
        """Return a new stream for the answer to one POST."""
        ended = [number for number, line in self.streams.items() if line.done]
        for number in ended[: max(0, len(ended) - STREAMS_KEPT + 1)]:
            self._journal.drop(self.streams.pop(number))
        line = self.streams[self._next] = Stream(self._tag, self._next, self._journal)
        self._next += 1
        return line

    def listen(self, pipe: Pipe) -> Stream:
        """Open the standalone stream. Raises Malformed("stream_open"): a client holds one already."""
        if self.listening:
            raise Malformed("stream_open")
        if self._standalone is not None:
            self._journal.drop(self.streams.pop(self._standalone.number))
        # Its number is new each time: an id of an earlier standalone stream must not open this one.
        line = self._standalone = self.new_stream()
        line.attach(pipe)
        self.prime(line)
        self.heard()
        return line

    def heard(self) -> None:
        """Tell whoever waits that the standalone stream is open."""
        if self.opened is not None:
            self.opened.set()
            self.opened = None

    def find(self, event_id: bytes) -> tuple[Stream, int]:
        """Return the stream and number of an event id of this session. Raises Malformed("stream_unknown")."""
        tag, _, rest = event_id.decode("latin-1").partition(".")
        name, _, number = rest.partition(".")
        if tag != self._tag or not (_is_number(name) and _is_number(number)):
            raise Malformed("stream_unknown")
        line = self.streams.get(int(name))
        if line is None or int(number) > line.last:
            raise Malformed("stream_unknown")
        if line.done and int(number) == line.last:
            raise Malformed("stream_unknown")  # nothing follows: a client that believes otherwise would ask for ever
        return line, int(number)

    def prime(self, line: Stream) -> None:
        """Give a client that can use it the id to come back with, before any event (SEP-1699)."""
        if self.primes and (pipe := line.pipe) is not None:
            pipe.put(RETRY_MS, line.id_of(line.last))

    def push(self, cleared: Cleared) -> bool:
        """Send what belongs to no running request on the standalone stream; return whether it was taken.

        A client that never opened one is told nothing; for one that has left for a while it is kept.
        """
        if self._standalone is None or not self.wants(cleared.body):
            return False
        self._standalone.emit(cleared)
        return True

    # -- end ----------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nobody listens."""
        return not self.running and not any(line.pipe is not None for line in self.streams.values())

    def end(self) -> None:
        """End everything at once: running requests with their upstreams, questions, streams."""
        if self.ended:
            return
        self.ended = True
        for leash in list(self.running.values()):
            leash.pull()
        for waiting in self.questions.values():
            waiting.cancel()
        self.questions.clear()
        for line in self.streams.values():
            line.finish()
        self._journal.drop()
        self.streams.clear()
        self._standalone = None
        self.heard()
        for call in self.on_end:
            call()
        self.on_end.clear()

    def tidy(self, now_ns: int) -> None:
        """Send keep-alives, and forget streams that ended a while ago."""
        for number, line in list(self.streams.items()):
            if (pipe := line.pipe) is not None:
                pipe.put(None)
            elif line.done:
                line.done_ns = line.done_ns or now_ns
                if now_ns - line.done_ns > KEPT_S * _NS:
                    self._journal.drop(self.streams.pop(number))


@dataclass(frozen=True, slots=True)
class Bounds:
    """ttl_s: of a sealed id. idle_s: after which a session without requests and streams ends. sessions: per worker."""

    ttl_s: int = 8 * 3600
    idle_s: int = 1800
    sessions: int = 10_000


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
        if self._callers.get(principal.key, 0) >= SESSIONS_PER_CALLER:
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
        if self._held.get(principal.key, 0) >= STREAMS_PER_CALLER:
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


_SEVERITY: Final = {name: rank for rank, name in enumerate(LOG_LEVELS)}


def _count(table: dict[tuple[str, str, str], int], key: tuple[str, str, str], by: int) -> None:
    table[key] = table.get(key, 0) + by
    if table[key] <= 0:
        del table[key]


def _is_number(text: str) -> bool:
    return 0 < len(text) <= 12 and text.isascii() and text.isdigit()


def _owner(principal: Principal, endpoint: str) -> str:
    return "\0".join((principal.issuer, *principal.key, endpoint))
