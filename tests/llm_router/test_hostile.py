"""Whatever JSON arrives, from either side: a checked value or one of our faults, never another exception."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firewall.core.errors import BartizanError
from firewall.wire import strict_json
from llm_router import answer as ans
from llm_router import chat, messages
from llm_router import message_answer as msg
from llm_router.assemble import ToolCalls
from llm_router.message_events import Events
from tests.sim import messages_provider as sim

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)

REQUEST = {
    "model": "m",
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "t"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
            ],
        },
        {
            "role": "assistant",
            "content": "x",
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "r"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}},
    "stream": True,
    "stream_options": {"include_usage": True},
    "metadata": {"a": "b"},
    "logit_bias": {"1": 1},
    "stop": ["x"],
    "max_tokens": 5,
    "seed": 1,
    "modalities": ["text"],
    "reasoning_effort": "low",
}
CHUNK = {
    "choices": [
        {
            "index": 0,
            "delta": {
                "role": "assistant",
                "content": "x",
                "tool_calls": [
                    {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ],
            },
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 1}},
    "error": {"message": "m", "code": "c"},
}


def places(value, path=()):
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from places(value[index], (*path, index))


def changed(value, path, new):
    if not path:
        return new
    if isinstance(value, dict):
        return {k: changed(v, path[1:], new) if k == path[0] else v for k, v in value.items()}
    return [changed(v, path[1:], new) if i == path[0] else v for i, v in enumerate(value)]


@given(st.sampled_from(list(places(REQUEST))), JSON)
def test_any_member_of_a_request_may_be_anything(path, new):
    mutant = changed(REQUEST, path, new)
    try:
        request = chat.parse(mutant)
    except BartizanError:
        return
    body = request.outgoing(model="m", limit=1, limit_member="max_tokens")
    assert body.keys() <= REQUEST.keys()
    strict_json.dumps(body)


@given(st.sampled_from(list(places(CHUNK))), JSON)
def test_any_member_of_an_answer_may_be_anything(path, new):
    mutant = changed(CHUNK, path, new)
    ans.is_error(mutant)
    assert all(isinstance(text, str) for text in ans.error_text(mutant))
    try:
        piece = ans.parse_chunk(mutant)
        calls = ToolCalls()
        for call in piece.calls:
            calls.feed(call)
        calls.finish("a", frozenset({"f"}))
    except BartizanError:
        return
    assert isinstance(piece.content, str)
    assert piece.finish in {"", *ans.FINISH}


@pytest.mark.parametrize("value", [REQUEST])
def test_the_specimen_itself_is_accepted(value):
    assert chat.parse(value).tools == ("f",)


# -- Messages -------------------------------------------------------------------------------------------

MESSAGE_REQUEST = {
    "model": "m",
    "max_tokens": 5,
    "stream": True,
    "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "t"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "t", "signature": "s"},
                {"type": "redacted_thinking", "data": "d"},
                {"type": "tool_use", "id": "c", "name": "f", "input": {"a": [1]}},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "r", "is_error": True}]},
    ],
    "tools": [{"type": "custom", "name": "f", "input_schema": {"type": "object"}, "input_examples": [{"a": 1}]}],
    "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 3, "display": "omitted"},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {}}},
    "stop_sequences": ["x"],
    "metadata": {"user_id": "u"},
    "temperature": 1,
}
EVENTS = [*sim.STREAMS["thinking"][:-2], *sim.call(2, '{"zone":"UTC"}'), sim.ended("tool_use"), sim.STOP]
ANSWER = sim.whole(sim.thought("t"), sim.said("x"), sim.used({"a": 1}), reason="tool_use", stop_sequence="x")


@given(st.sampled_from(list(places(MESSAGE_REQUEST))), JSON)
def test_any_member_of_a_messages_request_may_be_anything(path, new):
    try:
        request = messages.parse(changed(MESSAGE_REQUEST, path, new))
    except BartizanError:
        return
    body = request.outgoing(model="m", limit=1, limit_member="")
    assert body.keys() <= MESSAGE_REQUEST.keys()
    assert request.intact(body)
    strict_json.dumps(request.readable(body))


@given(st.sampled_from(list(places(EVENTS))), JSON)
def test_any_member_of_a_message_stream_may_be_anything(path, new):
    mutant = changed(EVENTS, path, new)
    machine = Events()
    try:
        steps = [step for event in (mutant if isinstance(mutant, list) else [mutant]) for step in machine.feed(event)]
    except BartizanError:
        return
    if machine.done:
        assert steps[-1].stop in msg.STOPS


@given(st.sampled_from(list(places(ANSWER))), JSON)
def test_any_member_of_a_message_may_be_anything(path, new):
    try:
        read = msg.parse_answer(changed(ANSWER, path, new))
        msg.check_calls(read.blocks, "a", frozenset({"get_time"}))
    except BartizanError:
        return
    assert read.stop in msg.STOPS
    assert read.size >= 0


def test_the_specimens_of_messages_are_accepted():
    assert messages.parse(MESSAGE_REQUEST).tools == ("f",)
    machine = Events()
    for event in EVENTS:
        machine.feed(event)
    assert machine.done
    assert len(msg.parse_answer(ANSWER).blocks) == 3
