"""What is alive of one legacy session: its running requests, the questions it was asked, and its streams."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.permit import Cleared
from mcp_gateway.leash import Leash
from mcp_gateway.message import LOG_LEVELS, Answer, Call, RpcId
from mcp_gateway.pipe import Pipe
from mcp_gateway.streams import PRIMED, RETRY_MS, Journal, Stream

RUNNING: Final = 64  # requests of one session at the same time
STREAMS_KEPT: Final = 32  # ended streams of one session whose events may still be asked for
KEPT_S: Final = 120
DEFAULT_LEVEL: Final = "info"
_NS: Final = 1_000_000_000
_SEVERITY: Final = {name: rank for rank, name in enumerate(LOG_LEVELS)}


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


def _is_number(text: str) -> bool:
    return 0 < len(text) <= 12 and text.isascii() and text.isdigit()
