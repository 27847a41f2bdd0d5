"""A loopback proxy that adds an access token to every request: the official suites cannot log in.

Nothing else changes: heads are forwarded byte for byte with one line added, bodies and answers as they
are, so Host, Origin and every header probe of the suites reach the firewall. No switch in the
firewall turns authentication off; this stands in front of it, in tests only.
"""

from __future__ import annotations

import asyncio
import contextlib

HEAD_BYTES = 64 * 1024


class TokenProxy:
    """One listener on a free port. `start`, set ``upstream_port``, use ``port``, `close`."""

    def __init__(self, token: str) -> None:
        self.upstream_port = 0
        self._line = f"authorization: Bearer {token}\r\n".encode()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=HEAD_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, near: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        try:
            far, far_out = await asyncio.open_connection("127.0.0.1", self.upstream_port)
        except OSError:
            near_out.close()
            return
        back = asyncio.ensure_future(_pump(far, near_out))
        try:
            while await self._request(near, far_out):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            pass
        finally:
            # The client has left or is done: its upstream connection ends with it, which is the cancellation.
            far_out.close()
            back.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await back
            near_out.close()

    async def _request(self, near: asyncio.StreamReader, far: asyncio.StreamWriter) -> bool:
        head = await near.readuntil(b"\r\n\r\n")
        first, _, rest = head.partition(b"\r\n")
        far.write(first + b"\r\n" + self._line + rest)
        fields = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in rest.split(b"\r\n") if line)
        }
        if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
            while True:
                size = await near.readuntil(b"\r\n")
                far.write(size)
                length = int(size.split(b";")[0], 16)
                far.write(await near.readexactly(length + 2))
                if length == 0:
                    break
        else:
            far.write(await near.readexactly(int(fields.get(b"content-length", b"0"))))
        await far.drain()
        return True


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()
    sink.close()
