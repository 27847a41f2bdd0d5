"""HTTP+SSE of 2024-11-05, towards upstreams only and only where configuration writes ``legacy_sse: true``.

One GET holds the stream of everything that the server says; its first event names where to POST. That
address comes from the server, so it is taken only from the origin that configuration names: anything
else would carry our credential to a place of the server's choosing (mcp reference §3.3, SS-2). POSTs are
answered 202, and their answers arrive on the stream. Nothing is taken up again: when the stream ends, so
does the link, and the next request opens another.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Final
from urllib.parse import urljoin

from firewall.core.action import Headers
from firewall.core.bounds import SSE_EVENT_BYTES, TARGET_BYTES
from firewall.core.errors import BartizanError, Malformed, UpstreamFault
from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import Cleared
from firewall.core.points import Point
from firewall.net.runtime import Tasks
from firewall.net.upstream import Target, UpstreamClient
from firewall.wire import jsonrpc, sse
from firewall.wire.http import parse_url
from mcp_gateway import bridge
from mcp_gateway.bridge import Opened
from mcp_gateway.exchanges import Messages, kind_of, parsed
from mcp_gateway.house import House, Refused
from mcp_gateway.mux import Mux, MuxExchange
from mcp_gateway.settings import UpstreamSpec
from mcp_gateway.upstream import Credentials, Patience, answer_server
from mcp_gateway.versions import LEGACY, NEWEST_HANDSHAKE

STREAM_S: Final = 8 * 3600.0  # the stream is the session; then both are opened anew


class SSELink:
    """One session over HTTP+SSE; see `mcp_gateway.upstream.Link`."""

    transport = "sse"

    def __init__(
        self,
        client: UpstreamClient,
        house: House,
        tenant: str,
        spec: UpstreamSpec,
        tasks: Tasks,
        *,
        declared: JSONObject | None = None,
    ) -> None:
        self._client = client
        self._house = house
        self._tenant = tenant
        self._spec = spec
        self._tasks = tasks
        self._target = self._at(spec.url)
        self._posts: Target | None = None
        self._named: asyncio.Future[None] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._credentials: Credentials | None = None
        self._patience = Patience()
        self._ids = 0
        self._ended = False
        self.declared = dict(declared or {})
        self._mux = Mux(self.declared, self._answer)
        self.opened = Opened(NEWEST_HANDSHAKE, LEGACY)

    @property
    def alive(self) -> bool:
        """Whether the stream is open."""
        return not self._ended

    def next_id(self) -> int:
        """Return the next id; never repeated within a link."""
        self._ids += 1
        return self._ids

    async def open(self, credentials: Credentials) -> None:
        """Open the stream, learn where to POST, open the session. Raises UpstreamFault, Refused."""
        self._credentials = credentials
        headers = await credentials()
        cleared = await self._clear("GET", {}, Point.MCP_NOTIFY_CLIENT)
        self._named = asyncio.get_running_loop().create_future()
        self._reader = self._tasks.spawn(self._read(cleared, headers), f"mcp.sse.{self._spec.name}")
        try:
            await self._named
            await self._initialize(headers)
        except BaseException:
            await self.close()
            raise

    def exchange(self, rpc_id: int, cleared: Cleared, credentials: Headers) -> MuxExchange:
        """See Link.exchange. Leaving early does not cancel by itself: cancellation here is a notification."""

        async def send(message: Cleared) -> None:
            await self.notify(message, credentials)

        more_s = self._spec.answer_s if self.declared else 0.0
        return MuxExchange(self._mux, rpc_id, cleared, self._spec.deadline_s + more_s, send)

    async def notify(self, cleared: Cleared, credentials: Headers) -> None:
        """See Link.notify."""
        if self._ended or self._posts is None:
            raise UpstreamFault("cut_stream", "the stream has ended")
        answer = await self._client.request(
            cleared, self._posts, headers=credentials, deadline_s=self._spec.open_s, max_bytes=SSE_EVENT_BYTES
        )
        if answer.status in (401, 403):
            raise UpstreamFault("credentials", "the upstream refused our credential")
        if not 200 <= answer.status < 300:
            raise UpstreamFault("malformed", "the upstream did not take the message")

    def listen(self, credentials: Headers) -> AbstractAsyncContextManager[Messages]:
        """See Link.listen."""
        del credentials
        return self._mux.listen()

    async def close(self) -> None:
        """End the stream, and with it the session. Idempotent."""
        self._end(UpstreamFault("cut_stream", "the link was closed"))
        if self._reader is not None and self._reader is not asyncio.current_task() and not self._reader.done():
            self._reader.cancel()
            await asyncio.wait((self._reader,))

    # -- inside ----------------------------------------------------------------------------------------

    async def _initialize(self, credentials: Headers) -> None:
        rpc_id = self.next_id()
        body = bridge.initialize(rpc_id, NEWEST_HANDSHAKE, self.declared)
        cleared = await self._clear("initialize", body, Point.MCP_SESSION_OPEN)
        async with self.exchange(rpc_id, cleared, credentials) as messages:
            async for value in messages:
                if "method" in value:
                    continue
                try:
                    answer = jsonrpc.parse(value)
                    if not isinstance(answer, jsonrpc.Response):
                        raise UpstreamFault("malformed", "the upstream refused to open a session")
                    self.opened = bridge.opened(answer.result, LEGACY)
                except Malformed:
                    raise UpstreamFault("malformed", "the upstream opened a session that no revision knows") from None
        note = jsonrpc.build_notification("notifications/initialized")
        await self.notify(await self._clear("notifications/initialized", note, Point.MCP_NOTIFY_CLIENT), credentials)

    async def _read(self, cleared: Cleared, credentials: Headers) -> None:
        """Read the stream until it ends: where to POST first, then messages."""
        fault = UpstreamFault("cut_stream", "the stream ended")
        try:
            async with self._client.stream(
                cleared,
                self._target,
                headers=(*credentials, (b"accept", b"text/event-stream")),
                deadline_s=STREAM_S,
                idle_s=STREAM_S,
                method="GET",
                lasting=True,
            ) as stream:
                if kind_of(stream) != "text/event-stream" or stream.status != 200:
                    raise UpstreamFault("malformed", "the upstream opened no stream")
                parser = sse.Parser(SSE_EVENT_BYTES)
                async for chunk in stream.chunks():
                    for event in parser.feed(chunk):
                        if isinstance(event, Malformed):
                            raise UpstreamFault("malformed", event.code)
                        await self._take(event)
        except UpstreamFault as error:
            fault = error
        except (BartizanError, Refused):
            fault = UpstreamFault("cut_stream", "the stream could not be read on")
        finally:
            self._end(fault)

    async def _take(self, event: sse.Event) -> None:
        if self._posts is None:
            if event.event != "endpoint":
                raise UpstreamFault("malformed", "the stream does not begin with its endpoint")
            self._posts = self._at(endpoint(self._spec.url, event.data))
            if self._named is not None and not self._named.done():
                self._named.set_result(None)
        elif event.event == "message" and event.data:
            await self._mux.route(parsed(event.data))
        # A second endpoint would move the session elsewhere, and other events are not part of the transport.

    def _end(self, fault: UpstreamFault) -> None:
        self._ended = True
        self._mux.end(fault)
        if self._named is not None and not self._named.done():
            self._named.set_exception(fault)
            self._named.exception()  # seen: nobody need wait for it

    async def _answer(self, asked: JSONObject) -> None:
        reply = answer_server(asked)
        if reply is not None and self._patience.left() and self._credentials is not None:
            point = Point.MCP_PONG if "result" in reply else Point.MCP_NOTIFY_CLIENT
            cleared = await self._clear("ping" if "result" in reply else "error", reply, point)
            await self.notify(cleared, await self._credentials())

    async def _clear(self, method: str, body: JSONObject, point: Point) -> Cleared:
        return await self._house.clear(self._tenant, self._spec, method, body, version=self.opened.version, point=point)

    def _at(self, url: str) -> Target:
        spec = self._spec
        return Target(url, spec.network, spec.ca_file, spec.client_cert, spec.client_key)


def endpoint(configured: str, told: bytes) -> str:
    """Return where to POST: what the server told, read against the configured URL.

    told: data of the ``endpoint`` event, a URL or a path. Raises UpstreamFault("malformed") for one that
    is not of the same scheme, host and port, or has no normal form.
    """
    try:
        text = told.decode("ascii")
        if not 0 < len(text) <= TARGET_BYTES or any(not "\x21" <= c <= "\x7e" for c in text):
            raise Malformed("rpc_shape")
        url = urljoin(configured, text)
        if parse_url(url).origin != parse_url(configured).origin:
            raise Malformed("rpc_shape")
    except (Malformed, ValueError):
        raise UpstreamFault("malformed", "the endpoint is not of the configured origin") from None
    return url


async def open_sse(
    client: UpstreamClient,
    house: House,
    tenant: str,
    spec: UpstreamSpec,
    credentials: Credentials,
    tasks: Tasks,
    *,
    declared: JSONObject | None = None,
) -> SSELink:
    """Return an open link over HTTP+SSE. Raises UpstreamFault, Refused."""
    link = SSELink(client, house, tenant, spec, tasks, declared=declared)
    await link.open(credentials)
    return link
