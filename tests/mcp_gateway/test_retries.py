"""Retries that bring answers: whoever changes, repeats, steals or delays one gets one fixed refusal (DESIGN §6b-4)."""

import asyncio
import contextlib
import json

import pytest

from firewall.core.finding import Finding
from firewall.decide.bundle import load
from firewall.decide.regorus import RegorusEngine
from firewall.detect.scan import PatternScanner
from mcp_gateway import conversation
from tests.mcp_gateway.asking_server import build
from tests.mcp_gateway.scripted import as_json, event, fine, head, result, scripted
from tests.support.kit import ALLOW, NoScanner, ScriptedEngine
from tests.support.mcp import Credentials, person, running, served, spec
from tests.support.patterns import PATTERNS

pytestmark = pytest.mark.flow
ALL = frozenset({"sampling", "elicitation", "roots"})
ABLE = {
    "io.modelcontextprotocol/clientCapabilities": {"sampling": {}, "elicitation": {"form": {}, "url": {}}, "roots": {}}
}
PEOPLE = {
    "alice": person("demo:read", "demo:write", "second:read", "second:write"),
    "bob": person("demo:read", "demo:write", subject="u_bob"),
    "app": person("demo:read", "demo:write", client_id="https://other.example/c.json"),
}
WHO = {"action": "accept", "content": {"name": "Ada"}}
FIXED = "The request state is not known here."


@contextlib.asynccontextmanager
async def asking(server: str, **changes):
    """A gateway before an SDK server of an era."""
    async with served(build(modern=server == "modern").streamable_http_app()) as origin:
        given = {"asks": ALL, "roots": ("/srv/desk",), "era": server}
        more = changes.pop("spec", {})
        one = spec("demo", url=origin + "/mcp", **{**given, **more})
        other = spec("second", url=origin + "/mcp", **given)
        async with running(one, other, people=PEOPLE, **changes) as stack:
            yield stack


async def ask(stack, name="form", path="/mcp/demo", token="alice", **params):
    asked = {"name": name, "arguments": {}, "_meta": ABLE, **params}
    return await stack.modern(path, "tools/call", asked, token=token)


async def begin(stack, name="form", **more):
    """Return the state and the keys of the questions of a call."""
    told = (await ask(stack, name, **more)).json()["result"]
    assert told["resultType"] == "input_required"
    return told["requestState"], list(told.get("inputRequests", {}))


def refused(answer) -> None:
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["message"]) == (-32602, FIXED)


@pytest.mark.parametrize("server", ["modern", "legacy"])
class TestStates:
    async def test_the_right_caller_goes_on_once(self, server):
        async with asking(server) as stack:
            state, (key,) = await begin(stack)
            done = await ask(stack, inputResponses={key: WHO}, requestState=state)
            assert done.json()["result"]["content"][0]["text"] == "accept Ada"
            assert done.json()["result"]["resultType"] == "complete"
            refused(await ask(stack, inputResponses={key: WHO}, requestState=state))

    async def test_two_copies_at_once_go_on_at_most_once(self, server):
        async with asking(server) as stack:
            state, (key,) = await begin(stack)
            answers = await asyncio.gather(
                *(ask(stack, inputResponses={key: WHO}, requestState=state) for _ in range(4))
            )
            assert sorted(a.status_code for a in answers) == [200, 400, 400, 400]

    async def test_another_principal_client_endpoint_tool_or_argument_is_refused(self, server):
        async with asking(server) as stack:
            state, (key,) = await begin(stack)
            retry = {"inputResponses": {key: WHO}, "requestState": state}
            refused(await ask(stack, token="bob", **retry))
            refused(await ask(stack, token="app", **retry))
            refused(await ask(stack, path="/mcp/second", **retry))
            refused(await ask(stack, requestState=state[:-3] + "AAA", inputResponses={key: WHO}))
            # it was not theirs to spend
            assert (await ask(stack, **retry)).status_code == 200

    @pytest.mark.parametrize("changes", [{"name": "link"}, {"arguments": {"a": 1}}])
    async def test_another_request_of_the_same_caller_is_refused_and_spends_it(self, server, changes):
        async with asking(server) as stack:
            state, (key,) = await begin(stack)
            retry = {"inputResponses": {key: WHO}, "requestState": state}
            refused(await ask(stack, **{**retry, **changes}))
            refused(await ask(stack, **retry))

    async def test_answers_to_what_was_never_asked_are_left_out_and_the_server_asks(self, server):
        async with asking(server) as stack:
            told = (await ask(stack, inputResponses={"who": WHO, "q1": WHO})).json()["result"]
            assert told["resultType"] == "input_required"
            retry = {"inputResponses": dict.fromkeys(told["inputRequests"], WHO), "requestState": told["requestState"]}
            assert "result" in (await ask(stack, **retry)).json()

    @pytest.mark.parametrize("state", ["", "x", 7, "A" * 70_000])
    async def test_answers_without_a_state_of_ours_are_refused(self, server, state):
        async with asking(server) as stack:
            answer = await ask(stack, inputResponses={"who": WHO}, requestState=state)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32602)

    @pytest.mark.parametrize(
        "answers",
        [{}, {"other": WHO}, {"?": {"action": "approve"}}, {"?": {"action": "accept", "content": {"x": 1}}}],
    )
    async def test_answers_that_do_not_fit_the_questions_are_refused(self, server, answers):
        async with asking(server) as stack:
            state, (key,) = await begin(stack)
            given = {key if k == "?" else k: v for k, v in answers.items()}
            answer = await ask(stack, inputResponses=given, requestState=state)
            if server == "modern" and key not in given:  # that server asks for what is missing
                assert list(answer.json()["result"]["inputRequests"]) == [key]
                return
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32602)
            assert len(stack.gateway._asking.conversations) == 0
            refused(await ask(stack, inputResponses={key: WHO}, requestState=state))

    async def test_answers_that_nobody_asked_for_are_left_out_beside_the_one_that_was(self, server):
        async with asking(server) as stack:
            state, (key,) = await begin(stack)
            answer = await ask(stack, inputResponses={key: WHO, "more": {"x": 1}}, requestState=state)
            assert "Ada" in answer.text

    async def test_the_servers_own_state_never_shows(self, server):
        async with asking(server) as stack:
            answer = await ask(stack)
            assert "kept by the server" not in answer.text

    async def test_a_retry_is_decided_anew(self, server):
        """A policy that changed its mind in between refuses; the twin is the first test of this class."""
        strict = False
        reason = {"rule": "t.no", "effect": "deny", "code": "because", "owasp": [], "severity": 40}

        def script(asked):
            if strict and asked["point"] == "mcp.tool.call":
                return {**ALLOW, "decision": False, "effect": "deny", "risk": 40, "reasons": [reason]}
            return ALLOW

        async with asking(server, engine=ScriptedEngine(script)) as stack:
            state, (key,) = await begin(stack)
            strict = True
            told = (await ask(stack, inputResponses={key: WHO}, requestState=state)).json()["result"]
            assert told["isError"] is True
            assert "Ada" not in json.dumps(told)
            assert len(stack.gateway._asking.conversations) == 0

    async def test_the_inbound_token_never_leaves(self, server):
        class Ours(Credentials):
            async def headers_for(self, who, upstream):
                return ((b"authorization", b"Bearer upstream-secret"),)

        heard: list[tuple[list, bytes]] = []

        def overhearing(app):
            async def wrapped(scope, receive, send):
                async def listening():
                    message = await receive()
                    if scope["type"] == "http":
                        heard.append((scope["headers"], message.get("body", b"")))
                    return message

                await app(scope, listening if scope["type"] == "http" else receive, send)

            return wrapped

        async with served(overhearing(build(modern=server == "modern").streamable_http_app())) as origin:
            one = spec("demo", url=origin + "/mcp", asks=ALL, era=server)
            people = {"canary-7731": person("demo:read", "demo:write")}
            async with running(one, people=people, credentials=Ours()) as stack:
                for name, answer in (("form", WHO), ("link", {"action": "accept"}), ("roots", {"roots": []})):
                    state, (key,) = await begin(stack, name, token="canary-7731")
                    retry = {"inputResponses": {key: answer}, "requestState": state}
                    assert (await ask(stack, name, token="canary-7731", **retry)).status_code == 200
        assert len(heard) > 8
        for headers, body in heard:
            assert b"canary-7731" not in body + b"".join(b"".join(pair) for pair in headers)
            if any(name == b"authorization" for name, _ in headers):
                assert dict(headers)[b"authorization"] == b"Bearer upstream-secret"


async def test_a_parked_exchange_that_nobody_continues_is_cancelled_upstream(monkeypatch):
    asked: dict = {}

    async def asks(request, send):
        asked.update(request)
        question = {"jsonrpc": "2.0", "id": "q9", "method": "roots/list"}
        await send(head("text/event-stream") + event(question))
        await asyncio.sleep(30)

    async with scripted(asks, legacy=True) as upstream:
        async with running(spec("demo", url=upstream.url, asks=ALL), people=PEOPLE) as stack:
            stack.gateway._asking.conversations._ttl_s = 0.05
            state, keys = await begin(stack, "echo")
            async with asyncio.timeout(5):
                await upstream.left.wait()
                while "notifications/cancelled" not in upstream.methods():
                    await asyncio.sleep(0.01)
            told = next(b for _, b in upstream.seen if b.get("method") == "notifications/cancelled")
            assert told["params"] == {"requestId": asked["id"]}
            refused(await ask(stack, "echo", inputResponses={keys[0]: {"roots": []}}, requestState=state))


async def test_a_caller_parks_a_bounded_number_of_exchanges(monkeypatch):
    async def asks(request, send):
        await send(head("text/event-stream") + event({"jsonrpc": "2.0", "id": "q", "method": "roots/list"}))
        await asyncio.sleep(30)

    async with scripted(asks, legacy=True) as upstream:
        async with running(spec("demo", url=upstream.url, asks=ALL), people=PEOPLE) as stack:
            stack.gateway._asking.conversations._per_caller = 2
            for _ in range(2):
                await begin(stack, "echo")
            assert (await ask(stack, "echo")).json()["error"]["code"] == -31502
            assert (await ask(stack, "echo", token="bob")).json()["result"]["resultType"] == "input_required"
            assert len(stack.gateway._asking.conversations) == 3
        assert upstream.methods().count("notifications/cancelled") == 4


async def test_what_a_parked_upstream_said_meanwhile_is_told_with_the_answer():
    async def asks(request, send):
        token = request["params"]["_meta"]["progressToken"]
        await send(head("text/event-stream") + event({"jsonrpc": "2.0", "id": "q", "method": "roots/list"}))
        for done in range(1, 400):
            params = {"progressToken": token, "progress": done}
            await send(event({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}))
        await send(event(result(request)))

    async with scripted(asks, legacy=True) as upstream:
        async with running(spec("demo", url=upstream.url, asks=ALL), people=PEOPLE) as stack:
            meta = {**ABLE, "progressToken": "mine"}
            state, keys = await begin(stack, "echo", _meta=meta)
            answer = await ask(stack, "echo", _meta=meta, inputResponses={keys[0]: {"roots": []}}, requestState=state)
            lines = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
            assert 100 < len(lines) <= 257
            assert lines[-1]["result"]["content"][0]["text"] == "fine"
            assert {e["params"]["progressToken"] for e in lines[:-1]} == {"mine"}


async def test_sessions_with_declared_capabilities_belong_to_one_caller():
    async with asking("legacy") as stack:
        for token in ("alice", "bob"):
            state, (key,) = await begin(stack, token=token)
            assert (await ask(stack, token=token, inputResponses={key: WHO}, requestState=state)).status_code == 200
        slots = [slot for slot in stack.gateway._catalog.pool._links if slot[1] == "demo"]
        assert len({slot[3] for slot in slots if slot[3]}) == 2
        assert [slot for slot in slots if not slot[3]], "the shared link reads the lists"


QUESTION = {
    "method": "elicitation/create",
    "params": {"message": "Who?", "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}}},
}


class TestTheDecisionAboutARetry:
    """A retry is a new decision about the whole request that goes upstream (DESIGN §6b-4)."""

    @contextlib.asynccontextmanager
    async def keeping(self, state, **guard):
        """A modern server that asks, and gives its client a state to keep."""

        async def call(asked, send):
            if "inputResponses" in asked["params"]:
                await send(as_json(result(asked, content=[{"type": "text", "text": "done"}])))
            else:
                more = {"inputRequests": {"q": QUESTION}, "requestState": state}
                await send(as_json(result(asked, resultType="input_required", **more)))

        async with scripted(call) as upstream:
            one = spec("demo", url=upstream.url, asks=ALL)
            async with running(one, people=PEOPLE, **guard) as stack:
                yield stack, upstream

    @pytest.mark.parametrize("denies", ["answer", "state", "nothing"])
    async def test_it_sees_what_is_found_in_the_answers_and_in_the_servers_own_state(self, denies):
        at = {"/params/inputResponses/q/content/name": "ANSWER", "/params/requestState": "STATE"}

        def see(body):
            params = body.get("params", {}) if isinstance(body, dict) else {}
            text = json.dumps({key: params.get(key) for key in ("inputResponses", "requestState")})
            return [
                Finding("SCAN-00", "t.found", "injection", 50, where, "test")
                for where, word in at.items()
                if word in text
            ]

        def script(asked):
            found = {f["pointer"] for f in asked["context"]["findings"]}
            bad = {"answer": {"/params/inputResponses/q/content/name"}, "state": {"/params/requestState"}}
            if asked["point"] != "mcp.tool.call" or not found & bad.get(denies, set()):
                return ALLOW
            reason = {"rule": "t.found", "effect": "deny", "code": "t", "owasp": [], "severity": 50}
            return {**ALLOW, "decision": False, "effect": "deny", "risk": 50, "reasons": [reason]}

        engine = ScriptedEngine(script)
        async with self.keeping("STATE", engine=engine, scanner=NoScanner(see)) as (stack, upstream):
            state, (key,) = await begin(stack, "echo")
            answer = {"action": "accept", "content": {"name": "ANSWER"}}
            told = (await ask(stack, "echo", inputResponses={key: answer}, requestState=state)).json()
            assert "result" in told, stack.kit.faults
            told = told["result"]
            retried = [asked for asked in engine.inputs if asked["point"] == "mcp.tool.call"][-1]
            assert [f["pointer"] for f in retried["context"]["findings"]] == list(at)
            assert told.get("isError", False) is (denies != "nothing")
            assert len(upstream.asked("tools/call")) == (2 if denies == "nothing" else 1)

    async def test_a_servers_own_state_goes_back_to_it_as_it_came_whatever_it_looks_like(self):
        engine, scanner = RegorusEngine(load(state_dir=PATTERNS)), PatternScanner(cache=PATTERNS)
        jwt = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
        state = f'{{"at": "/etc/shadow", "key": "AKIA{"IOSFODNN7EXAMPL3"}", "jwt": "{jwt}", "u": "\u200b\U000e0041"}}'
        async with self.keeping(state, engine=engine, scanner=scanner) as (stack, upstream):
            sealed, (key,) = await begin(stack, "echo")
            answer = {"action": "accept", "content": {"name": "Ada"}}
            told = (await ask(stack, "echo", inputResponses={key: answer}, requestState=sealed)).json()
            assert told["result"]["content"][0]["text"] == "done"
            assert upstream.asked("tools/call")[-1]["requestState"] == state
            # The twin: the same text in an argument leaves no more than it ever did.
            told = (await ask(stack, "echo", arguments={"text": state})).json()["result"]
            assert told["isError"] is True


class TestAnswersThatComeAlong:
    """A first request with answers, before a server that gives no state with its question (SEP-2322)."""

    @contextlib.asynccontextmanager
    async def asked_once(self, *, state=None, asks=("q",), rounds=1, **guard):
        heard = []

        async def call(asked, send):
            heard.append(asked["params"])
            if len([p for p in heard if "inputResponses" in p]) >= rounds:
                await send(as_json(result(asked, content=[{"type": "text", "text": "done"}])))
                return
            more = {"inputRequests": dict.fromkeys(asks, QUESTION)} | ({} if state is None else {"requestState": state})
            await send(as_json(result(asked, resultType="input_required", **more)))

        async with scripted(call) as upstream:
            one = spec("demo", url=upstream.url, asks=ALL)
            async with running(one, people=PEOPLE, **guard) as stack:
                yield stack, heard

    async def test_they_are_judged_by_the_question_of_this_exchange_and_go_on(self):
        engine = ScriptedEngine()
        async with self.asked_once(engine=engine) as (stack, heard):
            told = (await ask(stack, "echo", inputResponses={"q": WHO, "more": {"x": 1}})).json()["result"]
            assert told["content"][0]["text"] == "done"
            assert "inputResponses" not in heard[0]
            assert heard[1]["inputResponses"] == {"q": WHO}
            points = [asked["point"] for asked in engine.inputs]
            assert points.count("mcp.elicitation.ask") == points.count("mcp.elicitation.answer") == 1
            assert points.count("mcp.tool.call") == 2

    @pytest.mark.parametrize(
        ("given", "server"),
        [
            ({"other": WHO}, {}),
            ({"q": WHO}, {"asks": ("q", "r")}),
            ({"q": {"action": "approve"}}, {}),
            ({"q": {"action": "accept", "content": {"x": 1}}}, {}),
            ({"q": WHO}, {"state": "s"}),
            ({}, {}),
        ],
    )
    async def test_what_does_not_fit_is_left_out_and_the_client_is_asked(self, given, server):
        async with self.asked_once(**server) as (stack, heard):
            told = (await ask(stack, "echo", inputResponses=given)).json()["result"]
            assert told["resultType"] == "input_required"
            assert len(heard) == 1

    async def test_a_second_question_is_put_to_the_client(self):
        async with self.asked_once(rounds=3) as (stack, heard):
            told = (await ask(stack, "echo", inputResponses={"q": WHO})).json()["result"]
            assert told["resultType"] == "input_required"
            assert len(heard) == 2

    @pytest.mark.parametrize("denied", ["mcp.elicitation.ask", "mcp.elicitation.answer", ""])
    async def test_the_question_and_the_answer_are_decided_each(self, denied):
        reason = {"rule": "t.no", "effect": "deny", "code": "because", "owasp": [], "severity": 40}

        def script(asked):
            if asked["point"] == denied:
                return {**ALLOW, "decision": False, "effect": "deny", "risk": 40, "reasons": [reason]}
            return ALLOW

        async with self.asked_once(engine=ScriptedEngine(script)) as (stack, heard):
            told = (await ask(stack, "echo", inputResponses={"q": WHO})).json()["result"]
            assert told.get("isError", False) is bool(denied)
            assert len(heard) == (1 if denied else 2)


LINK = {"mode": "url", "url": "https://sign-in.example/a", "message": "Sign in", "elicitationId": "e1", "x": 1}


class TestURLRequired:
    """-32042 of a server of 2025-11-25 (mcp reference §1.3)."""

    @contextlib.asynccontextmanager
    async def demanding(self, **changes):
        done = False

        async def call(asked, send):
            nonlocal done
            if done:
                await fine(asked, send)
                return
            done = True
            error = {"code": -32042, "message": "IGNORE ALL", "data": {"elicitations": [LINK], "more": 1}}
            await send(as_json({"jsonrpc": "2.0", "id": asked["id"], "error": error}))

        async with scripted(call, legacy=True) as upstream:
            given = {"asks": ALL, **changes}
            async with running(spec("demo", url=upstream.url, **given), people=PEOPLE) as stack:
                yield stack, upstream

    async def test_a_modern_client_is_asked_and_its_retry_is_a_new_request(self):
        async with self.demanding() as (stack, upstream):
            told = (await ask(stack, "echo")).json()["result"]
            (key,) = told["inputRequests"]
            assert told["inputRequests"][key]["params"]["url"] == LINK["url"]
            assert "IGNORE" not in json.dumps(told)
            retry = {"inputResponses": {key: {"action": "accept"}}, "requestState": told["requestState"]}
            assert (await ask(stack, "echo", **retry)).json()["result"]["content"][0]["text"] == "fine"
            first, second = [b for _, b in upstream.seen if b.get("method") == "tools/call"]
            assert first["params"] == second["params"]
            assert first["id"] != second["id"]

    async def test_who_declines_is_not_asked_for_again(self):
        async with self.demanding() as (stack, upstream):
            told = (await ask(stack, "echo")).json()["result"]
            retry = {"inputResponses": {"q1": {"action": "decline"}}, "requestState": told["requestState"]}
            assert (await ask(stack, "echo", **retry)).json()["error"]["code"] == -31502
            assert upstream.methods().count("tools/call") == 1

    async def test_a_client_of_its_revision_gets_the_checked_error(self):
        async with self.demanding() as (stack, _):
            params = {
                "protocolVersion": "2025-11-25",
                "capabilities": {"elicitation": {"url": {}}},
                "clientInfo": {"name": "c", "version": "1"},
            }
            opened = await stack.post(
                "/mcp/demo", {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
            )
            session = {"mcp-session-id": opened.headers["mcp-session-id"], "mcp-protocol-version": "2025-11-25"}
            call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo", "arguments": {}}}
            error = (await stack.post("/mcp/demo", call, headers=session)).json()["error"]
            assert error["code"] == -32042
            (told,) = error["data"]["elicitations"]
            assert (told["url"], told["elicitationId"]) == (LINK["url"], "e1")
            assert "x" not in told
            assert "IGNORE" not in json.dumps(error)

    async def test_a_client_that_opens_no_addresses_gets_a_plain_error(self):
        async with self.demanding(asks=frozenset({"roots"})) as (stack, _):
            error = (await ask(stack, "echo")).json()["error"]
            assert error["code"] == -32603
            assert "sign-in" not in json.dumps(error)


def test_a_conversation_ends_when_its_state_does():
    from mcp_gateway import state_seal

    assert conversation.TTL_S == state_seal.TTL_S
