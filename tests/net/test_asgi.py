"""ASGI helpers: bounded bodies, headers read once, writers that take nothing but what was cleared."""

import asyncio
from typing import Any

import pytest

from firewall.core import permit
from firewall.core.errors import Malformed
from firewall.core.permit import Cleared, FixedReply
from firewall.net import asgi


def cleared(payload: bytes = b"{}") -> Cleared:
    return Cleared(permit._ONLY, None, payload, ((b"mcp-session-id", b"s"),), "dec_x", "rec_x")


def scope(*headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http", "headers": list(headers)}


def receive_of(*parts: bytes, disconnect: bool = False) -> asgi.Receive:
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    if disconnect:
        messages.append({"type": "http.disconnect"})
    elif messages:
        messages[-1]["more_body"] = False

    async def receive() -> dict[str, Any]:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop(0)

    return receive


class Sent:
    """Collects what a writer sends."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    async def __call__(self, message: Any) -> None:
        self.messages.append(dict(message))

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.messages[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.messages[1:])


@pytest.mark.parametrize(("parts", "size"), [((b"abc",), 3), ((b"a", b"b", b"c"), 3), ((b"",), 0)])
async def test_a_body_up_to_its_bound_is_read(parts: tuple[bytes, ...], size: int) -> None:
    body = b"".join(parts)
    assert await asgi.read_body(scope(), receive_of(*parts), size, 1) == body
    if size:
        with pytest.raises(Malformed, match="body_too_large"):
            await asgi.read_body(scope(), receive_of(*parts), size - 1, 1)


@pytest.mark.parametrize("length", [b"5", b"99999999999999999999999", b"-1", b"0x5", b""])
async def test_a_length_that_is_too_large_or_no_number_is_refused_before_reading(length: bytes) -> None:
    async def never() -> dict[str, Any]:
        raise AssertionError("nothing should be read")

    with pytest.raises(Malformed, match="body_too_large"):
        await asgi.read_body(scope((b"content-length", length)), never, 4, 1)


async def test_a_body_that_drips_or_never_ends_is_cut_at_its_time() -> None:
    with pytest.raises(Malformed, match="timeout_request"):
        await asgi.read_body(scope(), receive_of(), 10, 0.02)


async def test_a_body_that_is_there_needs_no_timer_and_one_that_is_not_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    timers: list[float] = []
    timeout = asyncio.timeout
    monkeypatch.setattr(asgi.asyncio, "timeout", lambda seconds: timers.append(seconds) or timeout(seconds))
    assert await asgi.read_body(scope(), receive_of(b"abc"), 3, 1) == b"abc"
    assert timers == []

    async def late() -> dict[str, Any]:
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        return {"type": "http.request", "body": b"abc"}

    assert await asgi.read_body(scope(), late, 3, 1) == b"abc"
    assert await asgi.read_body(scope(), lambda: asyncio.ensure_future(late()), 3, 1) == b"abc"
    assert await asgi.read_body(scope(), receive_of(b"a", b"bc"), 3, 1) == b"abc"
    assert timers == [1, 1, 1]


async def test_a_cancelled_reader_of_a_body_cancels_what_it_waits_for() -> None:
    ended: list[type[BaseException]] = []

    async def waits() -> dict[str, Any]:
        try:
            await asyncio.sleep(0)
            await asyncio.Event().wait()
        except BaseException as error:
            ended.append(type(error))
            raise
        raise AssertionError

    reading = asyncio.ensure_future(asgi.read_body(scope(), waits, 3, 5))
    for _ in range(4):
        await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert ended == [asyncio.CancelledError]

    async def breaks() -> dict[str, Any]:
        await asyncio.sleep(0)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await asgi.read_body(scope(), breaks, 3, 5)


async def test_a_client_that_left_is_told_apart() -> None:
    with pytest.raises(Malformed, match="client_gone"):
        await asgi.read_body(scope(), receive_of(b"a", disconnect=True), 10, 1)


@pytest.mark.parametrize(
    "name",
    [
        b"authorization",
        b"content-type",
        b"content-length",
        b"host",
        b"origin",
        b"mcp-method",
        b"mcp-name",
        b"mcp-param-region",
        b"mcp-protocol-version",
        b"mcp-session-id",
        b"dpop",
        b"traceparent",
    ],
)
def test_a_second_field_that_routes_or_authenticates_is_refused(name: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        asgi.header_map(scope((name, b"a"), (name, b"a")))
    assert caught.value.code == "http_desync"


def test_other_fields_are_joined_and_white_space_around_values_is_dropped() -> None:
    got = asgi.header_map(
        scope(
            (b"accept", b" application/json\t"),
            (b"accept", b"text/event-stream"),
            (b"cookie", b"a=1"),
            (b"cookie", b"b=2"),
        )
    )
    assert got == {b"accept": b"application/json, text/event-stream", b"cookie": b"a=1; b=2"}


def test_a_plain_dict_of_the_headers_would_keep_the_last_of_two() -> None:
    """Twin: what the check prevents."""
    pairs = scope((b"mcp-name", b"safe"), (b"mcp-name", b"evil"))["headers"]
    assert dict(pairs) == {b"mcp-name": b"evil"}


async def test_a_cleared_reply_is_written_with_its_own_headers() -> None:
    sent = Sent()
    await asgi.write_cleared(sent, cleared(b'{"a":1}'), status=201, extra=((b"x-extra", b"1"),))
    assert sent.messages[0]["status"] == 201
    assert sent.body == b'{"a":1}'
    assert sent.headers == {
        b"content-type": b"application/json",
        b"content-length": b"7",
        b"x-content-type-options": b"nosniff",
        b"cache-control": b"no-store",
        b"mcp-session-id": b"s",
        b"x-extra": b"1",
    }


async def test_writers_take_nothing_else() -> None:
    sent = Sent()
    stream = asgi.EventStream(sent)
    await stream.open()
    reply = FixedReply(403, (), b"no")
    for attempt in (
        lambda: asgi.write_cleared(sent, b"raw"),  # type: ignore[arg-type]
        lambda: asgi.write_cleared(sent, reply),  # type: ignore[arg-type]
        lambda: asgi.write_fixed(sent, cleared()),  # type: ignore[arg-type]
        lambda: stream.event(reply),  # type: ignore[arg-type]
        lambda: stream.event(b"raw"),  # type: ignore[arg-type]
        lambda: stream.events([(cleared(), "", ""), (b"raw", "", "")]),  # type: ignore[list-item]
        lambda: stream.messages([cleared(), reply]),  # type: ignore[list-item]
        lambda: stream.fixed_event(cleared()),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError):
            await attempt()
    assert len(sent.messages) == 1


async def test_an_event_stream_has_the_headers_that_proxies_respect_and_ends_once() -> None:
    sent = Sent()
    stream = asgi.EventStream(sent)
    assert not stream.opened
    await stream.open(((b"mcp-session-id", b"s"),))
    await stream.open()
    await stream.event(cleared(b'{"n":1}'), event="message", id="7")
    await stream.events([(cleared(b'{"n":2}'), "message", ""), (FixedReply(200, (), b'{"n":3}'), "", "8")])
    await stream.messages([cleared(b'{"n":4}'), cleared(b'{"n":5}')])
    await stream.comment()
    await stream.fixed_event(FixedReply(403, (), b'{"error":1}'))
    await stream.close()
    await stream.close()
    assert sent.headers[b"content-type"] == b"text/event-stream"
    assert sent.headers[b"cache-control"] == b"no-cache, no-transform"
    assert sent.headers[b"x-accel-buffering"] == b"no"
    assert sent.headers[b"x-content-type-options"] == b"nosniff"
    assert sent.body == (
        b'event: message\nid: 7\ndata: {"n":1}\n\n'
        b'event: message\ndata: {"n":2}\n\nid: 8\ndata: {"n":3}\n\n'
        b'event: message\ndata: {"n":4}\n\nevent: message\ndata: {"n":5}\n\n'
        b':\n\ndata: {"error":1}\n\n'
    )
    assert [m.get("more_body") for m in sent.messages[1:]] == [True, True, True, True, True, False]
    with pytest.raises(RuntimeError):
        await stream.event(cleared())


async def test_a_client_that_leaves_is_noticed() -> None:
    await asyncio.wait_for(asgi.disconnected(receive_of(b"late", disconnect=True)), 1)
