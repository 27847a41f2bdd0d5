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

    under_way: what may write; where it is one, there is nothing to wait for. Its connections' own, none else's.
    """

    __slots__ = ("loop", "under_way", "waiting", "waiting_bytes", "writes")

    def __init__(self, under_way: Sized, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """loop: None for the one that runs at the first write."""
        self.under_way = under_way
        self.loop = loop
        self.waiting: list[OutboxTransport] = []
        self.writes = self.waiting_bytes = 0

    def flush_later(self) -> None:
        """Flush when what is ready to run now has run."""
        if self.loop is None:
            self.loop = asyncio.get_running_loop()
        self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write everything, connection by connection."""
        waiting, self.waiting = self.waiting, []
        self.writes = self.waiting_bytes = 0
        for transport in waiting:
            transport.flush()


class OutboxTransport(asyncio.Transport):
    """A transport whose writes go through an outbox; everything else is that of the one inside."""

    __slots__ = ("_inner", "_outbox", "held", "is_closing")

    def __init__(self, inner: asyncio.Transport, outbox: Outbox) -> None:
        super().__init__()
        self._inner = inner
        self._outbox = outbox
        self.is_closing = inner.is_closing  # type: ignore[method-assign]  # asked several times per request
        self.held: list[bytes] = []  # what was written here that the kernel has not been given yet; read it only

    def write(self, data: bytes) -> None:  # type: ignore[override]  # of no mutable buffer: it would be read later
        """Write at the end of the turn, or earlier."""
        held, outbox = self.held, self._outbox
        if not held:
            if len(outbox.under_way) < 2:
                if not self.is_closing():
                    self._inner.write(data)
                return
            if not outbox.waiting:
                outbox.flush_later()
            outbox.waiting.append(self)
        held.append(data)
        outbox.writes += 1
        outbox.waiting_bytes += len(data)
        if outbox.writes >= WRITES or outbox.waiting_bytes >= BYTES:
            outbox.flush()

    def flush(self) -> None:
        """Write what is held, in one piece. A connection that is closed or lost takes nothing."""
        held = self.held
        if held:
            self.held = []
            if not self.is_closing():
                self._inner.write(held[0] if len(held) == 1 else b"".join(held))

    def close(self) -> None:
        """Write what is held, then close."""
        self.flush()
        self._inner.close()

    def abort(self) -> None:
        """Drop what is held, and the connection."""
        self.held = []
        self._inner.abort()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes the kernel has not taken yet, those held among them."""
        unsent = self._inner.get_write_buffer_size()
        return unsent + sum(map(len, self.held)) if self.held else unsent

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See asyncio.Transport."""
        return self._inner.get_extra_info(name, default)

    def pause_reading(self) -> None:
        """See asyncio.Transport."""
        self._inner.pause_reading()

    def resume_reading(self) -> None:
        """See asyncio.Transport."""
        self._inner.resume_reading()
