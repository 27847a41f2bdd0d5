"""Lines on file descriptors: what a client that started us writes to our stdin, and reads from our stdout.

One thread each, on purpose: setting a descriptor non-blocking changes it for everyone who shares it (the
terminal, the shell), and an event loop cannot watch files. Both ends hold back: a client that does
not read stops what is written to it, and one that writes too fast waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Final

from firewall.core.bounds import BODY_BYTES, KIB

CHUNK: Final = 64 * KIB
WAITING: Final = 64

TOO_LONG: Final = b"\n"
"""Yielded in place of a line beyond the bound: no line holds a line end, so it cannot be mistaken for one."""


class LineReader:
    """Lines of a descriptor, without their ends. An unfinished line at the end counts; empty ones do not.

    max_bytes: inclusive, per line; a longer one is skipped as it comes and yielded as `TOO_LONG`.
    """

    def __init__(self, fd: int, *, max_bytes: int = BODY_BYTES) -> None:
        self._fd = fd
        self._max = max_bytes
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(WAITING)
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield lines until the end; the thread that waits for them is a daemon, since a read cannot be ended."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, args=(loop,), name="stdin", daemon=True).start()
        try:
            while (line := await self._queue.get()) is not None:
                yield line
        finally:
            self._closed = True

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        partial = bytearray()
        skipping = False
        try:
            while not self._closed:
                chunk = os.read(self._fd, CHUNK)
                if not chunk:
                    if partial:
                        self._put(loop, bytes(partial))
                    break
                *ended, rest = chunk.split(b"\n")
                for part in ended:
                    if skipping:
                        skipping = False
                        continue
                    line = bytes(partial) + part
                    partial.clear()
                    line = line.rstrip(b"\r")
                    if line:
                        self._put(loop, line if len(line) <= self._max else TOO_LONG)
                if not skipping:
                    partial += rest
                    if len(partial) > self._max:
                        partial.clear()
                        skipping = True
                        self._put(loop, TOO_LONG)
        except OSError:
            pass  # a descriptor that cannot be read has ended
        with contextlib.suppress(RuntimeError):
            self._put(loop, None)

    def _put(self, loop: asyncio.AbstractEventLoop, line: bytes | None) -> None:
        """Hand one line over and wait until it was taken into the queue. RuntimeError: the loop has ended."""
        if self._closed:
            return
        coroutine = self._queue.put(line)
        try:
            asyncio.run_coroutine_threadsafe(coroutine, loop).result()
        except (RuntimeError, CancelledError):
            coroutine.close()
            self._closed = True


class LineWriter:
    """Whole lines to a descriptor, one at a time. `write` returns when the kernel has the line."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stdout")

    async def write(self, line: bytes) -> None:
        """Write a line; what is one must hold no line end. Raises OSError when nobody reads any more."""
        async with self._lock:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._all, line + b"\n")

    def close(self) -> None:
        """Write nothing more; a write that waits for its reader is left behind."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
