"""Writes of one turn of the loop: together, in order, bounded, whole before a close; no answer before its request."""

import asyncio
from typing import Any

import pytest

from firewall.core.errors import UpstreamFault
from firewall.net import outbox
from firewall.net.http1 import Connection
from firewall.net.outbox import Outbox, OutboxTransport

OTHERS = range(2)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Wire(asyncio.Transport):
    """A transport that remembers each write. log: shared by several, to see their order."""

    def __init__(self, log: list[tuple[str, bytes]] | None = None, name: str = "") -> None:
        super().__init__()
        self.log = [] if log is None else log
        self.name = name
        self.closing = False
        self.unsent = 0

    @property
    def written(self) -> list[bytes]:
        return [data for name, data in self.log if name == self.name]

    def write(self, data: Any) -> None:
        assert not self.closing, "a closed transport of uvloop raises here"
        self.log.append((self.name, data))

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True


async def test_what_one_turn_writes_leaves_at_its_end_in_one_piece_per_connection_and_in_order() -> None:
    log: list[tuple[str, bytes]] = []
    box = Outbox(OTHERS)
    first, second = (OutboxTransport(Wire(log, name), box) for name in ("first", "second"))
    first.write(b"a")
    second.write(b"b")
    first.write(b"c")
    assert log == []
    await asyncio.sleep(0)
    assert log == [("first", b"ac"), ("second", b"b")]
    first.write(b"d")
    await asyncio.sleep(0)
    assert log[2:] == [("first", b"d")]


@pytest.mark.parametrize(
    ("size", "count"), [(1, outbox.WRITES), (outbox.BYTES, 1), (outbox.BYTES // 4, 4)], ids=["writes", "bytes", "both"]
)
async def test_so_many_writes_or_bytes_do_not_wait_for_the_end_of_the_turn(size: int, count: int) -> None:
    box = Outbox(OTHERS)
    wires = [Wire() for _ in range(count)]
    for number, wire in enumerate(wires):
        assert not any(w.written for w in wires), number
        OutboxTransport(wire, box).write(b"x" * size)
    assert [wire.written for wire in wires] == [[b"x" * size]] * count
    late = Wire()
    OutboxTransport(late, box).write(b"y")  # the next begins to count anew
    assert not late.written
    await asyncio.sleep(0)
    assert late.written == [b"y"]


async def test_what_was_written_before_a_close_leaves_before_it_and_an_abort_drops_it() -> None:
    box, closed, cut = Outbox(OTHERS), Wire(), Wire()
    orderly, harsh = OutboxTransport(closed, box), OutboxTransport(cut, box)
    orderly.write(b"the end")
    harsh.write(b"never seen")
    orderly.close()
    harsh.abort()
    assert closed.written == [b"the end"]
    assert closed.closing
    assert orderly.is_closing()
    assert harsh.is_closing()
    orderly.write(b"too late")  # the inner one would raise, and keep the others from their turn
    other = Wire()
    OutboxTransport(other, box).write(b"mine")
    await asyncio.sleep(0)
    assert (closed.written, cut.written, other.written) == ([b"the end"], [], [b"mine"])


async def test_a_connection_that_is_lost_takes_nothing_and_holds_up_nobody() -> None:
    box, gone, there = Outbox(OTHERS), Wire(), Wire()
    OutboxTransport(gone, box).write(b"x")
    OutboxTransport(there, box).write(b"y")
    gone.closing = True
    await asyncio.sleep(0)
    assert (gone.written, there.written) == ([], [b"y"])


async def test_what_is_held_counts_as_unsent() -> None:
    wire = Wire()
    transport = OutboxTransport(wire, Outbox(OTHERS))
    wire.unsent = 5
    transport.write(b"abc")
    transport.write(b"d")
    assert (bool(transport.held), transport.get_write_buffer_size()) == (True, 9)
    await asyncio.sleep(0)
    assert (bool(transport.held), transport.get_write_buffer_size()) == (False, 5)


@pytest.mark.parametrize("left", [False, True], ids=["before", "the twin: after"])
async def test_bytes_that_come_before_a_request_has_left_are_no_answer_to_it(left: bool) -> None:
    """An upstream that says more than it was asked must not choose what the next caller reads."""
    wire = Wire()
    connection = Connection(asyncio.get_running_loop(), Outbox(OTHERS))
    connection.connection_made(wire)
    connection.send(b"POST / HTTP/1.1\r\n\r\n")
    if left:
        await asyncio.sleep(0)
        assert wire.written
    connection.data_received(OK)
    until = asyncio.get_running_loop().time() + 1
    if left:
        await connection.head(until)
        assert await connection.body(until) == b"{}"
    else:
        assert wire.closing
        connection.connection_lost(None)
        with pytest.raises(UpstreamFault, match="cut_stream"):
            await connection.head(until)
        await asyncio.sleep(0)
        assert not wire.written
    connection.close()


async def test_who_is_alone_waits_for_nobody_but_for_what_it_wrote_before() -> None:
    under_way, wire, other = {1, 2}, Wire(), Wire()
    box = Outbox(under_way)
    transport = OutboxTransport(wire, box)
    transport.write(b"a")
    under_way.pop()
    transport.write(b"b")  # not before what is held
    OutboxTransport(other, box).write(b"c")
    assert (wire.written, other.written) == ([], [b"c"])
    await asyncio.sleep(0)
    transport.write(b"d")
    assert wire.written == [b"ab", b"d"]
    transport.close()
    transport.write(b"too late")
    assert wire.written == [b"ab", b"d"]
