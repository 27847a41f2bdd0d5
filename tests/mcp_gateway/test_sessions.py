"""Legacy sessions: sealed ids, the live table and its bounds, cursors; and the configuration of upstreams."""

import asyncio
from dataclasses import replace

import pytest

from firewall.core.errors import ConfigFault, Malformed
from firewall.net.runtime import FakeClock
from firewall.state.vault import Sealer
from mcp_gateway import session as live
from mcp_gateway.leash import Leash
from mcp_gateway.message import Answer
from mcp_gateway.sessions import Sessions
from mcp_gateway.settings import Bounds, Settings
from tests.mcp_gateway.legacy import LegacyClient, opened
from tests.mcp_gateway.scripted import as_json, event, fine, head, result, scripted
from tests.support.kit import ALLOW, ScriptedEngine, principal
from tests.support.mcp import PUBLIC, person, running, spec

HERE = "https://fw.example/mcp/demo"
NEWEST = "2025-11-25"


@pytest.fixture
def clock():
    return FakeClock()


def table(clock, **changes):
    bounds = {"ttl_s": 60, "idle_s": 30, "sessions": 100, **changes}
    worker = bounds.pop("worker", 0)
    return Sessions(Sealer(b"k" * 32, clock), clock, Bounds(**bounds), worker=worker)


@pytest.fixture
def book(clock):
    return table(clock)


def refused(book, who, where, token):
    with pytest.raises(Malformed) as caught:
        book.open(who, where, token)
    return caught.value.code == "session_unknown"


def test_a_session_opens_for_its_own_caller_only(book):
    """SH-1."""
    token = book.start(principal(), HERE, NEWEST)
    assert book.open(principal(), HERE, token).version == NEWEST
    for other in ({"subject": "u_bob"}, {"client_id": "c2"}, {"tenant": "t2"}, {"issuer": "https://other.example"}):
        assert refused(book, principal(**other), HERE, token)
    assert refused(book, principal(), HERE + "2", token)
    assert refused(book, principal(), HERE, b"\xff")
    assert refused(book, principal(), HERE, token[:-1])
    assert all(0x21 <= byte <= 0x7E for byte in token)


def test_session_ids_differ_and_cannot_be_guessed_from_another(book):
    """SH-2: each holds a random nonce and is authenticated as a whole."""
    one, two = book.start(principal(), HERE, NEWEST), book.start(principal(), HERE, NEWEST)
    assert one != two
    assert len(one) >= 40
    for place in range(0, len(one), 7):
        changed = one[:place] + (b"A" if one[place : place + 1] != b"A" else b"B") + one[place + 1 :]
        assert refused(book, principal(), HERE, changed)


def test_a_session_expires_and_ends(book, clock):
    ended, kept = (book.start(principal(), HERE, NEWEST) for _ in range(2))
    book.end(book.open(principal(), HERE, ended))
    assert refused(book, principal(), HERE, ended)
    assert book.open(principal(), HERE, kept)
    clock.advance(60)
    assert refused(book, principal(), HERE, kept)


async def test_an_idle_session_ends_and_a_busy_one_does_not(book, clock):
    idle, busy = (book.start(principal(), HERE, NEWEST) for _ in range(2))
    book.open(principal(), HERE, busy).begin(1, Leash())
    clock.advance(31)
    book.sweep()
    assert refused(book, principal(), HERE, idle)
    assert book.open(principal(), HERE, busy)
    assert len(book) == 1


def test_an_ended_session_is_never_revived(book):
    first = book.start(principal(), HERE, NEWEST)
    book.end(book.open(principal(), HERE, first))
    for _ in range(5):
        book.start(principal(), HERE, NEWEST)
        assert refused(book, principal(), HERE, first)


async def test_a_full_table_refuses_and_a_caller_with_many_sessions_loses_only_its_own(clock):
    book = table(clock, sessions=5, per_caller=3)
    bob = book.start(principal(subject="u_bob"), HERE, NEWEST)
    mine = []
    for _ in range(4):
        clock.advance(1)
        mine.append(book.start(principal(), HERE, NEWEST))
    assert refused(book, principal(), HERE, mine[0]), "the one that was idle longest"
    assert book.open(principal(subject="u_bob"), HERE, bob)
    book.start(principal(subject="u_eve"), HERE, NEWEST)
    with pytest.raises(Malformed, match="sessions_full"):
        book.start(principal(subject="u_fay"), HERE, NEWEST)
    for token in mine[1:]:
        book.open(principal(), HERE, token).begin(1, Leash())
    with pytest.raises(Malformed, match="over_limit"):
        book.start(principal(), HERE, NEWEST)


def test_an_id_names_the_worker_that_holds_its_session_and_lives_nowhere_else(clock):
    one, two = table(clock, worker=0), table(clock, worker=3)
    token = two.start(principal(), HERE, NEWEST)
    assert one.owner_of(token, principal(), HERE) == 3
    assert refused(one, principal(), HERE, token)
    assert two.open(principal(), HERE, token).worker == 3
    with pytest.raises(Malformed, match="session_unknown"):
        one.owner_of(token, principal(subject="u_bob"), HERE)


async def test_an_id_is_running_once_and_its_two_types_are_two_ids(book, monkeypatch):
    session = book.open(principal(), HERE, book.start(principal(), HERE, NEWEST))
    ended = session.begin(1, Leash())
    session.begin("1", Leash())
    with pytest.raises(Malformed, match="rpc_id"):
        session.begin(1, Leash())
    ended()
    ended()
    session.begin(1, Leash())
    monkeypatch.setattr(live, "RUNNING", 2)
    with pytest.raises(Malformed, match="over_limit"):
        session.begin(2, Leash())


async def test_only_the_awaited_id_takes_an_answer_and_takes_it_once(book):
    session = book.open(principal(), HERE, book.start(principal(), HERE, NEWEST))
    session.questions["q_1"] = waiting = asyncio.get_running_loop().create_future()
    for unknown in ("q_2", 1, ""):
        assert not session.answered(Answer(unknown, {}))
    assert session.answered(Answer("q_1", {"a": 1}))
    assert not session.answered(Answer("q_1", {"a": 2}))
    assert waiting.result().result == {"a": 1}


def test_logs_below_the_set_level_are_not_wanted_and_other_messages_are(book):
    session = book.open(principal(), HERE, book.start(principal(), HERE, NEWEST))

    def log(level):
        return {"method": "notifications/message", "params": {"level": level, "data": 1}}

    assert session.wants(log("debug"))
    session.level = "warning"
    assert [level for level in ("debug", "notice", "warning", "emergency", "loud") if session.wants(log(level))] == [
        "warning",
        "emergency",
    ]
    assert session.wants({"method": "notifications/progress", "params": {"level": "debug"}})


def test_a_cursor_is_sealed_and_belongs_to_its_caller(book):
    token = book.seal_cursor(principal(), HERE, "secret_tool")
    assert "secret" not in token
    assert book.open_cursor(principal(), HERE, token) == "secret_tool"
    assert book.open_cursor(principal(), HERE, None) == ""
    assert book.seal_cursor(principal(), HERE, "") == ""
    for who, given in (
        (principal(subject="b"), token),
        (principal(), token + "A"),
        (principal(), 5),
        (principal(), ""),
    ):
        with pytest.raises(Malformed, match="params_invalid"):
            book.open_cursor(who, HERE, given)


def test_a_session_is_no_cursor(book):
    with pytest.raises(Malformed, match="params_invalid"):
        book.open_cursor(principal(), HERE, book.start(principal(), HERE, NEWEST).decode())


# -- over HTTP -------------------------------------------------------------------------------------------


class Held:
    """A call that ends when the test says so; ``seen`` counts those that arrived."""

    def __init__(self):
        self.go = asyncio.Event()
        self.seen = 0

    async def __call__(self, asked, send):
        self.seen += 1
        await self.go.wait()
        await send(as_json(result(asked, content=[{"type": "text", "text": str(asked["params"]["arguments"])}])))

    async def arrived(self, count):
        async with asyncio.timeout(5):
            while self.seen < count:
                await asyncio.sleep(0.01)


CALL = {"name": "echo", "arguments": {}}


@pytest.mark.flow
async def test_one_id_runs_once_in_a_session_and_two_clients_may_both_use_it():
    held = Held()
    async with scripted(held) as upstream, running(spec("demo", url=upstream.url)) as stack:
        one, two = await opened(stack), await opened(stack)
        first = asyncio.create_task(one.request("tools/call", {**CALL, "arguments": {"a": 1}}))
        await held.arrived(1)
        collided = await one.request("tools/call", CALL)
        assert (collided.status_code, collided.json()["error"]["code"]) == (400, -32600)
        second = asyncio.create_task(two.request("tools/call", {**CALL, "arguments": {"a": 2}}))
        third = asyncio.create_task(one.request("tools/call", {**CALL, "arguments": {"a": 3}}, "1"))
        await held.arrived(3)
        held.go.set()
        answers = [(await task).json() for task in (first, second, third)]
        assert [a["id"] for a in answers] == [1, 1, "1"]
        assert ["'a': 1" in str(answers[0]), "'a': 2" in str(answers[1]), "'a': 3" in str(answers[2])] == [True] * 3
        again = await one.request("tools/call", CALL)
        assert "result" in again.json(), "an id that has been answered is free"
        upstream_ids = [body["id"] for _, body in upstream.seen if body["method"] == "tools/call"]
        assert len(set(upstream_ids)) == len(upstream_ids), "upstream they are ours"


@pytest.mark.flow
async def test_a_stolen_session_with_another_token_is_unknown_in_every_way():
    """SH-1, over every method, with the twin that its owner may."""
    people = {
        "alice": person("demo:read", "demo:write"),
        "bob": person("demo:read", "demo:write", subject="u_bob"),
        "app": person("demo:read", "demo:write", client_id="https://other.example/c.json"),
    }
    async with scripted(fine) as upstream, running(spec("demo", url=upstream.url), people=people) as stack:
        client = await opened(stack)
        for token in ("bob", "app"):
            thief = LegacyClient(stack, "/mcp/demo", token, session=client.session)
            assert (await thief.request("tools/call", CALL)).status_code == 404
            assert (await thief.send({"jsonrpc": "2.0", "method": "notifications/initialized"})).status_code == 404
            assert (await thief.answer({"id": "q_1"}, {})).status_code == 404
            assert await thief.refused_get() == (404, -32600)
            assert await thief.delete() == 404
        assert "tools/call" not in upstream.methods()
        assert "result" in (await client.request("tools/call", CALL)).json()


@pytest.mark.flow
async def test_a_cancelled_call_ends_upstream_and_another_sessions_cancel_does_nothing():
    held = Held()
    async with scripted(held, legacy=True) as upstream, running(spec("demo", url=upstream.url)) as stack:
        one, two = await opened(stack), await opened(stack)
        task = asyncio.create_task(one.request("tools/call", CALL, 5))
        await held.arrived(1)
        cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 5}}
        assert (await two.send(cancel)).status_code == 202
        await asyncio.sleep(0.02)
        assert not task.done()
        assert (await one.send({**cancel, "params": {"requestId": "5"}})).status_code == 202
        await asyncio.sleep(0.02)
        assert not task.done(), "another type is another id"
        assert (await one.send(cancel)).status_code == 202
        assert (await task).content == b""
        async with asyncio.timeout(5):
            while "notifications/cancelled" not in upstream.methods():
                await asyncio.sleep(0.01)


@pytest.mark.flow
async def test_the_log_level_of_a_session_filters_its_own_logs_only():
    async def chatty(asked, send):
        lines = [
            {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": level, "data": level}}
            for level in ("debug", "warning", "error")
        ]
        await send(head("text/event-stream") + b"".join(map(event, lines)) + event(result(asked)))

    async with scripted(chatty) as upstream, running(spec("demo", url=upstream.url)) as stack:
        one, two = await opened(stack), await opened(stack)
        assert (await one.request("logging/setLevel", {"level": "warning"})).json()["result"] == {}
        for wrong in ({"level": "loud"}, {"level": 5}, {}):
            assert (await one.request("logging/setLevel", wrong)).json()["error"]["code"] == -32602

        async def logs(client):
            async with client.call("echo") as events:
                return [m["params"]["data"] for m in await events.rest() if "method" in m]

        assert await logs(one) == ["warning", "error"]
        assert await logs(two) == ["debug", "warning", "error"]
        asked = [b["params"]["_meta"] for _, b in upstream.seen if b["method"] == "tools/call"]
        assert [meta["io.modelcontextprotocol/logLevel"] for meta in asked] == ["warning", "info"]


@pytest.mark.flow
async def test_requests_are_served_before_initialized_as_the_sdk_does_and_initialize_is_checked():
    async with scripted(fine) as upstream, running(spec("demo", url=upstream.url)) as stack:
        good = {"protocolVersion": NEWEST, "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
        for missing in good:
            given = {k: v for k, v in good.items() if k != missing}
            answer = await stack.post("/mcp/demo", {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": given})
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32602), missing
        answer = await stack.post("/mcp/demo", {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": good})
        client = LegacyClient(stack, "/mcp/demo", "alice", session=answer.headers["mcp-session-id"])
        assert "result" in (await client.request("tools/call", CALL)).json()


@pytest.mark.flow
@pytest.mark.parametrize("version", ["2025-03-26", "2025-06-18", "2025-11-25"])
async def test_every_handshake_revision_is_served_as_asked_and_batches_in_none(version):
    async with scripted(fine) as upstream, running(spec("demo", url=upstream.url)) as stack:
        client = LegacyClient(stack, "/mcp/demo/", "alice", version)
        assert (await client.initialize())["protocolVersion"] == version
        assert "result" in (await client.request("tools/call", CALL)).json()
        batch = await client.send([{"jsonrpc": "2.0", "id": 1, "method": "ping"}])
        assert (batch.status_code, batch.json()["error"]["code"]) == (400, -32600)
        wrong = await client.send(
            {"jsonrpc": "2.0", "id": 1, "method": "ping"}, **{"mcp-protocol-version": "2025-01-01"}
        )
        assert wrong.status_code == 400


@pytest.mark.flow
async def test_a_session_whose_opening_is_refused_leaves_nothing_behind():
    refuse = True

    def script(asked):
        if asked["point"] == "mcp.session.opened" and refuse:
            reason = {"rule": "t.no", "effect": "deny", "code": "x", "owasp": [], "severity": 40}
            return {**ALLOW, "decision": False, "effect": "deny", "risk": 40, "reasons": [reason]}
        return ALLOW

    async with scripted(fine) as upstream:
        async with running(spec("demo", url=upstream.url), engine=ScriptedEngine(script)) as stack:
            info = {"name": "c", "version": "1"}
            params = {"protocolVersion": NEWEST, "capabilities": {}, "clientInfo": info}
            opening = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
            answer = await stack.post("/mcp/demo", opening)
            assert answer.json()["error"]["code"] == -31403
            assert "mcp-session-id" not in answer.headers
            assert len(stack.gateway.sessions) == 0
            refuse = False
            assert "mcp-session-id" in (await stack.post("/mcp/demo", opening)).headers
            assert len(stack.gateway.sessions) == 1
            assert stack.gateway.sessions.kept_bytes == 0


@pytest.mark.flow
async def test_the_modern_era_ignores_session_and_event_ids():
    async with scripted(fine) as upstream, running(spec("demo", url=upstream.url)) as stack:
        extra = {"mcp-session-id": "made up", "last-event-id": "1"}
        answer = await stack.modern("/mcp/demo", "tools/call", CALL, **extra)
        assert "result" in answer.json()
        assert "mcp-session-id" not in answer.headers
        note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
        modern = {"mcp-protocol-version": "2026-07-28", **extra}
        assert (await stack.post("/mcp/demo", note, headers=modern)).status_code == 202
        answered = await stack.post("/mcp/demo", {"jsonrpc": "2.0", "id": "q", "result": {}}, headers=modern)
        assert (answered.status_code, answered.json()["error"]["code"]) == (400, -32600)


@pytest.mark.flow
async def test_an_expired_grant_ends_nothing_that_its_session_could_still_be_used_for():
    """A session never outlives its token: the token of every request is verified first."""
    async with scripted(fine) as upstream, running(spec("demo", url=upstream.url)) as stack:
        client = await opened(stack)
        alice = stack.auth.people.pop("alice")
        assert (await client.request("ping")).status_code == 401
        stack.auth.people["alice"] = replace(alice, scopes=frozenset())
        assert (await client.request("ping")).status_code == 200, "the twin: a new token of the same caller"


# -- configuration ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"name": "Upper", "url": "http://x"}, "upstream_name"),
        ({"name": "a__b", "url": "http://x"}, "upstream_name"),
        ({"name": "a--b", "url": "http://x"}, "upstream_name"),
        ({"name": "9a", "url": "http://x"}, "upstream_name"),
        ({"name": "a-", "url": "http://x"}, "upstream_name"),
        ({"name": "a"}, "upstream_address"),
        ({"name": "a", "transport": "stdio", "url": "http://x"}, "upstream_address"),
        ({"name": "a", "url": "http://x", "effects": {"t": "nice"}}, "upstream_effect"),
    ],
)
def test_a_wrong_upstream_is_named_with_its_mend(changes, code):
    with pytest.raises(ConfigFault) as caught:
        spec(**changes)
    assert caught.value.code == code
    assert caught.value.fix


def test_two_upstreams_of_one_name_are_refused():
    with pytest.raises(ConfigFault, match="upstream_twice"):
        Settings(PUBLIC, (spec("a", url="http://x"), spec("a", url="http://y")))
