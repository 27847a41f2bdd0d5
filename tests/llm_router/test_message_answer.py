"""Anthropic answers: read strictly, whole and event by event, and built so that the client's own types accept them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firewall.core.errors import UpstreamFault
from llm_router import message_answer as msg
from llm_router.answer import Head, Usage
from llm_router.assemble import ARGUMENT_CHARS, ToolCall
from llm_router.message_answer import Redacted, Text, Thinking
from llm_router.message_events import Begun, Closed, Ended, Events, Opened, Said
from tests.sim import messages_provider as sim

HEAD = Head("msg_1", 0, "alias")
FINE = {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "x"}], "stop_reason": "end_turn"}


def read(*events):
    machine = Events()
    out = [step for event in events for step in machine.feed(event)]
    return out, machine.done


# -- whole answers --------------------------------------------------------------------------------------


def test_a_whole_answer_is_read_member_by_member():
    value = sim.whole(
        sim.thought("hm"), {"type": "redacted_thinking", "data": "eA"}, sim.said("a"), sim.said("b"), sim.used({"z": 1})
    )
    got = msg.parse_answer({**value, "stop_reason": "tool_use", "container": {"id": "x"}, "extra": 1})
    assert got.blocks == (
        Thinking("hm", sim.SIGNATURE),
        Redacted("eA"),
        Text("ab"),  # neighbours become one
        ToolCall(3, "toolu_1", "get_time", {"z": 1}),
    )
    assert (got.stop, got.usage) == ("tool_use", Usage(7, 5, 2))


@pytest.mark.parametrize(
    "change",
    [
        {"type": "completion"},
        {"role": "user"},
        {"content": None},
        {"content": "x"},
        {"content": ["x"]},
        {"content": [{"type": "text", "text": 5}]},
        {"content": [{"type": "tool_use", "id": "t", "name": "f", "input": "{}"}]},
        {"content": [{"type": "server_tool_use", "id": "t", "name": "web_search", "input": {}}]},
        {"content": [{"type": "web_search_tool_result", "content": []}]},
        {"content": [{"type": ["text"]}]},
        {"content": [sim.said("a"), sim.thought("b"), sim.said("c")]},
        {"content": [sim.said("a"), sim.used({}), sim.said("c")]},
        {"stop_reason": 5},
        {"stop_sequence": 5},
    ],
)
def test_a_whole_answer_of_another_shape_is_malformed(change):
    with pytest.raises(UpstreamFault) as caught:
        msg.parse_answer({**FINE, **change})
    assert caught.value.code == "malformed"


def test_bounds_of_a_whole_answer():
    with pytest.raises(UpstreamFault, match="too_large"):
        msg.parse_answer({**FINE, "content": [sim.said("x" * (8 * 2**20 + 1))]})
    with pytest.raises(UpstreamFault, match="too_large"):
        msg.parse_answer({**FINE, "content": [sim.thought("x")] * 1025})


def test_unknown_reasons_to_stop_are_told_as_the_plain_one():
    assert msg.parse_answer({**FINE, "stop_reason": "pause_turn"}).stop == "end_turn"
    assert msg.parse_answer({**FINE, "stop_reason": None}).stop == "end_turn"
    assert [msg.ended(stop, calls=True) for stop in ("end_turn", "max_tokens")] == ["tool_use", "max_tokens"]
    assert msg.ended("tool_use", calls=False) == "end_turn"


def test_the_last_call_of_a_cut_answer_is_left_out():
    cut = msg.parse_answer({**FINE, "content": [sim.said("a"), sim.used({})], "stop_reason": "max_tokens"})
    assert cut.blocks == (Text("a"),)


@pytest.mark.parametrize(
    ("value", "usage"),
    [
        (None, None),
        ({}, None),
        ({"output_tokens": 1}, None),
        ({"input_tokens": -1, "output_tokens": 1}, None),
        ({"input_tokens": True, "output_tokens": 1}, None),
        ({"input_tokens": 2**40, "output_tokens": 1}, None),
        ({"input_tokens": 3, "output_tokens": 1}, Usage(3, 1)),
        (
            {"input_tokens": 3, "output_tokens": 5, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 2},
            Usage(9, 5, 4),
        ),
        ({"input_tokens": 3, "output_tokens": 5, "output_tokens_details": {"thinking_tokens": 4}}, Usage(3, 5, 0, 4)),
        ({"input_tokens": 3, "output_tokens": 5, "output_tokens_details": {"thinking_tokens": 9}}, Usage(3, 5, 0, 5)),
    ],
)
def test_usage_counts_all_input_or_is_none(value, usage):
    assert msg.parse_usage(value) == usage


def test_the_end_of_a_stream_may_name_the_output_alone():
    assert msg.parse_usage({"output_tokens": 9}, Usage(7, 1, 2)) == Usage(7, 9, 2)
    assert msg.parse_usage({"input_tokens": 8, "output_tokens": 9}, Usage(7, 1, 2)) == Usage(8, 9)


def test_calls_are_of_offered_tools_and_have_ids_of_their_own():
    calls = [ToolCall(0, "", "f", {}), Text("x"), ToolCall(2, "", "f", {})]
    assert [b.id for b in msg.check_calls(calls, "a", frozenset({"f"})) if isinstance(b, ToolCall)] == [
        "toolu_a_0",
        "toolu_a_1",
    ]
    for wrong in ([ToolCall(0, "i", "g", {})], [ToolCall(0, "i" * 257, "f", {})], [ToolCall(0, "i", "f", {})] * 2):
        with pytest.raises(UpstreamFault, match="malformed"):
            msg.check_calls(wrong, "a", frozenset({"f"}))
    with pytest.raises(UpstreamFault, match="too_large"):
        msg.check_calls([ToolCall(i, "", "f", {}) for i in range(129)], "a", frozenset({"f"}))


# -- events ---------------------------------------------------------------------------------------------


def test_a_stream_is_read_block_by_block():
    steps, done = read(*sim.STREAMS["thinking"])
    assert steps == [
        Begun(Usage(7, 1, 2)),
        Opened("thinking"),
        Said("Let me "),
        Said("think."),
        Closed(Thinking("Let me think.", sim.SIGNATURE)),
        Opened("text"),
        Said("Done."),
        Closed(Text("Done.")),
        Ended("end_turn", "", Usage(7, 5, 2)),
    ]
    assert done


def test_a_call_is_nothing_until_it_is_whole():
    steps, _ = read(sim.start(), *sim.call(0, "", '{"zone":', '"UTC"}'))
    assert steps[1:] == [Closed(ToolCall(0, "toolu_1", "get_time", {"zone": "UTC"}), size=14)]
    steps, _ = read(sim.start(), *sim.call(0, '{"zone":"U'))
    assert steps[1].torn
    steps, _ = read(sim.start(), *sim.call(0))
    assert steps[1].bare
    steps, _ = read(sim.start(), *sim.call(0, given={"zone": "UTC"}))
    assert steps[1].block.arguments == {"zone": "UTC"}


@pytest.mark.parametrize(
    "name",
    [
        "two-starts",
        "no-start",
        "start-content",
        "wrong-index",
        "open-twice",
        "wrong-delta",
        "unknown-delta",
        "end-inside",
        "after-end",
        "no-reason",
        "server-tool",
        "server-result",
        "secret-apart",
        "call-two-inputs",
        "error-bare",
    ],
)
def test_an_order_or_a_block_that_was_not_asked_for_is_malformed(name):
    with pytest.raises(UpstreamFault) as caught:
        read(*sim.STREAMS[name])
    assert caught.value.code == "malformed"


@pytest.mark.parametrize(
    "event",
    [
        None,
        [],
        "x",
        {},
        {"type": 5},
        sim.closed(0),
        sim.piece(0, "text_delta", text="x"),
        sim.opened(0, "text", text=5),
        sim.opened(True, "text", text=""),
        sim.opened("0", "text", text=""),
        {"type": "content_block_start", "index": 0, "content_block": "x"},
        {"type": "content_block_start", "index": 0, "content_block": {"type": ["text"]}},
        {"type": "message_delta"},
        sim.ended(5),
    ],
)
def test_an_event_of_another_shape_is_malformed(event):
    with pytest.raises(UpstreamFault):
        read(sim.start(), event)


def test_events_that_say_nothing_are_passed_over():
    quiet = [sim.PING, {"type": "message_note", "text": "x"}, sim.ended(None)]
    steps, done = read(sim.PING, sim.start(), *quiet, *sim.text(0, "x"), *sim.END)
    assert [type(step) for step in steps] == [Begun, Opened, Said, Closed, Ended]
    assert done
    with pytest.raises(UpstreamFault):
        read(*sim.STREAMS["ok"], sim.STOP)


def test_bounds_of_a_stream():
    with pytest.raises(UpstreamFault, match="too_large"):
        read(sim.start(), *sim.call(0, *["x" * (ARGUMENT_CHARS // 2)] * 3))
    many = [event for index in range(1025) for event in sim.text(index, "")]
    assert not read(sim.start(), *many[:-3])[1]
    with pytest.raises(UpstreamFault, match="too_large"):
        read(sim.start(), *many)


@given(st.lists(st.text(max_size=8), max_size=6), st.booleans())
def test_text_and_thinking_come_together_however_they_were_cut(parts, thinks):
    make = sim.thinking if thinks else sim.text
    steps, _ = read(sim.start(), *make(0, *parts))
    assert "".join(step.text for step in steps if isinstance(step, Said)) == "".join(parts)


# -- built ----------------------------------------------------------------------------------------------


def test_our_messages_and_events_satisfy_the_clients_own_types():
    types = pytest.importorskip("anthropic.types")
    adapter = pytest.importorskip("pydantic").TypeAdapter(types.RawMessageStreamEvent)
    usage = Usage(9, 5, 2)
    call = msg.call_document(ToolCall(0, "t", "f", {"a": 1}))
    content = [Thinking("a", "b").document(), Redacted("x").document(), Text("y").document(), call]
    whole = types.Message.model_validate(msg.message(HEAD, content, usage, "stop_sequence", "END"), strict=True)
    assert [block.type for block in whole.content] == ["thinking", "redacted_thinking", "text", "tool_use"]
    assert (whole.usage.input_tokens, whole.usage.cache_read_input_tokens, whole.usage.output_tokens) == (7, 2, 5)
    for made in (
        msg.start_event(HEAD, usage),
        msg.block_start(0, Text("").document()),
        msg.block_start(0, {**call, "input": {}}),
        msg.block_start(0, Redacted("x").document()),
        msg.delta(0, "text_delta", "text", "x"),
        msg.delta(0, "thinking_delta", "thinking", "x"),
        msg.delta(0, "signature_delta", "signature", "x"),
        msg.delta(0, "input_json_delta", "partial_json", "{}"),
        msg.block_stop(0),
        msg.message_delta("tool_use", "", usage),
        msg.MESSAGE_STOP,
    ):
        assert adapter.validate_python(json.loads(json.dumps(made))).type == made["type"]
