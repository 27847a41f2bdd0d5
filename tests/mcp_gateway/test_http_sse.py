"""HTTP+SSE of 2024-11-05 as an upstream: behind a flag, from its own origin only, and gone with its stream."""

import asyncio
import contextlib
import json
import warnings

import pytest
from mcp.server.sse import SseServerTransport
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Mount, Route

from firewall.core.errors import ConfigFault, UpstreamFault
from mcp_gateway.http_sse import endpoint
from tests.mcp_gateway.asking_server import build
from tests.mcp_gateway.test_asking import ALL, User, text
from tests.support.mcp import Credentials, running, served, spec

HERE = "http://127.0.0.1:8000/sse"


# SS-2: where the stream may send our messages, and our credential with them.
@pytest.mark.parametrize(
    ("told", "where"),
    [
        (b"/messages?session_id=1", "http://127.0.0.1:8000/messages?session_id=1"),
        (b"messages/1", "http://127.0.0.1:8000/messages/1"),
        (b"http://127.0.0.1:8000/m", "http://127.0.0.1:8000/m"),
        (b"?a=1", "http://127.0.0.1:8000/sse?a=1"),
    ],
)
def test_an_endpoint_of_the_same_origin_is_taken(told, where):
    assert endpoint(HERE, told) == where


@pytest.mark.parametrize(
    "told",
    [
        b"http://127.0.0.1:8001/m", b"https://127.0.0.1:8000/m", b"http://127.0.0.2:8000/m", b"//evil.example/m",
        b"http://127.0.0.1:8000@evil.example/m", b"http://evil.example", b"javascript:x", b"file:///etc/passwd", b"",
        b"/a\nb", b"/a b", b"\xff", b"http://169.254.169.254/", b"/" + b"x" * 10_000, b"\\\\evil.example\\m", b"http:/\\evil",
        b"http://127.0.0.1:8000/m#x",
    ],
)  # fmt: skip
def test_an_endpoint_of_another_origin_or_reading_is_refused(told):
    with pytest.raises(UpstreamFault, match="malformed"):
        endpoint(HERE, told)


def test_the_transport_must_be_written_down_twice():
    with pytest.raises(ConfigFault, match="upstream_sse"):
        spec("old", transport="sse", url=HERE)
    with pytest.raises(ConfigFault, match="upstream_sse"):
        spec("old", url=HERE, legacy_sse=True)
    assert spec("old", transport="sse", url=HERE, legacy_sse=True).transport == "sse"


def application():
    """The SDK's own server side of the old transport."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transport = SseServerTransport("/messages/")
        server = build(modern=False)

    async def stream(request):
        async with transport.connect_sse(request.scope, request.receive, request._send) as (read, write):
            await server.run(read, write, server.create_initialization_options())
        return Response()

    return Starlette(routes=[Route("/sse", stream), Mount("/messages/", app=transport.handle_post_message)])


@contextlib.asynccontextmanager
async def old(user: User, mode: str = "auto"):
    async with served(application()) as origin:
        one = spec("old", transport="sse", url=origin + "/sse", legacy_sse=True, asks=ALL, roots=("/srv/desk",))
        async with running(one) as stack, stack.client("/mcp/old", mode=mode, **user.callbacks) as client:
            yield client


@pytest.mark.flow
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_server_of_2024_is_listed_called_and_answered_in_both_eras(mode):
    async with old(User("Ada", "Grace"), mode) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} >= {"form", "roots"}
        assert text(await client.call_tool("twice", {})) == "Ada and Grace"
        assert text(await client.call_tool("roots", {})) == "roots ['file:///srv/desk/a']"
        assert text(await client.call_tool("model", {})) == "said hi"


class Scripted:
    """A stream that says what it is told to; POSTs are counted with their headers."""

    def __init__(self, first: bytes, *, answer: bytes = b"202 Accepted") -> None:
        self.first = first
        self.answer = answer
        self.posts: list[tuple[bytes, bytes]] = []
        self.streams = 0
        self.cut = asyncio.Event()
        self.port = 0
        self._writer: asyncio.StreamWriter | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"GET"):
                    self.streams += 1
                    self._writer = writer
                    writer.write(
                        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n" + self.first
                    )
                    await writer.drain()
                    await self.cut.wait()
                    break
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                body = await reader.readexactly(length)
                self.posts.append((head, body))
                writer.write(b"HTTP/1.1 " + self.answer + b"\r\ncontent-length: 0\r\n\r\n")
                await writer.drain()
                self.reply(json.loads(body))
        writer.close()

    def reply(self, asked) -> None:
        if asked.get("method") == "initialize":
            info = {"name": "s", "version": "1"}
            self.say(
                {
                    "id": asked["id"],
                    "result": {"protocolVersion": "2024-11-05", "capabilities": {"tools": {}}, "serverInfo": info},
                }
            )
        elif asked.get("method") == "tools/list":
            self.say({"id": asked["id"], "result": {"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]}})

    def say(self, message) -> None:
        assert self._writer is not None
        self._writer.write(
            b"event: message\r\ndata: " + json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\r\n\r\n"
        )


@contextlib.asynccontextmanager
async def scripted(first: bytes, credentials: Credentials | None = None, **changes):
    upstream = Scripted(first, **changes)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.port = server.sockets[0].getsockname()[1]
    one = spec(
        "old", transport="sse", url=f"http://127.0.0.1:{upstream.port}/sse", legacy_sse=True, deadline_s=1.0, open_s=1.0
    )
    try:
        async with running(one, credentials=credentials) as stack:
            yield upstream, stack
    finally:
        upstream.cut.set()
        server.close()


GOOD = b"event: endpoint\ndata: /messages\n\n"


@pytest.mark.flow
@pytest.mark.parametrize(
    "first",
    [b"event: endpoint\ndata: http://127.0.0.9:1/m\n\n", b'event: message\ndata: {"jsonrpc":"2.0","method":"x"}\n\n', b"data: \xff\n\n"],
)  # fmt: skip
async def test_a_stream_that_does_not_begin_with_an_endpoint_of_its_own_gets_no_message(first):
    secret = Credentials({"old": ((b"authorization", b"Bearer ours"),)})
    async with scripted(first, secret) as (upstream, stack):
        answer = await stack.modern("/mcp/old", "tools/list")
        assert answer.json()["error"]["code"] == -31502
        assert upstream.posts == []


@pytest.mark.flow
async def test_the_credential_is_ours_and_the_callers_token_stays_here():
    secret = Credentials({"old": ((b"authorization", b"Bearer ours"),)})
    async with scripted(GOOD, secret) as (upstream, stack):
        assert (await stack.modern("/mcp/old", "tools/list")).json()["result"]["tools"]
        assert upstream.posts
        for head, body in upstream.posts:
            assert b"authorization: Bearer ours" in head
            assert b"alice" not in head + body


@pytest.mark.flow
async def test_a_stream_that_ends_ends_its_calls_and_the_next_one_opens_another():
    async with scripted(GOOD) as (upstream, stack):
        assert (await stack.modern("/mcp/old", "tools/list")).json()["result"]["tools"]
        call = asyncio.create_task(stack.modern("/mcp/old", "tools/call", {"name": "echo", "arguments": {}}))
        async with asyncio.timeout(5):
            while len(upstream.posts) < 4:
                await asyncio.sleep(0.01)
            upstream.cut.set()
            assert (await call).json()["error"]["code"] == -31502
            upstream.cut.clear()
            assert (await stack.modern("/mcp/old", "tools/list")).json()["result"]["tools"]
        assert upstream.streams == 2


@pytest.mark.flow
async def test_a_second_endpoint_moves_nothing():
    async with scripted(GOOD + b"event: endpoint\ndata: /elsewhere\n\n") as (upstream, stack):
        assert (await stack.modern("/mcp/old", "tools/list")).json()["result"]["tools"]
        assert all(head.startswith(b"POST /messages ") for head, _ in upstream.posts)


@pytest.mark.flow
async def test_a_message_that_is_not_taken_is_a_fault():
    async with scripted(GOOD, answer=b"400 Bad") as (_, stack):
        assert (await stack.modern("/mcp/old", "tools/list")).json()["error"]["code"] == -31502
