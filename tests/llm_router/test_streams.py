"""Streamed answers through the router: what waits, what leaves, in which order, and how a stream ends."""

import asyncio
import json

import pytest

from examples.demo_provider import DemoProvider
from firewall.core.finding import Finding
from llm_router.relay import RelaySettings
from tests.llm_router.rig import TOOLS, rig
from tests.sim.provider import INSTRUCTION_TAGS, SECRET, TEXT
from tests.support.kit import ALLOW, NoScanner, ScriptedEngine

pytestmark = pytest.mark.flow


class Blind(NoScanner):
    """A scanner that sees nothing, in streams too: the control switched off."""

    def open_stream(self, point, tenant):
        return self

    def feed(self, text):
        self.length = getattr(self, "length", 0) + len(text)
        return []

    def calm(self, text):
        self.feed(text)
        return True

    def safe(self):
        return getattr(self, "length", 0)

    def close(self):
        return []


async def test_a_stream_is_rebuilt_chunk_by_chunk_and_ends_with_done(scanner):
    async with rig(scanner) as r:
        got = await r.ask("ok", stream=True)
        assert got.status == 200
        assert got.headers["x-request-id"].startswith("x_")
        assert got.text == "".join(TEXT)
        assert got.events[-1] == "[DONE]"
        assert got.finish == "stop"
        assert got.chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert {e["model"] for e in got.chunks} == {"ok"}
        assert len({e["id"] for e in got.chunks}) == 1
        # Nobody asked for usage, so none is told; it was asked for upstream, and settles the bill.
        assert not any("usage" in e for e in got.chunks)
        assert r.provider.seen[0][1]["stream_options"] == {"include_usage": True}
        assert r.meter.spent(r.principal) == (12, 54)
        assert r.kit.audit.records[-1]["outcome"]["result"] == "ok"


async def test_usage_comes_last_for_those_who_ask(scanner):
    async with rig(scanner) as r:
        got = await r.ask("ok", stream=True, stream_options={"include_usage": True})
        assert got.chunks[-1]["choices"] == []
        assert got.chunks[-1]["usage"]["total_tokens"] == 12
        assert got.chunks[-2]["choices"][0]["finish_reason"] == "stop"


async def test_streams_one_after_the_other_use_one_connection(scanner):
    peers = set()

    async def noting(scope, receive, send):
        peers.add(scope["client"])
        last = {"type": "http.response.body", "body": b""}

        async def ending_late(message):
            if message == last:
                await asyncio.sleep(0.01)
            await send(message)

        await DemoProvider()(scope, receive, ending_late)

    async with rig(scanner, app=noting) as r:
        for _ in range(3):
            assert (await r.ask("demo-small", stream=True)).events[-1] == "[DONE]"
    assert len(peers) == 1


async def test_a_provider_that_goes_on_after_done_holds_nobody_up(scanner):
    async def lingering(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        end = b'data: {"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
        await send({"type": "http.response.body", "body": end, "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass

    async with rig(scanner, app=lingering) as r:
        got = await r.ask("ok", stream=True)
        assert (got.text, got.events[-1]) == ("x", "[DONE]")


async def test_without_the_providers_count_ours_is_charged(scanner):
    async with rig(scanner) as r:
        await r.ask("no-usage", stream=True)
        assert not r.spent[0].counted
        assert r.spent[0].usage.output == -(-len("".join(TEXT)) // 2)


async def test_a_secret_split_over_two_deltas_never_leaves(scanner):
    async with rig(scanner) as r:
        got = await r.ask("secret-split", stream=True)
        assert SECRET[:9] not in got.text
        assert SECRET[9:] not in got.text
        assert got.text.startswith("the key is [redacted:")
        assert got.text.endswith(" ok")
        assert got.events[-1] == "[DONE]"


async def test_twin_without_the_scanner_the_split_secret_leaves():
    async with rig(Blind()) as r:
        assert SECRET in (await r.ask("secret-split", stream=True)).text


def said(*texts, finish="stop"):
    """Return a whole stream, as its provider would write it at once."""
    chunks = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in texts]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    return [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks]


def writing(*reads):
    """Return a provider that writes these bytes, each in a read of its own."""

    async def app(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for data in reads:
            await send({"type": "http.response.body", "body": data, "more_body": True})
            await asyncio.sleep(0.001)
        await send({"type": "http.response.body", "body": b""})

    return app


@pytest.mark.parametrize("effect", ["deny", "transform", "allow"])
async def test_what_leaves_is_the_same_whether_it_came_at_once_or_word_by_word(scanner, effect):
    words = [f"word{n} " for n in range(150)]
    words[90] = f"{SECRET} "

    def script(asked):
        found = [f for f in asked["context"]["findings"] if f["category"] == "secret"]
        if not found or effect == "allow":
            return ALLOW
        why = {"rule": "t.secret", "effect": effect, "code": "secret", "owasp": [], "severity": 90}
        duties = [{"type": "redact", "pointer": f["pointer"]} for f in found] if effect == "transform" else []
        allowed = effect == "transform"
        return {**ALLOW, "decision": allowed, "effect": effect, "risk": 90, "reasons": [why], "obligations": duties}

    got = []
    stream = said(*words)
    for reads in ([b"".join([*stream, b"data: [DONE]\n\n"])], [*stream, b"data: [DONE]\n\n"]):
        async with rig(scanner, app=writing(*reads), engine=ScriptedEngine(script)) as r:
            answer = await r.ask("ok", stream=True)
            got.append((answer.text, answer.events[-1] == "[DONE]", len(answer.chunks)))
    assert got[0] == got[1]
    assert (SECRET in got[0][0]) is (effect == "allow")
    assert got[0][1] is (effect != "deny")
    assert got[0][0].startswith("word0 word1 ")


async def test_what_came_before_rubbish_leaves_before_the_fault_is_told(scanner):
    words = [f"word{n} " for n in range(150)]
    stream = b"".join(said(*words)[:-1]) + b"data: {not json\n\n"
    async with rig(scanner, app=writing(stream)) as r:
        got = await r.ask("ok", stream=True)
        assert got.text.startswith("word0 word1 ")
        assert "".join(words).startswith(got.text)  # but for what was still held back
        assert got.events[-1] != "[DONE]"
        assert r.kit.audit.records[-1]["outcome"]["result"] == "upstream_fault"


async def test_hidden_characters_are_cleaned_out_of_a_stream(scanner):
    async with rig(scanner) as r:
        got = await r.ask("hidden", stream=True)
        assert got.text == "fine text"
        assert INSTRUCTION_TAGS not in got.body.decode()


async def test_log_probabilities_do_not_carry_text_round_the_inspector(scanner):
    async with rig(scanner) as r:
        got = await r.ask("logprobs", stream=True)
        assert SECRET.encode() not in got.body


async def test_text_and_refusal_cannot_alternate_to_pull_a_match_apart(scanner):
    async with rig(scanner) as r:
        got = await r.ask("alternating", stream=True)
        assert got.error["code"] == "upstream_malformed"
        assert SECRET[:9].encode() not in got.body


@pytest.mark.parametrize("model", ["call", "call-everywhere", "call-interleaved"])
async def test_tool_calls_leave_whole_and_decided_whatever_way_they_came(scanner, model):
    async with rig(scanner) as r:
        got = await r.ask(model, stream=True, tools=TOOLS)
        assert got.calls[0] == {
            "index": 0,
            "id": "call_1",
            "type": "function",
            "function": {"name": "get_time", "arguments": '{"zone":"UTC"}'},
        }
        assert [c["function"]["name"] for c in got.calls] == ["get_time", "read_file"][: len(got.calls)]
        assert len(got.calls) == (2 if model == "call-interleaved" else 1)
        assert got.finish == "tool_calls"
        assert got.events[-1] == "[DONE]"
        assert r.points.count("llm.tool_call") == len(got.calls)


async def test_a_denied_tool_call_ends_the_stream_with_an_error_and_no_piece_of_it_leaves(scanner):
    async with rig(scanner) as r:
        got = await r.ask("call-secret", stream=True, tools=TOOLS)
        assert got.status == 200
        assert got.error["code"] == "denied"
        assert got.error["decision_id"].startswith("d_")
        assert got.calls == []
        assert "[DONE]" not in got.events
        assert SECRET[8:].encode() not in got.body
        assert r.kit.audit.records[-1]["outcome"]["result"] == "refused"
        assert "content.secret_in_request" in r.rules


async def test_twin_without_the_scanner_the_tool_call_leaves():
    async with rig(Blind()) as r:
        got = await r.ask("call-secret", stream=True, tools=TOOLS)
        assert SECRET in got.calls[0]["function"]["arguments"]


async def test_a_denied_call_takes_the_calls_beside_it_with_it():
    def script(asked):
        if asked["point"] == "llm.tool_call" and asked["action"]["properties"]["arguments"]["name"] == "read_file":
            reason = {"rule": "t.no", "effect": "deny", "code": "no", "owasp": [], "severity": 50}
            return {**ALLOW, "decision": False, "effect": "deny", "reasons": [reason]}
        return ALLOW

    async with rig(Blind(), engine=ScriptedEngine(script)) as r:
        got = await r.ask("call-interleaved", stream=True, tools=TOOLS)
        assert got.calls == []
        assert got.error["code"] == "denied"


async def test_an_obligation_on_a_tool_calls_argument_is_what_leaves():
    def script(asked):
        if asked["point"] != "llm.tool_call":
            return ALLOW
        reason = {"rule": "t.set", "effect": "transform", "code": "set", "owasp": [], "severity": 5}
        duty = {"type": "replace", "pointer": "/function/arguments/zone", "value": "Europe/Paris"}
        return {**ALLOW, "effect": "transform", "reasons": [reason], "obligations": [duty]}

    for stream in (True, False):
        async with rig(Blind(), engine=ScriptedEngine(script)) as r:
            got = await r.ask("call", stream=stream, tools=TOOLS)
            calls = got.calls if stream else got.json["choices"][0]["message"]["tool_calls"]
            assert json.loads(calls[0]["function"]["arguments"]) == {"zone": "Europe/Paris"}


async def test_a_call_cut_by_the_limit_is_left_out_and_the_reason_stays(scanner):
    async with rig(scanner) as r:
        got = await r.ask("call-cut", stream=True, tools=TOOLS)
        assert (got.calls, got.finish, got.events[-1]) == ([], "length", "[DONE]")


@pytest.mark.parametrize(
    ("model", "code"),
    [
        ("call-invalid", "upstream_malformed"),
        ("call-unoffered", "upstream_malformed"),
        ("two-choices", "upstream_malformed"),
        ("second-choice", "upstream_malformed"),
        ("function-call", "upstream_malformed"),
        ("after-end", "upstream_malformed"),
        ("rubbish", "upstream_malformed"),
        ("not-json", "upstream_malformed"),
        ("huge", "upstream_too_large"),
        ("cut", "upstream_cut_stream"),
        ("half-event", "upstream_cut_stream"),
        ("no-end", "upstream_cut_stream"),
        ("stalls", "upstream_timeout"),
    ],
)
async def test_a_stream_that_goes_wrong_ends_with_an_error_event_and_the_next_call_works(scanner, model, code):
    async with rig(scanner, relay=RelaySettings(stream_s=3, idle_s=0.3, event_bytes=100_000)) as r:
        got = await r.ask(model, stream=True, tools=TOOLS)
        assert got.error["code"] == code
        assert got.error["decision_id"].startswith("x_")
        assert "[DONE]" not in got.events
        assert got.finish in (None, "stop" if model in ("after-end",) else None)
        assert r.meter.spent(r.principal)[0] > 0
        assert (await r.ask("ok", stream=True)).events[-1] == "[DONE]"


@pytest.mark.parametrize("model", ["err400", "err401", "wrong-type"])
async def test_a_stream_that_never_began_is_answered_with_a_status(scanner, model):
    async with rig(scanner) as r:
        got = await r.ask(model, stream=True)
        assert got.status == (400 if model == "err400" else 502)
        assert got.headers["content-type"] == "application/json"


async def test_an_error_of_the_provider_midway_is_inspected_before_it_is_told(scanner):
    async with rig(scanner) as r:
        got = await r.ask("error-midway", stream=True)
        assert got.error["type"] == "server_error"
        assert got.error["message"].startswith("overloaded")
        assert SECRET.encode() not in got.body
        assert "[DONE]" not in got.events


async def test_an_answer_that_may_not_begin_is_refused_with_a_status():
    def script(asked):
        if asked["point"] != "llm.response":
            return ALLOW
        reason = {"rule": "t.no", "effect": "deny", "code": "no", "owasp": [], "severity": 50}
        return {**ALLOW, "decision": False, "effect": "deny", "reasons": [reason]}

    async with rig(Blind(), engine=ScriptedEngine(script)) as r:
        got = await r.ask("ok", stream=True)
        assert (got.status, got.error["code"]) == (403, "denied")


async def test_a_client_that_leaves_a_stream_cancels_the_provider_and_settles(scanner):
    async with rig(scanner, relay=RelaySettings(stream_s=30, idle_s=30)) as r:
        raw = json.dumps(r.body("stalls", stream=True)).encode()
        headers = {"authorization": "Bearer alice", "content-type": "application/json"}
        async with r.session.post(r.url + "/v1/chat/completions", data=raw, headers=headers) as got:
            await got.content.readany()
        async with asyncio.timeout(3):
            await r.provider.left.wait()
        await r.settled()
        assert r.kit.audit.records[-1]["outcome"]["result"] == "cancelled"
        assert r.spent[0].usage.output > 0


async def test_what_leaves_does_not_depend_on_how_the_bytes_were_cut(scanner):
    """The same chunks, one byte per write: a provider may cut inside a character."""

    async def dripping(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        first = json.dumps(
            {"choices": [{"index": 0, "delta": {"content": "안녕 👋 " + SECRET[:6]}}]}, ensure_ascii=False
        )
        second = json.dumps({"choices": [{"index": 0, "delta": {"content": SECRET[6:]}, "finish_reason": "stop"}]})
        for byte in f"data: {first}\n\ndata: {second}\n\ndata: [DONE]\n\n".encode():
            await send({"type": "http.response.body", "body": bytes([byte]), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async with rig(scanner, app=dripping) as r:
        got = await r.ask("ok", stream=True)
        assert got.text.startswith("안녕 👋 [redacted:")
        assert got.events[-1] == "[DONE]"


async def test_the_demonstration_provider_streams_a_tool_call_through_the_router(scanner):
    async with rig(scanner, app=DemoProvider(key="operator-key")) as r:
        got = await r.ask("demo-small", "What time is it?", stream=True, tools=TOOLS)
        assert json.loads(got.calls[0]["function"]["arguments"]) == {"zone": "Europe/Paris"}
        assert (await r.ask("demo-small", "say hello there", stream=True)).text == "hello there"


class NoticesCalls(Blind):
    """Sees something beside the arguments of every streamed tool call."""

    def scan(self, body, point, tenant):
        delta = body["choices"][0]["delta"] if body.get("choices") else {}
        at = "/choices/0/delta/tool_calls/0/function/name"
        return [Finding("SCAN-04", "t.seen", "markup", 90, at, "test")] if "tool_calls" in delta else []


async def test_a_decided_call_that_is_changed_afterwards_does_not_leave():
    """What the answer's own rules do to the event may not turn a decided call into another one."""

    def script(asked):
        if not asked["context"]["findings"]:
            return ALLOW
        reason = {"rule": "t.set", "effect": "transform", "code": "set", "owasp": [], "severity": 5}
        duty = {"type": "replace", "pointer": "/choices/0/delta/tool_calls/0/function/name", "value": "read_file"}
        return {**ALLOW, "effect": "transform", "reasons": [reason], "obligations": [duty]}

    async with rig(NoticesCalls(), engine=ScriptedEngine(script)) as r:
        got = await r.ask("call", stream=True, tools=TOOLS)
        assert got.error["code"] == "denied"
        assert got.calls == []
