"""A stdio link whose child another worker owns: a Link like any other, over the channel between workers.

`owner` has the other end, and the argument why the owner writes these bytes without deciding again. Each
operation is one job on a channel of its own; one more channel is held open for the life of the link: the
owner says END on it when the child ends, and closing it gives the lane back.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import orjson

from firewall.core.action import Headers
from firewall.core.errors import UpstreamFault, fault
from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import Border, Cleared, Refusal
from firewall.net.channel import Channel, Kind, Peers, WorkerGone
from mcp_gateway.bridge import Opened
from mcp_gateway.exchanges import Exchange, parsed
from mcp_gateway.house import Refused
from mcp_gateway.settings import UpstreamSpec

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from mcp_gateway.exchanges import Messages

SERVICE: Final = "mcp.stdio"
LANE: Final = 2**32  # request ids of one remote link; the owner's own lie below the first lane
LANES: Final = 2**20  # with LANE, every id stays below 2^53 (RFC 7493 2.2)
END_S: Final = 0.5


class Moved(Exception):
    """The asked worker does not own the child."""


class RemoteLink:
    """A lane of a child that another worker owns; see `mcp_gateway.upstream.Link`."""

    transport = "stdio"

    def __init__(self, peers: Peers, border: Border, worker: int, slot: str, held: Channel, told: Any) -> None:
        self._peers = peers
        self._border = border
        self._slot = slot
        self._held = held
        self._lane = int(told["lane"])
        self._life = str(told["life"])
        self._ids = 0
        self._closed = False
        self.worker = worker
        self.opened = Opened(**told["opened"])
        self.declared: JSONObject = dict(told["declared"])

    @classmethod
    async def to(
        cls, peers: Peers, border: Border, worker: int, slot: str, spec: UpstreamSpec, asked: JSONObject
    ) -> RemoteLink:
        """Return an open link. slot: what bytes are cleared for. Raises WorkerGone, Moved, UpstreamFault, Refused."""
        head: JSONObject = {"op": "open", "upstream": spec.name, "spec": digest(spec), **asked}
        channel = await peers.open(worker, SERVICE, head)
        try:
            kind, payload = await channel.receive()
            if kind == Kind.FAULT:
                raise told_by(payload)
            if kind != Kind.HEAD:
                raise WorkerGone("a frame out of order")
            return cls(peers, border, worker, slot, channel, orjson.loads(payload))
        except BaseException:
            peers.done(worker, channel, whole=False)
            raise

    @property
    def alive(self) -> bool:
        """Whether the owner and its child live."""
        return not self._closed and self._held.idle

    def next_id(self) -> int:
        """Return the next id of this lane; never repeated within the child."""
        self._ids += 1
        return self._lane * LANE + self._ids

    def exchange(self, rpc_id: int, cleared: Cleared, credentials: Headers) -> Exchange:
        """See Link.exchange. Leaving early stops listening at the owner too."""
        return RemoteJob(self, "exchange", cleared)

    async def notify(self, cleared: Cleared, credentials: Headers) -> None:
        """See Link.notify."""
        async with RemoteJob(self, "notify", cleared) as job:
            async for _ in job:
                pass

    def listen(self, credentials: Headers) -> AbstractAsyncContextManager[Messages]:
        """See Link.listen."""
        return RemoteJob(self, "listen", None)

    async def close(self) -> None:
        """Give the lane back; the child ends with its last user. Idempotent."""
        if not self._closed:
            self._closed = True
            self._peers.done(self.worker, self._held, whole=False)

    async def begin(self, op: str, cleared: Cleared | None) -> Channel:
        """Return the channel of a job that the owner was asked for. Raises UpstreamFault."""
        head: JSONObject = {"op": op, "lane": self._lane, "life": self._life}
        if cleared is not None:
            proof = self._border.seal(cleared, self._slot).hex()
            head |= {"proof": proof, "decision": cleared.decision_id, "record": cleared.record_uid}
        if not self.alive:
            raise UpstreamFault("cut_stream", "the child or its owner ended")
        try:
            channel = await self._peers.open(self.worker, SERVICE, head)
        except WorkerGone:
            raise UpstreamFault("unreachable", "the child's owner does not answer") from None
        try:
            if cleared is not None:
                await channel.send(Kind.DATA, cleared.payload)
        except BaseException as error:
            self.end(channel, whole=False)
            if isinstance(error, WorkerGone):
                raise UpstreamFault("cut_stream", "the child's owner ended") from None
            raise
        return channel

    def end(self, channel: Channel, *, whole: bool) -> None:
        """Take a job's channel back."""
        self._peers.done(self.worker, channel, whole=whole)


class RemoteJob:
    """One operation at the owner: an `exchanges.Exchange`, its own context and iterator."""

    __slots__ = ("_answered", "_channel", "_cleared", "_link", "_op", "_whole")

    def __init__(self, link: RemoteLink, op: str, cleared: Cleared | None) -> None:
        self._link = link
        self._op = op
        self._cleared = cleared
        self._channel: Channel | None = None
        self._answered = self._whole = False

    async def __aenter__(self) -> RemoteJob:
        self._channel = await self._link.begin(self._op, self._cleared)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> RemoteJob:
        return self

    @property
    def messages(self) -> RemoteJob:
        """See Exchange.messages."""
        return self

    def more(self) -> JSONObject | None:
        """See Exchange.more: what the owner sent has to be waited for, one message at a time."""
        return None

    async def __anext__(self) -> JSONObject:
        """Return what the child said next. Raises UpstreamFault, Refused."""
        if self._channel is None or self._whole:
            raise StopAsyncIteration
        try:
            kind, payload = await self._channel.receive()
        except WorkerGone:
            raise UpstreamFault("cut_stream", "the child's owner ended") from None
        if kind == Kind.END:
            self._whole = True
            raise StopAsyncIteration
        if kind == Kind.FAULT:
            raise told_by(payload)
        value = parsed(payload)
        self._answered = "method" not in value
        return value

    async def aclose(self) -> None:
        """Leave: the owner stops listening. Idempotent."""
        channel, self._channel = self._channel, None
        if channel is None:
            return
        try:
            if self._answered and not self._whole:
                # The END of an answered job is on its way; read, it lets the channel carry the next job.
                with contextlib.suppress(TimeoutError, WorkerGone):
                    async with asyncio.timeout(END_S):
                        await channel.expect(Kind.END)
                        self._whole = True
        finally:
            self._link.end(channel, whole=self._whole)


def told_by(payload: bytes) -> Exception:
    """Return what an owner's FAULT says, to be raised."""
    told: Any = orjson.loads(payload)
    if told.get("moved"):
        return Moved()
    if "refused" in told:
        return Refused(Refusal(fault(str(told["refused"])), str(told.get("decision", ""))))
    return UpstreamFault(str(told.get("code", "unreachable")))


def digest(spec: UpstreamSpec) -> str:
    """Return a digest of a configuration: two workers that differ in it do not share a child."""
    # A set has no order of its own: two workers would write the same one differently.
    told = repr((replace(spec, asks=frozenset()), sorted(spec.asks)))
    return hashlib.sha256(told.encode()).hexdigest()
