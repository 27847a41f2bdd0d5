"""Whatever JSON arrives, from either side: a checked value or one of our faults, never another exception."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firewall.core.errors import BartizanError
from firewall.wire import strict_json
from llm_router import answer as ans
from llm_router import chat
from llm_router.assemble import ToolCalls

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
