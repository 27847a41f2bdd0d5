"""Private channels between the workers of one node: framed, bounded, mutually proven, over unix sockets.

Each worker listens on ``<directory>/w<index>.sock`` (0600 in a 0700 directory). Two things are asked of
whoever is at the other end, whichever end that is:

- the kernel says that it runs as our own user (SO_PEERCRED, unix(7));
- it knows the secret that the parent gave its workers when it started them. The secret is in no file and
  in no environment, so that a stdio child, which is our user too, cannot speak here even unsandboxed.

Handshake (HMAC-SHA256, fresh 32-byte nonces, one label per direction so that no proof can be played back)::

    asker   HELLO      nonce a
    owner   CHALLENGE  nonce b, HMAC(secret, "owner" index p q a b)
    asker   PROOF      HMAC(secret, "asker" index p q a b)

p and q are the asker's and the owner's process ids: each puts its own, and of the other what the kernel says
(SO_PEERCRED). A program between them that passes the proofs on is another process, so they do not hold.

Until it holds, a channel costs the owner little and keeps nobody out: those that are unproven are counted by
themselves, per process at the other end and together, and the oldest of the process that has most gives way.

After it a channel carries one job at a time: OPEN (a JSON head that names a service), frames both ways,
END from the owner; then it may carry the next. Leaving early is closing the channel. A frame is one byte
of kind, four of length (big endian), and its bytes.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import socket
import struct
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final, cast

import orjson

from firewall.core.bounds import KIB, UPSTREAM_BODY_BYTES
from firewall.core.errors import BartizanError, ConfigFault
from firewall.core.jsonvalue import JSONObject
from firewall.net.egress_proxy import unix_door
from firewall.net.runtime import Tasks

FRAME_BYTES: Final = UPSTREAM_BODY_BYTES + 64 * KIB
AHEAD_BYTES: Final = 256 * KIB  # whole frames that wait for their reader; beyond it the socket is not read
IDLE: Final = 32  # kept channels to one worker
CHANNELS: Final = 4096  # proven ones, open at once at one worker
UNPROVEN: Final = 512  # at once at one worker; as many as wait to be accepted
UNPROVEN_EACH: Final = 256  # of them, of one process
CONNECT_S: Final = 1.0
PROVE_S: Final = 2.0
PATH_BYTES: Final = 107  # sun_path holds 108, the last is NUL
_HEAD: Final = struct.Struct(">BI")
_NONCE: Final = 32
_MAC: Final = 32
_UCRED: Final = struct.Struct("3i")


class Kind(IntEnum):
    """What a frame is. From DATA on, a service gives its own frames their meaning."""

    HELLO = 1
    CHALLENGE = 2
    PROOF = 3
    OPEN = 4
    END = 5
    FAULT = 6
    HEAD = 7
    DATA = 8
    LAST = 9


class WorkerGone(BartizanError):
    """The other worker does not answer, ended, or is none of ours."""

    def __init__(self, detail: str = "") -> None:
        super().__init__("worker_gone", detail)


@dataclass(frozen=True, slots=True)
class Seat:
    """A worker's place among the workers of its node.

    index: 0 … workers-1. directory: where the sockets stand. secret: 32 random bytes, the same for all
    workers that one parent started, known to nobody else.
    """

    index: int
    workers: int
    directory: Path
    secret: bytes

    def __post_init__(self) -> None:
        """Raise ValueError."""
        if not 0 <= self.index < self.workers or len(self.secret) != _MAC:
            raise ValueError("an index below workers, and 32 secret bytes")

    def __repr__(self) -> str:
        return f"Seat({self.index}/{self.workers})"

    def path(self, worker: int) -> Path:
        """Return a worker's socket."""
        return self.directory / f"w{worker}.sock"


class Channel(asyncio.Protocol):
    """One connection, either end. `send` and `receive` frames; raises WorkerGone once it is lost."""

    __slots__ = ("_ahead", "_buffer", "_frames", "_loop", "_opened", "_room", "_transport", "_waiter", "limit", "lost")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        limit: int = FRAME_BYTES,
        opened: Callable[[Channel], None] | None = None,
    ) -> None:
        """opened: told when the connection stands, so that `peer` is known."""
        self._loop = loop
        self._opened = opened
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._frames: deque[tuple[int, bytes]] = deque()
        self._ahead = 0
        self._waiter: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self.limit = limit
        self.lost: asyncio.Future[None] = loop.create_future()

    @property
    def idle(self) -> bool:
        """Whether another job may follow: open, and nothing is left over from the last one."""
        return not (self.lost.done() or self._frames or self._buffer)

    @property
    def peer(self) -> tuple[int, int]:
        """Process and user at the other end; −1 for what the kernel does not say."""
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        return peer_of(sock) if sock is not None else (-1, -1)

    async def send(self, kind: Kind, payload: bytes = b"") -> None:
        """Write one frame; waits while the other end does not read. Raises WorkerGone."""
        self.put(kind, payload)
        while self._room is not None and not self.lost.done():
            await asyncio.wait({self._room, self.lost}, return_when=asyncio.FIRST_COMPLETED)
        if self.lost.done():
            raise WorkerGone("the channel is closed")

    def put(self, kind: Kind, payload: bytes = b"") -> None:
        """Write one frame without waiting: for what belongs together. Raises WorkerGone."""
        if self._transport is None or self.lost.done():
            raise WorkerGone("the channel is closed")
        if len(payload) > FRAME_BYTES:
            raise ValueError("longer than a frame")
        self._transport.write(_HEAD.pack(kind, len(payload)) + payload)

    async def receive(self) -> tuple[int, bytes]:
        """Return the next frame. Raises WorkerGone when the channel ends first."""
        while not self._frames:
            if self.lost.done():
                raise WorkerGone("the channel ended")
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        kind, payload = self._frames.popleft()
        self._ahead -= len(payload)
        if self._ahead <= AHEAD_BYTES and self._transport is not None and not self.lost.done():
            self._transport.resume_reading()
        return kind, payload

    async def expect(self, kind: Kind) -> bytes:
        """Return the payload of the next frame, which must be of a kind. Raises WorkerGone."""
        found, payload = await self.receive()
        if found != kind:
            self.close()
            raise WorkerGone("a frame out of order")
        return payload

    def close(self) -> None:
        """End the channel at once; what is not written is lost. Idempotent."""
        if self._transport is not None:
            self._transport.abort()
        self._end()

    def shut(self) -> None:
        """End the channel once everything is written."""
        if self._transport is not None:
            self._transport.close()

    # -- asyncio.Protocol ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one by duck typing alone
        if self._opened is not None:
            self._opened(self)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= _HEAD.size:
            kind, length = _HEAD.unpack_from(buffer, at)
            if length > self.limit:
                self.close()
                return
            ends = at + _HEAD.size + length
            if len(buffer) < ends:
                break
            if kind == Kind.PROOF:
                self.limit = FRAME_BYTES  # what follows in the same read is looked at once the proof held
            self._frames.append((kind, bytes(buffer[at + _HEAD.size : ends])))
            self._ahead += length
            at = ends
        if at:
            del buffer[:at]
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)
        if self._ahead > AHEAD_BYTES and self._transport is not None:
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def pause_writing(self) -> None:
        if self._room is None:
            self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def _end(self) -> None:
        if not self.lost.done():
            self.lost.set_result(None)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        self.resume_writing()


Service = Callable[[Channel, JSONObject], Awaitable[None]]
"""One job at its owner: (channel, the OPEN head). Sends its frames; END is sent for it when it returns."""


class Peers:
    """The other workers of the node, as seen from one. `offer` services, `start`, `open` jobs elsewhere."""

    def __init__(self, seat: Seat, tasks: Tasks, *, uid: int | None = None) -> None:
        """uid: who may be at the other end; our own user unless a test says otherwise."""
        self.seat = seat
        self._tasks = tasks
        self._uid = os.geteuid() if uid is None else uid
        self._services: dict[str, Service] = {}
        self._server: asyncio.Server | None = None
        self._serving: set[Channel] = set()
        self._unproven: dict[Channel, int] = {}  # → the process at the other end; in order of arrival
        self._idle: dict[int, list[Channel]] = {}
        self._using: set[Channel] = set()
        self._stopped = False

    def offer(self, name: str, service: Service) -> None:
        """Serve jobs of a name."""
        self._services[name] = service

    async def start(self) -> None:
        """Listen. Raises ConfigFault("worker_socket")."""
        path = self.seat.path(self.seat.index)
        if len(os.fsencode(path)) > PATH_BYTES:
            raise ConfigFault(
                "worker_socket", "the path of a worker's socket is too long", fix="use a shorter state_dir"
            )
        loop = asyncio.get_running_loop()
        try:
            self.seat.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.seat.directory.stat().st_mode & 0o077:
                self.seat.directory.chmod(0o700)
            path.unlink(missing_ok=True)  # of a worker of this number that died
            self._server = await loop.create_unix_server(self._accept, sock=unix_door(str(path)), backlog=512)
        except OSError as error:
            raise ConfigFault(
                "worker_socket", f"{path}: {error.strerror}", fix="set state_dir to a directory that you may write"
            ) from None

    async def stop(self) -> None:
        """Close the socket and every channel."""
        self._stopped = True
        if self._server is not None:
            self._server.close()
            self.seat.path(self.seat.index).unlink(missing_ok=True)
        kept = [channel for channels in self._idle.values() for channel in channels]
        for channel in (*self._serving, *self._unproven, *self._using, *kept):
            channel.close()
        self._idle.clear()
        await asyncio.sleep(0)  # an aborted transport lets go of its socket in the next turn of the loop

    async def open(self, worker: int, service: str, head: JSONObject) -> Channel:
        """Begin a job at another worker; give the channel back with `done`. Raises WorkerGone."""
        if worker == self.seat.index or not 0 <= worker < self.seat.workers or self._stopped:
            raise WorkerGone("there is no such worker")
        asked = orjson.dumps({"service": service, **head})
        kept = self._idle.get(worker)
        while kept:
            channel = kept.pop()
            if channel.idle:
                self._using.add(channel)
                channel.put(Kind.OPEN, asked)
                return channel
            channel.close()
        channel = await self._connect(worker)
        self._using.add(channel)
        channel.put(Kind.OPEN, asked)
        return channel

    def done(self, worker: int, channel: Channel, *, whole: bool) -> None:
        """Take a channel back. whole: its END was read, so that the next job may use it."""
        self._using.discard(channel)
        kept = self._idle.setdefault(worker, [])
        if whole and channel.idle and len(kept) < IDLE and not self._stopped:
            kept.append(channel)
        else:
            channel.close()

    # -- the asker's end -----------------------------------------------------------------------------

    async def _connect(self, worker: int) -> Channel:
        loop = asyncio.get_running_loop()
        made: Channel | None = None
        try:
            async with asyncio.timeout(CONNECT_S):
                _, channel = await loop.create_unix_connection(lambda: Channel(loop), str(self.seat.path(worker)))
                made = channel
                await self._prove(channel, worker)
                return channel
        except (OSError, TimeoutError, WorkerGone) as error:
            if made is not None:
                made.close()
            raise WorkerGone(type(error).__name__) from None
        except BaseException:
            if made is not None:
                made.close()
            raise

    async def _prove(self, channel: Channel, worker: int) -> None:
        pid, uid = channel.peer
        if uid != self._uid:
            raise WorkerGone("another user listens there")
        pids = (os.getpid(), pid)
        mine = os.urandom(_NONCE)
        await channel.send(Kind.HELLO, mine)
        answer = await channel.expect(Kind.CHALLENGE)
        theirs, proof = answer[:_NONCE], answer[_NONCE:]
        # The owner proves itself first: a token never goes to a socket that somebody put in its place.
        if len(answer) != _NONCE + _MAC or not hmac.compare_digest(
            proof, self._mac(b"owner", worker, pids, mine, theirs)
        ):
            raise WorkerGone("it is none of ours")
        await channel.send(Kind.PROOF, self._mac(b"asker", worker, pids, mine, theirs))

    def _mac(self, side: bytes, owner: int, pids: tuple[int, int], asker_nonce: bytes, owner_nonce: bytes) -> bytes:
        text = b"bartizan channel 2 %b %d %d %d " % (side, owner, *pids) + asker_nonce + owner_nonce
        return hmac.digest(self.seat.secret, text, "sha256")

    # -- the owner's end -----------------------------------------------------------------------------

    def _accept(self) -> Channel:
        return Channel(asyncio.get_running_loop(), limit=_NONCE + _MAC, opened=self._receive)

    def _receive(self, channel: Channel) -> None:
        pid, uid = channel.peer
        if self._stopped or uid != self._uid:
            asyncio.get_running_loop().call_soon(channel.close)
            return
        held = Counter(self._unproven.values())
        if held[pid] >= UNPROVEN_EACH:
            self._drop(pid)
        elif len(self._unproven) >= UNPROVEN:
            self._drop(held.most_common(1)[0][0])
        self._unproven[channel] = pid
        self._tasks.spawn(self._serve(channel, pid), "net.channel")

    def _drop(self, pid: int) -> None:
        """Close the unproven channel of a process that has waited longest; an honest one proves itself at once."""
        oldest = next(channel for channel, whose in self._unproven.items() if whose == pid)
        del self._unproven[oldest]
        oldest.close()

    async def _serve(self, channel: Channel, pid: int) -> None:
        try:
            async with asyncio.timeout(PROVE_S):
                proven = await self._proves(channel, pid)
            self._unproven.pop(channel, None)
            if not proven or len(self._serving) >= CHANNELS or self._stopped:
                return
            self._serving.add(channel)
            while True:
                await self._job(channel)
        except (WorkerGone, TimeoutError):
            pass
        finally:
            self._unproven.pop(channel, None)
            self._serving.discard(channel)
            channel.close()

    async def _proves(self, channel: Channel, pid: int) -> bool:
        theirs = await channel.expect(Kind.HELLO)
        if len(theirs) != _NONCE:
            return False
        mine, pids = os.urandom(_NONCE), (pid, os.getpid())
        index = self.seat.index
        await channel.send(Kind.CHALLENGE, mine + self._mac(b"owner", index, pids, theirs, mine))
        proof = await channel.expect(Kind.PROOF)
        return hmac.compare_digest(proof, self._mac(b"asker", index, pids, theirs, mine))

    async def _job(self, channel: Channel) -> None:
        head = orjson.loads(await channel.expect(Kind.OPEN))
        service = self._services.get(head.pop("service", ""))
        if service is None:
            raise WorkerGone("no such service")
        await service(channel, head)
        await channel.send(Kind.END)


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """Return process and user at the other end of a connected unix socket; −1 when the kernel does not say."""
    try:
        pid, uid, _gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    except (OSError, AttributeError, struct.error):
        return -1, -1
    return int(pid), int(uid)
