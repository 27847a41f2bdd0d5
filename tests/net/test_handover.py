"""Handing a request over to the worker that owns its state: as if it had come there; private, bounded, once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from firewall.core.errors import ConfigFault
from firewall.net import channel
from firewall.net.channel import AHEAD_BYTES, FRAME_BYTES, Channel, Kind, Peers, Seat, WorkerGone
from firewall.net.handover import HANDED, CutAnswer, Handover
from firewall.net.runtime import Tasks

SECRET = b"s" * 32
Application = Callable[[Any, Any, Any], Awaitable[None]]


class Node:
    """Workers of one node in this process: each with its own socket and its own application."""

    def __init__(self, directory: Path, applications: list[Application]) -> None:
        self.tasks = Tasks()
        count = len(applications)
        self.peers = [Peers(Seat(n, count, directory, SECRET), self.tasks) for n in range(count)]
        self.over = [Handover(peers, self.tasks) for peers in self.peers]
        for one, application in zip(self.over, applications, strict=True):
            one.use(application)


@contextlib.asynccontextmanager
async def node(directory: Path, *applications: Application) -> AsyncIterator[Node]:
    made = Node(directory, list(applications))
    for peers in made.peers:
        await peers.start()
    try:
        async with asyncio.timeout(20):
            yield made
    finally:
        for peers in made.peers:
            await peers.stop()
        await made.tasks.close()


class Client:
    """The asking worker's client: what it was sent, and whether it has left."""

    def __init__(self, *, room: asyncio.Event | None = None) -> None:
        self.sent: list[dict[str, Any]] = []
        self.left = asyncio.Event()
        self.heard = asyncio.Event()
        self.room = room

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if self.room is not None:
            await self.room.wait()
        self.sent.append(message)
        self.heard.set()

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.sent)


def scope(**changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "scheme": "https",
        "path": "/mcp/demo",
        "raw_path": b"/mcp/demo",
        "query_string": b"",
        "client": ("203.0.113.9", 4711),
        "headers": [(b"host", b"gate.example"), (b"authorization", b"Bearer t"), (b"x-odd", b"caf\xe9")],
    }
    return {**given, **changes}


async def nothing(_scope: Any, _receive: Any, _send: Any) -> None:
    raise AssertionError("this worker was not asked")


def saying(seen: list[Any], *pieces: bytes, status: int = 200) -> Application:
    async def application(given: Any, receive: Any, send: Any) -> None:
        seen.append((given, await receive()))
        await send({"type": "http.response.start", "status": status, "headers": [(b"x-owner", b"\xe9")]})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return application


async def test_the_owner_sees_the_whole_request_and_the_client_its_whole_answer(tmp_path: Path) -> None:
    seen: list[Any] = []
    async with node(tmp_path, nothing, saying(seen, b"one", b"two", status=207)) as made:
        client = Client()
        await made.over[0].to(1, scope(), b"\x00body", client.receive, client.send)
        ((given, first),) = seen
        assert first == {"type": "http.request", "body": b"\x00body", "more_body": False}
        asked = scope()
        assert {k: given[k] for k in asked} == asked
        start = client.sent[0]
        assert (start["status"], start["headers"]) == (207, [(b"x-owner", b"\xe9")])
        assert client.body == b"onetwo"
        assert client.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_a_channel_serves_one_request_after_another_and_many_at_once(tmp_path: Path) -> None:
    seen: list[Any] = []
    async with node(tmp_path, nothing, saying(seen, b"x" * 70_000)) as made:
        for _ in range(3):
            client = Client()
            await made.over[0].to(1, scope(), b"", client.receive, client.send)
            assert len(client.body) == 70_000
        assert len(made.peers[1]._serving) == 1
        clients = [Client() for _ in range(20)]
        await asyncio.gather(*(made.over[0].to(1, scope(), b"b", c.receive, c.send) for c in clients))
        assert all(len(c.body) == 70_000 for c in clients)
        assert len(made.peers[1]._serving) <= 20


async def test_the_last_bytes_of_an_answer_are_its_end(tmp_path: Path) -> None:
    """Else a client that has its whole length sends the next request too early, and the server hangs up on it."""

    async def plain(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"done"})

    async with node(tmp_path, nothing, plain) as made:
        client = Client()
        await made.over[0].to(1, scope(), b"", client.receive, client.send)
        assert client.sent[1:] == [{"type": "http.response.body", "body": b"done", "more_body": False}]


async def test_a_request_is_handed_over_once(tmp_path: Path) -> None:
    outcome: list[str] = []
    client = Client()

    async def passing_on(given: Any, receive: Any, send: Any) -> None:
        assert given[HANDED] is True
        try:
            await made.over[1].to(0, given, b"", receive, send)
        except WorkerGone as error:
            outcome.append(error.detail)
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with node(tmp_path, nothing, passing_on) as made:
        await made.over[0].to(1, scope(), b"", client.receive, client.send)
        assert outcome == ["handed over before"]
        assert client.sent[0]["status"] == 404


async def test_events_arrive_as_they_are_sent(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def streaming(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await go.wait()
        await send({"type": "http.response.body", "body": b"data: 2\n\n", "more_body": False})

    async with node(tmp_path, nothing, streaming) as made:
        client = Client()
        job = asyncio.create_task(made.over[0].to(1, scope(), b"", client.receive, client.send))
        while client.body != b"data: 1\n\n":
            client.heard.clear()
            await client.heard.wait()
        go.set()
        await job
        assert client.body == b"data: 1\n\ndata: 2\n\n"


async def test_a_client_that_leaves_is_seen_by_the_owner(tmp_path: Path) -> None:
    told: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def waiting(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"1", "more_body": True})
        told.set_result((await receive())["type"])
        await send({"type": "http.response.body", "body": b"late"})

    async with node(tmp_path, nothing, waiting) as made:
        client = Client()
        job = asyncio.create_task(made.over[0].to(1, scope(), b"", client.receive, client.send))
        await client.heard.wait()
        client.left.set()
        assert await told == "http.disconnect"
        await job
        assert b"late" not in client.body


async def test_an_owner_sees_no_client_leave_while_it_stays(tmp_path: Path) -> None:
    async def patient(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        gone = asyncio.create_task(receive())
        await asyncio.sleep(0.1)
        assert not gone.done()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})
        assert (await gone)["type"] == "http.disconnect"  # after its answer, as every server says it

    async with node(tmp_path, nothing, patient) as made:
        client = Client()
        await made.over[0].to(1, scope(), b"", client.receive, client.send)
        assert client.body == b"done"


async def test_a_reader_that_is_slow_holds_the_owner_back(tmp_path: Path) -> None:
    written = 0

    async def flooding(_scope: Any, receive: Any, send: Any) -> None:
        nonlocal written
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(400):
            await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
            written += 65_536
        await send({"type": "http.response.body", "body": b""})

    async with node(tmp_path, nothing, flooding) as made:
        room = asyncio.Event()
        client = Client(room=room)
        job = asyncio.create_task(made.over[0].to(1, scope(), b"", client.receive, client.send))
        before = -1
        while before != written or not written:
            before = written
            await asyncio.sleep(0.05)
        assert written < AHEAD_BYTES + 4 * 1024 * 1024
        room.set()
        await job
        assert len(client.body) == 400 * 65_536


async def test_an_owner_that_is_not_there_or_ends_before_its_answer_is_told_as_gone(tmp_path: Path) -> None:
    started = asyncio.Event()

    async def endless(_scope: Any, receive: Any, _send: Any) -> None:
        started.set()
        await receive()
        await asyncio.Event().wait()

    async with node(tmp_path, nothing, endless) as made:
        client = Client()
        job = asyncio.create_task(made.over[0].to(1, scope(), b"", client.receive, client.send))
        await started.wait()
        await made.peers[1].stop()
        with pytest.raises(WorkerGone):
            await job
        with pytest.raises(WorkerGone):
            await made.over[0].to(1, scope(), b"", client.receive, client.send)
        for nobody in (0, 2, -1):
            with pytest.raises(WorkerGone):
                await made.over[0].to(nobody, scope(), b"", client.receive, client.send)
        assert client.sent == []


async def test_an_answer_under_way_is_cut_when_its_owner_ends(tmp_path: Path) -> None:
    async def half(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError("an error of the application")

    async with node(tmp_path, nothing, half) as made:
        client = Client()
        with pytest.raises(CutAnswer):
            await made.over[0].to(1, scope(), b"", client.receive, client.send)
        assert client.body == b"half"
        assert client.sent[-1]["more_body"] is True, "a cut answer does not look whole"


# -- who may speak there ---------------------------------------------------------------------------------


async def test_the_socket_and_its_directory_are_the_owners_alone(tmp_path: Path) -> None:
    async with node(tmp_path / "run", nothing) as made:
        path = made.peers[0].seat.path(0)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not path.exists()


async def asked_with(directory: Path, secret: bytes, *, uid: int | None = None) -> bool:
    """Whether an asker with this secret gets its request through to worker 1."""
    seen: list[Any] = []
    tasks = Tasks()
    async with node(directory, nothing, saying(seen, b"ok")):
        stranger = Peers(Seat(0, 2, directory, secret), tasks, uid=uid)
        try:
            client = Client()
            await Handover(stranger, tasks).to(1, scope(), b"", client.receive, client.send)
        except WorkerGone:
            assert seen == []
            return False
        finally:
            await stranger.stop()
            await tasks.close()
    return True


async def test_without_the_secret_nothing_gets_through(tmp_path: Path) -> None:
    assert not await asked_with(tmp_path, b"x" * 32)
    assert await asked_with(tmp_path, SECRET)  # the twin: the same asker with the secret


async def test_a_socket_of_another_user_is_told_nothing(tmp_path: Path) -> None:
    assert not await asked_with(tmp_path, SECRET, uid=os.geteuid() + 1)


async def test_an_owner_that_cannot_prove_itself_never_sees_a_token(tmp_path: Path) -> None:
    heard = bytearray()

    async def impostor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            hello = await reader.read(64)
            heard.extend(hello)
            # Played back: the asker's own nonce as the owner's, and a proof made without the secret.
            writer.write(b"\x02" + (64).to_bytes(4, "big") + hello[5:37] + b"p" * 32)
            heard.extend(await reader.read(1024))
            writer.close()

    server = await asyncio.start_unix_server(impostor, str(tmp_path / "w1.sock"))
    tasks = Tasks()
    mine = Peers(Seat(0, 2, tmp_path, SECRET), tasks)
    client = Client()
    with pytest.raises(WorkerGone):
        await Handover(mine, tasks).to(1, scope(), b"", client.receive, client.send)
    assert b"Bearer" not in heard
    assert len(heard) == 37
    server.close()
    await mine.stop()
    await tasks.close()


RELAY = """
import os, socket, sys, threading
place, real = sys.argv[1:]
os.rename(place, real)
door = socket.socket(socket.AF_UNIX)
door.bind(place)
door.listen(8)
print("up", flush=True)

def pump(source, sink, keep):
    while data := source.recv(65536):
        if keep and b"Bearer" in data:
            print("heard", flush=True)
        sink.sendall(data)

while True:
    near, _ = door.accept()
    far = socket.socket(socket.AF_UNIX)
    far.connect(real)
    threading.Thread(target=pump, args=(far, near, False), daemon=True).start()
    threading.Thread(target=pump, args=(near, far, True), daemon=True).start()
"""


async def test_a_program_of_our_user_between_two_workers_hears_nothing(tmp_path: Path) -> None:
    """It knows no secret, so it passes both proofs on; whose they are, the kernel says."""
    seen: list[Any] = []
    async with node(tmp_path, nothing, saying(seen, b"one")) as made:
        place = str(made.peers[1].seat.path(1))
        relay = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", "-c", RELAY, place, f"{place}.real", stdout=asyncio.subprocess.PIPE
        )
        assert relay.stdout is not None
        assert await relay.stdout.readline() == b"up\n"
        client = Client()
        try:
            with pytest.raises(WorkerGone):
                await made.over[0].to(1, scope(), b"", client.receive, client.send)
        finally:
            relay.kill()
            heard = await relay.stdout.read()
            await relay.wait()
        assert (heard, seen, client.sent) == (b"", [], [])
        os.rename(f"{place}.real", place)
        await made.over[0].to(1, scope(), b"", client.receive, client.send)  # the twin: nobody between them
        assert client.body == b"one"


async def test_what_is_no_handshake_is_closed_unread(tmp_path: Path) -> None:
    async with node(tmp_path, nothing) as made:
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x04\xff\xff\xff\xff", b"\x01\x00\x00\x00\x20" + b"n" * 32 + b"\x04"):
            reader, writer = await asyncio.open_unix_connection(str(made.peers[0].seat.path(0)))
            writer.write(data + b"\x00" * 4096)
            async with asyncio.timeout(5):
                with contextlib.suppress(ConnectionError):
                    while await reader.read(4096):
                        pass
            writer.close()


HOLDER = """
import socket, sys
held = [socket.socket(socket.AF_UNIX) for _ in range(int(sys.argv[2]))]
for one in held:
    one.connect(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.asynccontextmanager
async def holding(path: Path, count: int) -> AsyncIterator[None]:
    """Run a program of our user that opens channels and proves nothing."""
    pipe = asyncio.subprocess.PIPE
    argv = (sys.executable, "-c", HOLDER, str(path), str(count))
    child = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert await child.stdout.readline() == b"held\n"
        yield
    finally:
        child.stdin.close()
        await child.wait()


@pytest.mark.parametrize(("each", "held"), [(4, 4), (100, 20)], ids=["bounded", "control off"])
async def test_channels_that_prove_nothing_are_few_of_one_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, each: int, held: int
) -> None:
    monkeypatch.setattr(channel, "UNPROVEN_EACH", each)
    async with node(tmp_path, nothing, nothing) as made:
        owner = made.peers[1]
        async with holding(owner.seat.path(1), 20):
            async with asyncio.timeout(5):
                while len(owner._unproven) < held:
                    await asyncio.sleep(0.005)
            for _ in range(20):
                await asyncio.sleep(0)
            assert len(owner._unproven) == held


async def test_programs_that_prove_nothing_keep_no_worker_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "UNPROVEN", 12)
    monkeypatch.setattr(channel, "CHANNELS", 4)  # those that prove nothing take no place of these
    seen: list[Any] = []
    async with node(tmp_path, nothing, saying(seen, b"ok")) as made:
        owner = made.peers[1]
        async with holding(owner.seat.path(1), 10), holding(owner.seat.path(1), 10):
            client = Client()
            await made.over[0].to(1, scope(), b"", client.receive, client.send)
            assert len(seen) == 1
            assert len(owner._unproven) <= 12
            assert len(owner._serving) == 1


async def test_a_frame_beyond_its_bound_ends_the_channel(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    channel = Channel(loop, limit=100)
    ours, theirs = await _pair(loop, channel)
    theirs.write(bytes([Kind.DATA]) + (101).to_bytes(4, "big"))
    with pytest.raises(WorkerGone):
        await channel.receive()
    ours.close()
    theirs.close()
    fresh = Channel(loop)
    mine, theirs = await _pair(loop, fresh)
    with pytest.raises(ValueError, match="frame"):
        fresh.put(Kind.DATA, b"x" * (FRAME_BYTES + 1))
    mine.close()
    theirs.close()


@hypothesis.given(
    frames=st.lists(st.tuples(st.integers(5, 255), st.binary(max_size=300)), max_size=8),
    sizes=st.lists(st.integers(1, 700), min_size=1),
)
def test_frames_are_the_same_however_their_bytes_arrive(frames: list[tuple[int, bytes]], sizes: list[int]) -> None:
    sent = b"".join(bytes([kind]) + len(data).to_bytes(4, "big") + data for kind, data in frames)

    async def read() -> list[tuple[int, bytes]]:
        channel = Channel(asyncio.get_running_loop())
        at = turn = 0
        while at < len(sent):
            size = sizes[turn % len(sizes)]
            channel.data_received(sent[at : at + size])
            at, turn = at + size, turn + 1
        return [await channel.receive() for _ in frames]

    assert asyncio.run(read()) == frames


async def _pair(
    loop: asyncio.AbstractEventLoop, channel: Channel
) -> tuple[asyncio.BaseTransport, asyncio.StreamWriter]:
    import socket

    left, right = socket.socketpair()
    left.setblocking(False)
    transport, _ = await loop.create_connection(lambda: channel, sock=left)
    _, writer = await asyncio.open_connection(sock=right)
    return transport, writer


async def test_a_path_too_long_for_a_socket_is_told_at_start(tmp_path: Path) -> None:
    tasks = Tasks()
    with pytest.raises(ConfigFault) as caught:
        await Peers(Seat(0, 1, tmp_path / ("d" * 120), SECRET), tasks).start()
    assert caught.value.code == "worker_socket"


def test_a_seat_never_shows_its_secret(tmp_path: Path) -> None:
    assert "s" * 32 not in repr(Seat(0, 2, tmp_path, SECRET))
    for bad in ((2, 2, SECRET), (0, 1, b"short")):
        with pytest.raises(ValueError, match="secret"):
            Seat(bad[0], bad[1], tmp_path, bad[2])  # type: ignore[arg-type]
