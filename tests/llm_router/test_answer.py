"""Answers and chunks: read strictly, assembled whatever way they came."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firewall.core.errors import UpstreamFault
from llm_router import answer as ans
from llm_router.answer import CallPiece, Head, Piece, Usage
from llm_router.assemble import ARGUMENT_CHARS, Text, ToolCalls, wire_form

OFFERED = frozenset({"f", "g"})
HEAD = Head("chatcmpl-1", 5, "alias")


def chunk(delta, finish=None, **more):
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def assembled(*pieces: CallPiece, cut=False):
    calls = ToolCalls()
    for piece in pieces:
        calls.feed(piece)
    return [(c.id, c.name, c.arguments) for c in calls.finish("a", OFFERED, cut=cut)]


def test_a_chunk_is_read_member_by_member():
    piece = ans.parse_chunk(
        chunk({"role": "assistant", "content": "x", "reasoning_content": "secret"}, "stop", extra=1)
    )
    assert piece == Piece(content="x", finish="stop")


def test_a_usage_chunk_has_no_choice():
    piece = ans.parse_chunk({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}})
    assert piece.empty
    assert piece.usage == Usage(3, 4)
    assert ans.parse_chunk({"usage": {"prompt_tokens": 3, "completion_tokens": 4}}).usage == Usage(3, 4)


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls", "content_filter"])
def test_known_reasons_to_finish_are_kept_and_unknown_ones_become_stop(reason):
    assert ans.parse_chunk(chunk({}, reason)).finish == reason
    assert ans.parse_chunk(chunk({}, "eos_token")).finish == "stop"


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "x",
        {},
        {"choices": None},
        {"choices": ["x"]},
        {"choices": [{"delta": []}]},
        {"choices": [{"index": 1, "delta": {}}]},
        {"choices": [{"delta": {}}, {"delta": {}}]},
        chunk({"content": 5}),
        chunk({"content": [{"type": "text"}]}),
        chunk({"role": "user"}),
        chunk({"function_call": {"name": "f"}}),
        chunk({}, "function_call"),
        chunk({}, 5),
        chunk({"tool_calls": {}}),
        chunk({"tool_calls": ["x"]}),
        chunk({"tool_calls": [{"index": 0}]}),
        chunk({"tool_calls": [{"index": -1, "function": {}}]}),
        chunk({"tool_calls": [{"index": "0", "function": {}}]}),
        chunk({"tool_calls": [{"index": 0, "type": "custom", "function": {}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": {}}}]}),
    ],
)
def test_what_has_another_type_is_malformed(value):
    with pytest.raises(UpstreamFault) as caught:
        ans.parse_chunk(value)
    assert caught.value.code == "malformed"


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [],
        {},
        {"prompt_tokens": -1, "completion_tokens": 1},
        {"prompt_tokens": True, "completion_tokens": 1},
        {"prompt_tokens": 2**40, "completion_tokens": 1},
        {"prompt_tokens": 1.5, "completion_tokens": 1},
    ],
)
def test_a_count_that_cannot_be_believed_is_none(usage):
    assert ans.parse_usage(usage) is None


def test_details_are_parts_of_their_whole():
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 11},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    assert ans.parse_usage(usage) == Usage(10, 5, 0, 2)


@pytest.mark.parametrize("code", ["context_length_exceeded", "no spaces allowed", "x" * 65, 5, None])
def test_an_errors_code_is_told_only_when_it_is_a_plain_word(code):
    assert ans.error_text({"error": {"message": "m", "code": code}})[1] in ("context_length_exceeded", "")
    assert ans.error_text({"error": {"message": "m" * 2001}})[0] == ""
    assert ans.error_text({"error": "plain"}) == ("plain", "")


# -- tool calls -----------------------------------------------------------------------------------------


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=20) | st.integers(-9, 9), max_size=4), st.data())
def test_arguments_come_together_however_they_were_cut(arguments, data):
    text = json.dumps(arguments)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    pieces = [CallPiece(0, "c", "f", ""), *(CallPiece(0, "", "", part) for part in parts)]
    assert assembled(*pieces) == [("c", "f", arguments)]


def test_calls_come_in_order_of_index_even_when_interleaved():
    pieces = [CallPiece(1, "b", "g", '{"x":'), CallPiece(0, "a", "f", "{}"), CallPiece(1, "", "", "1}")]
    assert assembled(*pieces) == [("a", "f", {}), ("b", "g", {"x": 1})]


def test_without_an_index_a_new_id_opens_a_call():
    pieces = [CallPiece(-1, "a", "f", '{"x":'), CallPiece(-1, "", "", "1}"), CallPiece(-1, "b", "g", "{}")]
    assert assembled(*pieces) == [("a", "f", {"x": 1}), ("b", "g", {})]


def test_id_and_name_on_every_piece_and_a_summary_at_the_end_change_nothing():
    whole = '{"x":1}'
    pieces = [CallPiece(0, "a", "f", '{"x":'), CallPiece(0, "a", "f", "1}"), CallPiece(0, "a", "f", whole)]
    assert assembled(*pieces) == [("a", "f", {"x": 1})]


def test_a_repeated_prefix_is_not_taken_for_a_summary():
    assert assembled(CallPiece(0, "a", "f", '{"x":'), CallPiece(0, "", "", '{"x":'), CallPiece(0, "", "", "1}}")) == [
        ("a", "f", {"x": {"x": 1}})
    ]


def test_a_missing_id_is_made():
    assert assembled(CallPiece(0, "", "f", "")) == [("call_a_0", "f", {})]


@pytest.mark.parametrize(
    "pieces",
    [
        [CallPiece(0, "a", "f", "{}"), CallPiece(0, "b", "", "")],
        [CallPiece(0, "a", "f", "{}"), CallPiece(0, "", "g", "")],
        [CallPiece(0, "a", "f", "{}"), CallPiece(1, "a", "g", "{}")],
        [CallPiece(0, "a", "", "{}")],
        [CallPiece(0, "a", "h", "{}")],
        [CallPiece(0, "a", "f", "{")],
        [CallPiece(0, "a", "f", "[]")],
        [CallPiece(0, "a", "f", '{"x":1,"x":2}')],
        [CallPiece(0, "a", "f", "{}{}")],
    ],
)
def test_calls_that_contradict_themselves_are_malformed(pieces):
    with pytest.raises(UpstreamFault) as caught:
        assembled(*pieces)
    assert caught.value.code == "malformed"


def test_a_cut_answer_keeps_its_whole_calls_only():
    pieces = [CallPiece(0, "a", "f", "{}"), CallPiece(1, "b", "g", '{"x"')]
    assert assembled(*pieces, cut=True) == [("a", "f", {})]


def test_the_bounds_hold_at_their_edge():
    calls = ToolCalls()
    calls.feed(CallPiece(0, "a", "f", " " * ARGUMENT_CHARS))
    with pytest.raises(UpstreamFault, match="too_large"):
        calls.feed(CallPiece(0, "", "", " "))
    many = ToolCalls()
    for index in range(128):
        many.feed(CallPiece(index, str(index), "f", ""))
    with pytest.raises(UpstreamFault, match="too_large"):
        many.feed(CallPiece(128, "x", "f", ""))


def test_text_goes_from_content_to_refusal_and_never_back():
    text = Text()
    text.feed("a", "")
    text.feed("", "no")
    text.feed("", "")
    with pytest.raises(UpstreamFault, match="malformed"):
        text.feed("b", "")
    with pytest.raises(UpstreamFault, match="too_large"):
        Text().feed("x" * (8 * 1024 * 1024 + 1), "")


def test_a_decided_call_keeps_its_shape_or_does_not_leave():
    document = {"id": "a", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    assert wire_form(document)["function"]["arguments"] == '{"x":1}'
    with pytest.raises(UpstreamFault):
        wire_form({"function": {"name": "f", "arguments": "[redacted]"}})


def test_our_chunks_and_answers_satisfy_the_clients_own_types():
    types = pytest.importorskip("openai.types.chat")
    usage = Usage(1, 2)
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    for made in (
        ans.chunk(HEAD, {"role": "assistant", "content": ""}),
        ans.chunk(HEAD, {"tool_calls": [{"index": 0, **call}]}),
        ans.chunk(HEAD, {}, "tool_calls"),
        ans.usage_chunk(HEAD, usage),
    ):
        types.ChatCompletionChunk.model_validate(made, strict=True)
    whole = types.ChatCompletion.model_validate(
        ans.completion(HEAD, Piece("x", finish="stop"), [call], usage), strict=True
    )
    assert whole.choices[0].finish_reason == "tool_calls"
    assert ans.completion(HEAD, Piece(finish="stop"), [call], usage)["choices"][0]["message"]["content"] is None
