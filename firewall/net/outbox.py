"""What one turn of the event loop writes to its sockets, given to the kernel together.

uvloop writes at once, and a write wakes whoever reads at the other end. In a busy loop that reader has gone
back to sleep between two writes, so that each pays for a wake-up of its own, which costs more than the bytes
do. Here they wait until what was ready to run has run, or `WRITES` of them or `BYTES` are there. Who is
alone waits for nobody.

INVARIANT: bytes of one connection stay in order, and what was written before `close` leaves before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sized
from typing import Any, Final

from firewall.core.bounds import KIB

WRITES: Final = 16
BYTES: Final = 32 * KIB  # much was worked on for that long: nobody waits for the rest of the turn


class Outbox:
    """The writes of one turn, of any number of connections of one loop.

    under_way: what may write; where it is one, there is nothing to wait for.
    """

    __slots__ = ("_bytes", "_under_way", "_waiting", "_writes")

    def __init__(self, under_way: Sized) -> None:
        self._under_way = under_way
        self._waiting: list[OutboxTransport] = []
        self._writes = self._bytes = 0

    @property
    def alone(self) -> bool:
        """Whether nobody else may write in this turn."""
        return len(self._under_way) < 2

    def add(self, transport: OutboxTransport, size: int, *, first: bool) -> None:
        """Remember that a connection has something to write. first: it had nothing before."""
        if first:
            if not self._waiting:
                asyncio.get_running_loop().call_soon(self.flush)
            self._waiting.append(transport)
        self._writes += 1
        self._bytes += size
        if self._writes >= WRITES or self._bytes >= BYTES:
            self.flush()

    def flush(self) -> None:
        """Write everything, connection by connection."""
        waiting, self._waiting = self._waiting, []
        self._writes = self._bytes = 0
        for transport in waiting:
            transport.flush()


class OutboxTransport(asyncio.Transport):
    """A transport whose writes go through an outbox; everything else is that of the one inside."""

    __slots__ = ("_held", "_inner", "_outbox")

    def __init__(self, inner: asyncio.Transport, outbox: Outbox) -> None:
        super().__init__()
        self._inner = inner
        self._outbox = outbox
        self._held: list[bytes] = []

    @property
    def holding(self) -> bool:
        """Whether something was written here that the kernel has not been given yet."""
        return bool(self._held)

    def write(self, data: bytes) -> None:  # type: ignore[override]  # of no mutable buffer: it would be read later
        """Write at the end of the turn, or earlier."""
        held = self._held
        if self._outbox.alone and not held:
            if not self._inner.is_closing():
                self._inner.write(data)
            return
        held.append(data)
        self._outbox.add(self, len(data), first=len(held) == 1)

    def flush(self) -> None:
        """Write what is held, in one piece. A connection that is closed or lost takes nothing."""
        held, self._held = self._held, []
        if held and not self._inner.is_closing():
            self._inner.write(held[0] if len(held) == 1 else b"".join(held))

    def close(self) -> None:
        """Write what is held, then close."""
        self.flush()
        self._inner.close()

    def abort(self) -> None:
        """Drop what is held, and the connection."""
        self._held = []
        self._inner.abort()

    def is_closing(self) -> bool:
        """See asyncio.Transport."""
        return self._inner.is_closing()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes the kernel has not taken yet, those held among them."""
        return sum(map(len, self._held)) + self._inner.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See asyncio.Transport."""
        return self._inner.get_extra_info(name, default)

    def pause_reading(self) -> None:
        """See asyncio.Transport."""
        self._inner.pause_reading()

    def resume_reading(self) -> None:
        """See asyncio.Transport."""
        self._inner.resume_reading()
