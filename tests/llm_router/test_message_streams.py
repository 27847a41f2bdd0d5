"""Streamed Anthropic answers through the router: what waits, what leaves, in which order, and how a stream ends."""

import asyncio
import json

import pytest

from examples.demo_provider import DemoProvider
from firewall.core.finding import Finding
from llm_router.relay import RelaySettings
from tests.llm_router.rig import ANTHROPIC_TOOLS
from tests.llm_router.test_message_serve import rig
from tests.llm_router.test_streams import Blind
from tests.sim import messages_provider as sim
from tests.sim.provider import SECRET, TEXT
from tests.support.kit import ALLOW, ScriptedEngine

pytestmark = pytest.mark.flow


async def test_a_stream_is_rebuilt_event_by_event(scanner):
    async with rig(scanner) as r:
        got = await r.message("ok", stream=True)
        assert got.status == 200
        assert got.headers["request-id"].startswith("x_")
        deltas = ["content_block_delta"] * len(TEXT)
        end = ["content_block_stop", "message_delta", "message_stop"]
        assert got.kinds == ["message_start", "content_block_start", *deltas, *end]
        begin = got.events[0]["message"]
        assert (begin["id"], begin["model"], begin["content"]) == ("msg_" + "0" * 25 + "1", "ok", [])
        assert begin["usage"]["input_tokens"] == 5
        assert got.said == "".join(TEXT)
        assert got.events[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
        assert got.events[-2]["usage"]["output_tokens"] == 5
        assert r.meter.spent(r.principal) == (12, 54)
        assert r.kit.audit.records[-1]["outcome"]["result"] == "ok"


async def test_without_the_providers_count_ours_is_charged(scanner):
    async with rig(scanner) as r:
        got = await r.message("no-usage", stream=True)
        assert not r.spent[0].counted
        assert r.spent[0].usage.output == -(-len("".join(TEXT)) // 2)
        assert got.events[-2]["usage"]["output_tokens"] == r.spent[0].usage.output


@pytest.mark.parametrize("model", ["secret-split", "secret-blocks"])
async def test_a_secret_split_over_deltas_or_blocks_never_leaves(scanner, model):
    async with rig(scanner) as r:
        got = await r.message(model, stream=True)
        assert got.said == "the key is [redacted:secret.aws_access_key] ok"
        assert got.kinds[-1] == "message_stop"
        for part in (SECRET[:9], SECRET[9:]):
            assert part.encode() not in got.body
    async with rig(Blind()) as r:
        assert SECRET in (await r.message(model, stream=True)).said


async def test_thinking_and_text_are_not_read_as_one_text(scanner):
    """Glued to the last letter of the thinking, the key would stand inside a word and be none."""
    async with rig(scanner) as r:
        got = await r.message("secret-glued", stream=True)
        assert got.said == "[redacted:secret.aws_access_key] ok"
        assert got.blocks[0]["thinking"] == "hmx"


async def test_text_cannot_be_pulled_apart_by_a_block_between(scanner):
    async with rig(scanner) as r:
        got = await r.message("secret-apart", stream=True)
        assert got.error["code"] == "upstream_malformed"
        assert SECRET[9:].encode() not in got.body


async def test_hidden_characters_are_cleaned_out_of_a_stream(scanner):
    async with rig(scanner) as r:
        assert (await r.message("hidden", stream=True)).said == "fine text"


@pytest.mark.parametrize("model", ["thinking", "redacted-thinking"])
async def test_thinking_that_is_clean_comes_through_with_its_signature(scanner, model):
    async with rig(scanner) as r:
        got = await r.message(model, stream=True)
        assert got.blocks == sim.WHOLES[model]["content"]
        assert got.kinds[-1] == "message_stop"


@pytest.mark.parametrize("model", ["thinking-secret", "thinking-hidden"])
async def test_thinking_is_blocked_rather_than_changed(scanner, model):
    async with rig(scanner) as r:
        got = await r.message(model, stream=True)
        assert got.kinds[-1] == "error"
        assert got.error["code"] == "denied"
        assert got.events[-1]["request_id"].startswith("d_")
        assert "signature_delta" not in got.body.decode()
        assert SECRET[9:].encode() not in got.body
        assert r.kit.audit.records[-1]["outcome"]["result"] == "refused"
    async with rig(Blind()) as r:
        assert (await r.message(model, stream=True)).kinds[-1] == "message_stop"


async def test_a_tool_call_leaves_whole_and_decided(scanner):
    async with rig(scanner) as r:
        got = await r.message("call", stream=True, tools=ANTHROPIC_TOOLS)
        assert got.said == "Let me look."
        assert got.used == [{"type": "tool_use", "id": "toolu_1", "name": "get_time", "input": {"zone": "UTC"}}]
        assert got.body.count(b"partial_json") == 1
        assert got.events[-2]["delta"]["stop_reason"] == "tool_use"
        assert r.points.count("llm.tool_call") == 1
        for model, given in (("call-given", {"zone": "UTC"}), ("call-bare", {})):
            assert (await r.message(model, stream=True, tools=ANTHROPIC_TOOLS)).used[0]["input"] == given


async def test_blocks_behind_a_call_keep_their_order(scanner):
    async with rig(scanner) as r:
        got = await r.message("call-two", stream=True, tools=ANTHROPIC_TOOLS)
        assert [block["type"] for block in got.blocks] == ["tool_use", "thinking", "tool_use"]
        assert got.blocks[1]["signature"] == sim.SIGNATURE
        assert [call["id"] for call in got.used] == ["toolu_1", "toolu_2"]
        got = await r.message("call-redacted", stream=True, tools=ANTHROPIC_TOOLS)
        assert [block["type"] for block in got.blocks] == ["tool_use", "redacted_thinking", "tool_use"]
        assert got.blocks[1]["data"] == sim.REDACTED
        got = await r.message("call-late-text", stream=True, tools=ANTHROPIC_TOOLS)
        assert [block["type"] for block in got.blocks] == ["tool_use", "text"]
        assert got.said == "And so."


async def test_thinking_behind_a_call_is_judged_as_well(scanner):
    async with rig(scanner) as r:
        got = await r.message("call-late-secret", stream=True, tools=ANTHROPIC_TOOLS)
        assert (got.kinds[-1], got.error["code"]) == ("error", "denied")
        assert SECRET.encode() not in got.body
        assert "message_stop" not in got.kinds


@pytest.mark.parametrize("model", ["call-secret", "call-address"])
async def test_a_denied_call_ends_the_stream_with_an_error_and_no_piece_of_it_leaves(scanner, model):
    async with rig(scanner) as r:
        got = await r.message(model, stream=True, tools=ANTHROPIC_TOOLS)
        assert (got.status, got.kinds[-1], got.error["code"]) == (200, "error", "denied")
        assert got.used == []
        assert b"tool_use" not in got.body
        assert r.kit.audit.records[-1]["outcome"]["result"] == "refused"
    async with rig(Blind()) as r:
        got = await r.message(model, stream=True, tools=ANTHROPIC_TOOLS)
        assert got.used[0]["input"]["zone"] in (SECRET, sim.ADDRESS)


async def test_a_denied_call_takes_the_calls_beside_it_with_it():
    def script(asked):
        if asked["point"] == "llm.tool_call" and asked["action"]["properties"]["arguments"]["name"] == "read_file":
            reason = {"rule": "t.no", "effect": "deny", "code": "no", "owasp": [], "severity": 50}
            return {**ALLOW, "decision": False, "effect": "deny", "reasons": [reason]}
        return ALLOW

    async with rig(Blind(), engine=ScriptedEngine(script)) as r:
        got = await r.message("call-two", stream=True, tools=ANTHROPIC_TOOLS)
        assert (got.used, got.error["code"]) == ([], "denied")


class NoticesCalls(Blind):
    """Sees something beside the input of every streamed tool call."""

    def scan(self, body, point, tenant):
        called = body.get("content_block", {}).get("type") == "tool_use"
        return [Finding("SCAN-04", "t.seen", "markup", 90, "/content_block/name", "test")] if called else []


async def test_a_decided_call_that_is_changed_afterwards_does_not_leave():
    def script(asked):
        if not asked["context"]["findings"]:
            return ALLOW
        reason = {"rule": "t.set", "effect": "transform", "code": "set", "owasp": [], "severity": 5}
        duty = {"type": "replace", "pointer": "/content_block/name", "value": "read_file"}
        return {**ALLOW, "effect": "transform", "reasons": [reason], "obligations": [duty]}

    async with rig(NoticesCalls(), engine=ScriptedEngine(script)) as r:
        got = await r.message("call", stream=True, tools=ANTHROPIC_TOOLS)
        assert (got.used, got.error["code"]) == ([], "denied")


@pytest.mark.parametrize("model", ["call-cut", "call-cut-bare"])
async def test_a_call_cut_by_the_limit_is_left_out_and_the_reason_stays(scanner, model):
    async with rig(scanner) as r:
        got = await r.message(model, stream=True, tools=ANTHROPIC_TOOLS)
        assert (got.used, got.kinds[-1]) == ([], "message_stop")
        assert got.events[-2]["delta"]["stop_reason"] == "max_tokens"


@pytest.mark.parametrize("model", ["citations", "unknown-event", "foreign-members", "foreign-stop"])
async def test_what_is_not_known_of_a_stream_never_leaves(scanner, model):
    async with rig(scanner) as r:
        got = await r.message(model, stream=True)
        assert (got.said, got.kinds[-1]) == ("hi", "message_stop")
        assert SECRET.encode() not in got.body


async def test_a_stop_sequence_is_told_where_the_request_named_it(scanner):
    async with rig(scanner) as r:
        got = await r.message("own-stop", stream=True, stop_sequences=["END"])
        assert got.events[-2]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "END"}
        assert (await r.message("own-stop", stream=True)).events[-2]["delta"]["stop_sequence"] is None


@pytest.mark.parametrize(
    ("model", "code"),
    [
        *((name, "upstream_malformed") for name in ("call-invalid", "call-duplicate", "call-unoffered")),
        *((name, "upstream_malformed") for name in ("call-same-id", "call-two-inputs", "server-tool", "server-result")),
        *((name, "upstream_malformed") for name in ("two-starts", "no-start", "start-content", "wrong-index")),
        *((name, "upstream_malformed") for name in ("open-twice", "wrong-delta", "unknown-delta", "end-inside")),
        *((name, "upstream_malformed") for name in ("after-end", "no-reason", "error-bare", "rubbish", "not-json")),
        ("huge", "upstream_too_large"),
        ("cut", "upstream_cut_stream"),
        ("half-event", "upstream_cut_stream"),
        ("no-end", "upstream_cut_stream"),
        ("start-only", "upstream_cut_stream"),
        ("nothing", "upstream_cut_stream"),
        ("stalls", "upstream_timeout"),
    ],
)
async def test_a_stream_that_goes_wrong_ends_with_an_error_and_the_next_call_works(scanner, model, code):
    async with rig(scanner, relay=RelaySettings(stream_s=3, idle_s=0.3, event_bytes=100_000)) as r:
        got = await r.message(model, stream=True, tools=ANTHROPIC_TOOLS)
        assert got.error["code"] == code
        assert (got.kinds[-1:] or ["error"]) == ["error"]  # as a status where nothing had left yet
        assert "message_stop" not in got.kinds
        assert SECRET.encode() not in got.body
        assert r.meter.spent(r.principal)[0] > 0
        assert (await r.message("ok", stream=True)).kinds[-1] == "message_stop"


async def test_an_error_of_the_provider_midway_is_inspected_before_it_is_told(scanner):
    async with rig(scanner) as r:
        got = await r.message("error-midway", stream=True)
        assert got.kinds[-1] == "error"
        assert got.error["type"] == "api_error"
        assert got.error["message"].startswith("overloaded")
        assert SECRET.encode() not in got.body


@pytest.mark.parametrize("model", ["err400", "err401", "wrong-type"])
async def test_a_stream_that_never_began_is_answered_with_a_status(scanner, model):
    async with rig(scanner) as r:
        got = await r.message(model, stream=True)
        assert got.status == (400 if model == "err400" else 502)
        assert got.headers["content-type"] == "application/json"


async def test_a_client_that_leaves_a_stream_cancels_the_provider_and_settles(scanner):
    async with rig(scanner, relay=RelaySettings(stream_s=30, idle_s=30)) as r:
        raw = json.dumps({**r.body("stalls", stream=True), "max_tokens": 9}).encode()
        headers = {"x-api-key": "alice", "content-type": "application/json"}
        async with r.session.post(r.url + "/v1/messages", data=raw, headers=headers) as got:
            await got.content.readany()
        async with asyncio.timeout(3):
            await r.provider.left.wait()
        await r.settled()
        assert r.kit.audit.records[-1]["outcome"]["result"] == "cancelled"
        # The provider had counted the input; of the output we know what arrived.
        assert (r.spent[0].usage.input, r.spent[0].usage.output) == (7, 1)
        assert r.meter.spent(r.principal)[0] == 8


async def test_what_leaves_does_not_depend_on_how_the_bytes_were_cut(scanner):
    """The same events, one byte per write: a provider may cut inside a character."""
    events = [sim.start(), *sim.text(0, "안녕 👋 " + SECRET[:6], SECRET[6:]), *sim.END]

    async def dripping(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for byte in b"".join(
            f"event: {e['type']}\ndata: {json.dumps(e, ensure_ascii=False)}\n\n".encode() for e in events
        ):
            await send({"type": "http.response.body", "body": bytes([byte]), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async with rig(scanner, app=dripping) as r:
        got = await r.message("ok", stream=True)
        assert got.said.startswith("안녕 👋 [redacted:")
        assert got.kinds[-1] == "message_stop"


async def test_the_demonstration_provider_streams_through_the_router(scanner):
    async with rig(scanner, app=DemoProvider(key="operator-key")) as r:
        for stream in (False, True):
            got = await r.message("demo-small", "What time is it?", stream=stream, tools=ANTHROPIC_TOOLS)
            assert got.used[0]["input"] == {"zone": "Europe/Paris"}
            assert (await r.message("demo-small", "say hello there", stream=stream)).said == "hello there"
