"""Streams of legacy sessions: ids, priming, resumption, readers that leave, are slow, or are somebody else."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from firewall.core.permit import Cleared, FixedReply
from firewall.net import asgi
from firewall.net.runtime import Tasks
from mcp_gateway import out, streams
from mcp_gateway import pipe as pipes
from mcp_gateway.pipe import Pipe
from mcp_gateway.settings import Bounds
from mcp_gateway.streams import Budget, Journal, Stream
from tests.conformance.everything_server import application
from tests.mcp_gateway.legacy import LegacyClient, opened
from tests.mcp_gateway.scripted import event, fine, head, result, scripted
from tests.support.kit import ALLOW, ScriptedEngine
from tests.support.mcp import person, running, served, spec

PROGRESS = {"jsonrpc": "2.0", "method": "notifications/progress"}


def progress(asked: Any, done: int, words: str = "") -> bytes:
    params = {"progressToken": asked["params"]["_meta"]["progressToken"], "progress": done}
    return event({**PROGRESS, "params": {**params, **({"message": words} if words else {})}})


class Gated:
    """An upstream's call that sends one progress, waits for the test, sends another one, and ends."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.asked = asyncio.Event()

    async def __call__(self, asked: Any, send: Any) -> None:
        await send(head("text/event-stream") + progress(asked, 1, "before"))
        self.asked.set()
        await self.go.wait()
        await send(progress(asked, 2, "after") + event(result(asked)))


async def settled(stack: Any) -> None:
    """Wait until no exchange of the gateway runs any more."""
    async with asyncio.timeout(5):
        while any(session.running for session in stack.gateway.sessions._live.values()):
            await asyncio.sleep(0.01)


# -- over HTTP ---------------------------------------------------------------------------------------


@pytest.mark.flow
async def test_a_stream_begins_with_a_priming_event_and_every_event_has_an_id_of_its_own():
    gated = Gated()
    gated.go.set()
    async with scripted(gated) as upstream, running(spec("demo", url=upstream.url)) as stack:
        client = await opened(stack)
        seen: list[str] = []
        for rpc_id in (1, 2):
            async with client.call("echo", rpc_id=rpc_id) as events:
                first = await events.next()
                assert first is not None
                assert (first.data, first.retry_ms) == (b"", streams.RETRY_MS)
                assert [m.get("method") for m in await events.rest()] == [PROGRESS["method"]] * 2 + [None]
                seen += events.ids
        assert len(set(seen)) == len(seen) == 8
        assert len({i.rpartition(".")[0] for i in seen}) == 2, "an id names its stream"


@pytest.mark.flow
@pytest.mark.parametrize("version", ["2025-03-26", "2025-06-18"])
async def test_a_client_that_cannot_read_an_event_without_data_gets_none(version):
    gated = Gated()
    gated.go.set()
    async with scripted(gated) as upstream, running(spec("demo", url=upstream.url)) as stack:
        client = await opened(stack, version=version)
        async with client.call("echo") as events:
            first = await events.next()
            assert first is not None
            assert first.data
            assert first.id
            assert len(await events.rest()) == 2


@pytest.mark.flow
async def test_a_legacy_client_that_leaves_cancels_nothing_and_finds_the_rest_when_it_comes_back():
    gated = Gated()
    async with scripted(gated) as upstream, running(spec("demo", url=upstream.url)) as stack:
        client = await opened(stack)
        async with client.call("echo", rpc_id=7) as events:
            assert (await events.message())["params"]["message"] == "before"
            last = events.ids[-1]
        gated.go.set()
        await settled(stack)
        assert "notifications/cancelled" not in upstream.methods()
        async with client.get(last) as events:
            messages = await events.rest()
        assert [m.get("params", {}).get("message") for m in messages] == ["after", None]
        assert messages[-1]["id"] == 7
        assert messages[-1]["result"]["content"] == [{"type": "text", "text": "fine"}]


@pytest.mark.flow
async def test_whoever_comes_back_while_the_call_runs_reads_on_live():
    gated = Gated()
    async with scripted(gated) as upstream, running(spec("demo", url=upstream.url)) as stack:
        client = await opened(stack)
        async with client.call("echo") as events:
            await events.next()
            primed = events.ids[-1]
        async with client.get(primed) as events:
            assert (await events.message())["params"]["message"] == "before", "what came before is replayed"
            gated.go.set()
            messages = await events.rest()
            assert messages[-1]["id"] == 1


@pytest.mark.flow
async def test_a_modern_client_that_leaves_cancels_the_twin_of_the_legacy_one():
    gated = Gated()
    async with scripted(gated) as upstream, running(spec("demo", url=upstream.url)) as stack:
        meta = {"_meta": {"progressToken": "p"}}
        task = asyncio.create_task(stack.modern("/mcp/demo", "tools/call", {"name": "echo", "arguments": {}, **meta}))
        await gated.asked.wait()
        await asyncio.sleep(0.06)  # the watch begins after a moment
        task.cancel()
        async with asyncio.timeout(5):
            await upstream.left.wait()


@pytest.mark.flow
async def test_last_event_id_opens_only_the_same_stream_of_the_same_session_of_the_same_caller():
    """SH-3."""
    gated = Gated()
    people = {name: person("demo:read", "demo:write", subject=f"u_{name}") for name in ("alice", "bob")}
    async with scripted(gated) as upstream, running(spec("demo", url=upstream.url), people=people) as stack:
        client, other, bob = (await opened(stack), await opened(stack), await opened(stack, token="bob"))
        async with client.call("echo") as events:
            await events.message()
            last = events.ids[-1]
        assert await other.refused_get(last) == (400, -32600), "another session of the same caller"
        assert await bob.refused_get(last) == (400, -32600), "another caller"
        thief = LegacyClient(stack, client.path, "bob", session=client.session)
        assert await thief.refused_get(last) == (404, -32600), "a stolen session"
        for wrong in (last + "9", last[:-1] + "x", "x", "..", "a.1.1", last.replace(".1.", ".2."), "9" * 5000):
            assert (await client.refused_get(wrong))[0] == 400, wrong
        gated.go.set()
        async with client.get(last) as events:  # the twin: its own caller reads on
            assert (await events.rest())[-1]["id"] == 1


@pytest.mark.flow
async def test_a_stream_that_is_read_to_its_end_cannot_be_taken_up_again():
    gated = Gated()
    gated.go.set()
    async with scripted(gated) as upstream, running(spec("demo", url=upstream.url)) as stack:
        client = await opened(stack)
        async with client.call("echo") as events:
            await events.rest()
        assert await client.refused_get(events.ids[-1]) == (400, -32600)
        async with client.get(events.ids[-2]) as again:
            assert len(await again.rest()) == 1


@pytest.mark.flow
async def test_a_replay_is_decided_again_and_shows_nothing_that_is_refused_by_now():
    denied: set[str] = set()

    def script(asked: Any) -> Any:
        if asked["point"] in denied:
            reason = {"rule": "t.no", "effect": "deny", "code": "x", "owasp": [], "severity": 40}
            return {**ALLOW, "decision": False, "effect": "deny", "risk": 40, "reasons": [reason]}
        return ALLOW

    gated = Gated()
    engine = ScriptedEngine(script)
    async with scripted(gated) as upstream, running(spec("demo", url=upstream.url), engine=engine) as stack:
        client = await opened(stack)
        async with client.call("echo") as events:
            await events.next()
            primed = events.ids[-1]
        gated.go.set()
        await settled(stack)
        async with client.get(primed) as events:  # the twin: allowed now as it was then
            assert len(await events.rest()) == 3
        before = len(engine.inputs)
        denied |= {"mcp.tool.result", "mcp.notify.server"}
        async with client.get(primed) as events:
            messages = await events.rest()
        assert len(engine.inputs) == before + 3, "each event was a decision of its own"
        assert len(messages) == 1, "a refused notification is left out"
        assert messages[0]["result"]["isError"] is True
        assert "fine" not in str(messages)


@pytest.mark.flow
async def test_one_standalone_stream_per_session_and_a_second_one_is_409():
    async with scripted(fine) as upstream, running(spec("demo", url=upstream.url)) as stack:
        client, other = await opened(stack), await opened(stack)
        async with client.get() as events:
            await events.next()
            assert await client.refused_get() == (409, -32600)
            async with other.get() as twin:
                assert twin.response.status_code == 200
            async with client.get(events.ids[0]) as taken:
                assert taken.response.status_code == 200, "its own client may take it up again"
                assert await events.next() is None, "and the old response ends"


@pytest.mark.flow
async def test_a_get_needs_its_session_its_media_type_and_a_free_place():
    people = {name: person("demo:read", subject=f"u_{name}") for name in ("alice", "bob")}
    few = {"sessions": Bounds(streams=2)}
    async with (
        scripted(fine) as upstream,
        running(spec("demo", url=upstream.url), people=people, settings=few) as stack,
    ):
        clients = [await opened(stack) for _ in range(3)]
        bob = await opened(stack, token="bob")
        assert await LegacyClient(stack, "/mcp/demo", "alice").refused_get() == (400, -32600)
        assert await clients[0].refused_get(accept="application/json") == (406, -32600)
        async with clients[0].get(), clients[1].get():
            assert await clients[2].refused_get() == (429, -31429)
            async with bob.get() as events:
                assert events.response.status_code == 200, "the bound is each caller's own"
        async with asyncio.timeout(5):
            while stack.gateway.sessions._held:
                await asyncio.sleep(0.01)
        async with clients[2].get() as events:
            assert events.response.status_code == 200


@pytest.mark.flow
async def test_a_held_stream_ends_when_its_token_does(monkeypatch):
    monkeypatch.setattr("mcp_gateway.sessions.KEEP_ALIVE_S", 0.05)
    async with scripted(fine) as upstream, running(spec("demo", url=upstream.url)) as stack:
        client = await opened(stack)
        async with client.get() as events:
            await events.next()
            alice = stack.auth.people.pop("alice")
            assert await events.next() is None
        stack.auth.people["alice"] = alice
        async with client.get(events.ids[-1]) as events:  # the twin: with a good token it goes on, with keep-alives
            await events.next()
            await asyncio.sleep(0.1)
            assert client.session
            with pytest.raises(TimeoutError):
                await events.next(0.1)
            assert events.comments


@pytest.mark.flow
async def test_delete_ends_calls_streams_and_upstream_requests_at_once():
    gated = Gated()
    async with scripted(gated) as upstream, running(spec("demo", url=upstream.url)) as stack:
        client, other = await opened(stack), await opened(stack)
        async with client.get() as standing, client.call("echo") as events, other.get() as twin:
            await standing.next()
            await twin.next()
            await events.message()
            assert await client.delete() == 200
            assert await events.message() is None
            assert await standing.next() is None
            async with asyncio.timeout(5):
                await upstream.left.wait()
            with pytest.raises(TimeoutError):
                await twin.next(0.05)
        assert (await client.request("ping")).status_code == 404
        assert await client.refused_get(events.ids[-1]) == (404, -32600)
        assert len(stack.gateway.sessions) == 1


@pytest.mark.flow
async def test_an_answer_that_takes_long_becomes_a_stream_that_can_be_taken_up_again(monkeypatch):
    monkeypatch.setattr(out, "OPEN_AFTER_S", 0.02)
    go = asyncio.Event()

    async def slow(asked: Any, send: Any) -> None:
        await go.wait()
        await fine(asked, send)

    async with scripted(slow) as upstream, running(spec("demo", url=upstream.url)) as stack:
        client = await opened(stack)
        async with client.call("echo") as events:
            await events.next()
        go.set()
        async with client.get(events.ids[0]) as events:
            assert (await events.message())["result"]["content"]
        old = await opened(stack, version="2025-06-18")
        go.clear()
        asyncio.get_running_loop().call_later(0.05, go.set)
        answer = await old.request("tools/call", {"name": "echo", "arguments": {}})
        assert answer.headers["content-type"] == "application/json", "a client that cannot resume waits"


@pytest.mark.flow
@pytest.mark.parametrize("asks", [frozenset(), frozenset({"sampling"})], ids=["", "asked"])
async def test_where_the_upstream_lets_us_go_for_a_while_so_do_we_with_our_client(asks):
    """SEP-1699: the server ends its stream with a time to come back; its client is not held on the line by us."""
    go = asyncio.Event()

    async def polling(asked: Any, send: Any) -> None:
        await send(head("text/event-stream") + b"id: 1\nretry: 10\ndata: \n\n" + progress(asked, 1, "before"))
        upstream.later = asked
        raise ConnectionError  # what ends a response without a length

    async def again(send: Any) -> None:
        await go.wait()
        await send(head("text/event-stream") + event(result(upstream.later)))

    async with scripted(polling, legacy=True) as upstream:
        upstream.resumed = again
        async with running(spec("demo", url=upstream.url, asks=asks)) as stack:
            client = await opened(stack)
            async with client.call("echo") as events:
                assert (await events.message())["params"]["message"] == "before"
                assert await events.message() is None, "the stream ends while the call runs on"
            go.set()
            async with client.get(events.ids[-1]) as events:
                assert "result" in await events.message()
            go.clear()
            old = await opened(stack, version="2025-06-18")
            async with old.call("echo") as events:  # the twin: a client that cannot come back stays
                await events.message()
                go.set()
                assert "result" in await events.message()


@pytest.mark.flow
async def test_the_official_client_comes_back_by_itself_and_misses_nothing(monkeypatch):
    monkeypatch.setattr("mcp_gateway.session.RETRY_MS", 20)
    logs: list[Any] = []

    async def on_log(params: Any) -> None:
        logs.append(params.data)

    async with served(application()) as origin, running(spec("demo", url=f"{origin}/mcp", era="legacy")) as stack:
        async with stack.client("/mcp/demo", mode="legacy", logging_callback=on_log) as client:
            told = await client.call_tool("test_reconnection", {})
            assert told.content[0].text == "Reconnection test completed"
        assert logs == ["Before disconnect", "After reconnect"]


@pytest.mark.flow
async def test_a_burst_reaches_a_reader_that_keeps_up_whole_and_in_order():
    async def burst(asked: Any, send: Any) -> None:
        await send(head("text/event-stream") + b"".join(progress(asked, n) for n in range(600)) + event(result(asked)))

    async with scripted(burst) as upstream, running(spec("demo", url=upstream.url)) as stack:
        client = await opened(stack)
        async with client.call("echo") as events:
            messages = await events.rest()
        assert [m["params"]["progress"] for m in messages[:-1]] == list(range(600))
        assert "result" in messages[-1]


@pytest.mark.flow
async def test_a_slow_reader_holds_up_nobody_and_reads_the_rest_when_it_comes_back(monkeypatch):
    monkeypatch.setattr(pipes, "PATIENCE_S", 0.05)
    words = "x" * 200_000

    async def heavy(asked: Any, send: Any) -> None:
        await send(head("text/event-stream"))
        for n in range(60):
            await send(progress(asked, n, words if n < 55 else "tail"))
        await send(event(result(asked)))

    async with scripted(heavy) as upstream, running(spec("demo", url=upstream.url)) as stack:
        client = await opened(stack)
        body = {"name": "echo", "arguments": {}, "_meta": {"progressToken": "p"}}
        request = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": body})
        reader, writer = await asyncio.open_connection("127.0.0.1", stack.port, limit=1024)
        lines = "".join(f"{name}: {value}\r\n" for name, value in client.headers().items())
        writer.write(
            f"POST /mcp/demo HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n{lines}"
            f"content-length: {len(request)}\r\n\r\n".encode()
            + request
        )
        answer = await reader.readuntil(b"data: \n\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await settled(stack)
        assert (await client.request("ping", rpc_id=2)).status_code == 200
        (line,) = stack.gateway.sessions._live[next(iter(stack.gateway.sessions._live))].streams.values()
        assert line.lost, "the journal is bounded: what it forgot is not shown with a gap"
        primed = answer.rpartition(b"id: ")[2].split(b"\n")[0].decode()
        assert await client.refused_get(primed) == (400, -32600)
        async with client.get(line.id_of(line.last - 3)) as events:
            messages = await events.rest()
        assert [m.get("params", {}).get("message", "") for m in messages] == ["tail", "tail", ""]
        writer.transport.abort()


# -- a pipe and a journal by themselves --------------------------------------------------------------------


class Wire:
    """An ASGI ``send`` that a test can stop; keeps what was written."""

    def __init__(self) -> None:
        self.flows = asyncio.Event()
        self.flows.set()
        self.sent: list[bytes] = []
        self.ended = False

    async def __call__(self, message: Any) -> None:
        await self.flows.wait()
        if message["type"] == "http.response.body":
            self.sent.append(message["body"])
            self.ended = self.ended or not message.get("more_body", False)


def words(size: int = 10) -> FixedReply:
    return FixedReply(200, (), b"x" * size)


def line(budget: int = 1 << 20) -> tuple[Stream, Journal]:
    journal = Journal(Budget(budget))
    return Stream("tag", 1, journal), journal


async def test_a_slow_reader_is_dropped_and_its_events_are_kept(monkeypatch):
    monkeypatch.setattr(pipes, "QUEUED_EVENTS", 4)
    wire, tasks, told = Wire(), Tasks(), []
    pipe = Pipe(asgi.EventStream(wire), tasks, on_closed=lambda: told.append("closed"))
    stream, journal = line()
    stream.attach(pipe)
    stream.emit(words())
    await asyncio.sleep(0)
    wire.flows.clear()
    for _ in range(8):
        stream.emit(words())
        await asyncio.sleep(0)
    assert pipe.over
    assert told == ["closed"]
    assert stream.pipe is None
    assert len(journal.kept) == 9, "whoever comes back finds all of it"
    await tasks.close()


async def test_a_reader_that_takes_nothing_for_long_is_dropped_and_one_that_reads_is_not(monkeypatch):
    monkeypatch.setattr(pipes, "STALL_S", 0.03)
    for stalls in (True, False):
        wire, tasks = Wire(), Tasks()
        if stalls:
            wire.flows.clear()
        pipe = Pipe(asgi.EventStream(wire), tasks)
        pipe.put(words())
        await asyncio.sleep(0.08)
        assert pipe.over is stalls
        await tasks.close()


async def test_a_pipe_writes_what_waits_before_it_ends_and_nothing_after():
    wire, tasks = Wire(), Tasks()
    pipe = Pipe(asgi.EventStream(wire), tasks)
    pipe.put(words(), "a")
    pipe.end()
    pipe.put(words(), "b")
    await pipe.closed()
    assert wire.ended
    assert b"id: a" in b"".join(wire.sent)
    assert b"id: b" not in b"".join(wire.sent)
    await asyncio.sleep(0)
    assert len(tasks) == 0, "an idle pipe has no task"


async def test_what_waits_is_written_in_one_piece_in_order_and_a_large_one_alone(monkeypatch):
    monkeypatch.setattr(pipes, "PIECE_BYTES", 100)
    wire, tasks = Wire(), Tasks()
    pipe = Pipe(asgi.EventStream(wire), tasks)
    for name in "ab":
        pipe.put(words(), name)
    pipe.put(7, "c")  # where a client that leaves comes back
    pipe.put(words(500), "d")
    for name in "efg":
        pipe.put(words(40), name)
    pipe.end()
    await pipe.closed()
    ids = [[line[4:] for line in piece.split(b"\n") if line[:4] == b"id: "] for piece in wire.sent]
    assert ids == [[b"a", b"b"], [b"c"], [b"d"], [b"e", b"f", b"g"], []]
    assert b"retry: 7" in wire.sent[1]
    await tasks.close()


async def test_only_cleared_or_fixed_words_leave_a_pipe():
    wire, tasks = Wire(), Tasks()
    pipe = Pipe(asgi.EventStream(wire), tasks)
    pipe.put(b"raw", "a")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Cleared(object(), None, b"", (), "", "")
    await asyncio.sleep(0.01)
    assert b"raw" not in b"".join(wire.sent)
    await tasks.close()


def test_a_journal_forgets_the_oldest_events_and_never_leaves_a_gap(monkeypatch):
    monkeypatch.setattr(streams, "KEPT_EVENTS", 3)
    stream, journal = line()
    for _ in range(5):
        stream.emit(words())
    assert [e.number for e in journal.kept] == [3, 4, 5]
    with pytest.raises(streams.Malformed, match="stream_unknown"):
        stream.after(1)
    assert stream.after(2).number == 3
    assert stream.after(5) is None


def test_an_event_too_large_to_keep_makes_its_stream_unknown_and_no_other():
    budget = Budget(10_000)
    journal, second = Journal(budget), Journal(budget)
    one, other = Stream("t", 1, journal), Stream("t", 2, second)
    other.emit(words())
    one.emit(words(9_000))
    with pytest.raises(streams.Malformed, match="stream_unknown"):
        one.after(0)
    assert other.after(0).number == 1
    second.drop()
    assert budget.left == 10_000, "what is forgotten is given back"
