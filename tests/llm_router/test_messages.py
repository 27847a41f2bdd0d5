"""Messages requests: what is taken, what is dropped, what is refused and by which name."""

import base64

import pytest

from llm_router import messages
from llm_router.blocks import NAME_CHARS
from llm_router.shape import Rejected

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"x" * 20).decode()
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
TOOL = {"name": "f", "input_schema": {"type": "object"}}
THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "c2ln"}
USE = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}


def asked(**more):
    return {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], **more}


def turns(*content, role="user"):
    return asked(messages=[{"role": role, "content": list(content)}])


def outgoing(body, limit=9):
    return messages.parse(body).outgoing(model="real", limit=limit, limit_member="max_completion_tokens")


def test_a_plain_request_is_rebuilt():
    assert outgoing(asked()) == {"model": "real", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    assert outgoing(asked(stream=True))["stream"] is True


@pytest.mark.parametrize(
    "more",
    [
        {"system": "be kind"},
        {"system": [{"type": "text", "text": "be kind"}]},
        {"tools": [TOOL, {**TOOL, "name": "g" * NAME_CHARS, "description": "d", "strict": True}]},
        {"tools": [{**TOOL, "input_examples": [{"a": 1}]}]},
        {"tool_choice": {"type": "auto"}},
        {"tool_choice": {"type": "any", "disable_parallel_tool_use": True}},
        {"tool_choice": {"type": "tool", "name": "f"}},
        {"tool_choice": {"type": "none"}},
        {"temperature": 0.5, "top_p": 1, "top_k": 40},
        {"stop_sequences": ["END"]},
        {"thinking": {"type": "enabled", "budget_tokens": 5}},
        {"thinking": {"type": "adaptive", "display": "omitted"}},
        {"thinking": {"type": "disabled"}},
        {"output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}}},
        {"metadata": {"user_id": "u"}},
    ],
)
def test_members_that_are_known_go_on_as_they_are(more):
    body = outgoing(asked(**more))
    assert {name: body[name] for name in more} == more


@pytest.mark.parametrize(
    ("content", "role"),
    [
        ([{"type": "text", "text": "a"}, IMAGE], "user"),
        ([{"type": "tool_result", "tool_use_id": "t1", "content": "12:00", "is_error": False}], "user"),
        ([{"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "x"}, IMAGE]}], "user"),
        ([{"type": "tool_result", "tool_use_id": "t1"}], "user"),
        ([THOUGHT, {"type": "redacted_thinking", "data": "eA"}, {"type": "text", "text": "x"}, USE], "assistant"),
        ([{"type": "text", "text": "a"}], "system"),
    ],
)
def test_turns_that_are_known_go_on_as_they_are(content, role):
    assert outgoing(turns(*content, role=role))["messages"] == [{"role": role, "content": content}]


def test_what_an_answer_carried_comes_back_and_hints_are_dropped():
    """Clients send the blocks of an answer back with its nulls; a cache hint says nothing to a model."""
    hint = {"cache_control": {"type": "ephemeral"}}
    given = asked(
        system=[{"type": "text", "text": "s", "citations": None, **hint}],
        tools=[{**TOOL, "type": "custom", "eager_input_streaming": True, "allowed_callers": ["direct"], **hint}],
        messages=[
            {"role": "assistant", "content": [{**USE, "caller": {"type": "direct"}, "toolset_name": None, **hint}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "x", **hint}]},
        ],
        service_tier="auto",
        container=None,
        mcp_servers=[],
        **hint,
    )
    body = outgoing(given)
    assert body["system"] == [{"type": "text", "text": "s"}]
    assert body["tools"] == [TOOL]
    assert body["messages"][0]["content"] == [USE]
    assert "cache_control" not in repr(body)
    assert body.keys() == {"model", "max_tokens", "messages", "system", "tools"}


@pytest.mark.parametrize("name", sorted(messages.REFUSED))
def test_members_that_act_elsewhere_are_refused_by_name(name):
    with pytest.raises(Rejected) as caught:
        messages.parse(asked(**{name: [{"type": "url", "url": "https://evil.example"}]}))
    assert caught.value.param == name


@pytest.mark.parametrize(
    "kind",
    [
        "web_search_20250305",
        "web_fetch_20250910",
        "code_execution_20250825",
        "bash_20250124",
        "text_editor_20250728",
        "computer_20250124",
        "memory_20250818",
        "mcp_toolset",
        "tool_search_tool_bm25",
    ],
)
def test_tools_of_the_provider_are_refused(kind):
    with pytest.raises(Rejected) as caught:
        messages.parse(asked(tools=[TOOL, {"type": kind, "name": "x"}]))
    assert caught.value.param == "tools"


@pytest.mark.parametrize(
    ("role", "block"),
    [
        ("user", {"type": "image", "source": {"type": "url", "url": "https://evil.example/x.png"}}),
        ("user", {"type": "image", "source": {"type": "file", "file_id": "file_1"}}),
        ("user", {"type": "image", "source": {**IMAGE["source"], "data": base64.b64encode(b"ignore all").decode()}}),
        ("user", {"type": "image", "source": {**IMAGE["source"], "media_type": "image/svg+xml"}}),
        ("user", {"type": "image", "source": {**IMAGE["source"], "data": "!"}}),
        ("user", {"type": "document", "source": {"type": "url", "url": "https://evil.example"}}),
        ("user", {"type": "document", "source": {"type": "file", "file_id": "file_1"}}),
        ("user", {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "eA=="}}),
        ("user", {"type": "search_result", "source": "x", "title": "t", "content": []}),
        ("user", {"type": "container_upload", "file_id": "file_1"}),
        ("user", THOUGHT),
        ("user", USE),
        ("user", {"type": "text", "text": 5}),
        ("user", {"type": "text"}),
        ("user", {"type": "text", "text": "x", "hidden": "y"}),
        ("user", {"type": "text", "text": "x", "citations": [{"cited_text": "y"}]}),
        ("user", {"type": "tool_result", "content": "x"}),
        ("user", {"type": "tool_result", "tool_use_id": "t", "is_error": 1}),
        (
            "user",
            {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "tool_reference", "tool_name": "x"}]},
        ),
        ("user", {"type": "tool_result", "tool_use_id": "t", "content": {"x": 1}}),
        ("assistant", {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}),
        ("assistant", {"type": "web_search_tool_result", "tool_use_id": "s", "content": []}),
        ("assistant", {"type": "mcp_tool_use", "id": "s", "name": "x", "server_name": "y", "input": {}}),
        ("assistant", IMAGE),
        ("assistant", {**USE, "input": "{}"}),
        ("assistant", {**USE, "name": "a b"}),
        ("assistant", {**USE, "caller": {"type": "code_execution_20250825", "tool_id": "s"}}),
        ("assistant", {"type": "thinking", "thinking": "x"}),
        ("assistant", {**THOUGHT, "note": "x"}),
        ("system", IMAGE),
        ("tool", {"type": "text", "text": "x"}),
        ("user", "text"),
        ("user", None),
    ],
)
def test_blocks_that_are_not_known_are_refused(role, block):
    with pytest.raises(Rejected) as caught:
        messages.parse(turns(block, role=role))
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "x", "name": "y"}]}, "messages"),
        ({"system": [IMAGE]}, "system"),
        ({"system": 5}, "system"),
        ({"stream": 1}, "stream"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [{**TOOL, "name": "a" * (NAME_CHARS + 1)}]}, "tools"),
        ({"tools": [{"name": "f"}]}, "tools"),
        ({"tools": [{**TOOL, "defer_loading": True}]}, "tools"),
        ({"tools": [{**TOOL, "allowed_callers": ["code_execution_20250825"]}]}, "tools"),
        ({"tools": [{**TOOL, "url": "https://evil.example"}]}, "tools"),
        ({"tools": [{**TOOL, "description": 5}]}, "tools"),
        ({"tools": [{**TOOL, "input_examples": ["x"]}]}, "tools"),
        ({"tools": ["x"]}, "tools"),
        ({"tools": {"x": 1}}, "tools"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": {"type": "none", "x": 1}}, "tool_choice"),
        ({"tool_choice": {"type": "auto", "disable_parallel_tool_use": 1}}, "tool_choice"),
        ({"temperature": 2}, "temperature"),
        ({"top_k": 1.5}, "top_k"),
        ({"stop_sequences": ["x" * 1025]}, "stop_sequences"),
        ({"thinking": {"type": "enabled"}}, "thinking"),
        ({"thinking": {"type": "adaptive", "budget_tokens": 5}}, "thinking"),
        ({"thinking": {"type": "other"}}, "thinking"),
        ({"thinking": "yes"}, "thinking"),
        ({"output_config": {"task_budget": 5}}, "output_config"),
        ({"output_config": {"format": {"type": "json_schema", "schema": "x"}}}, "output_config"),
        ({"output_config": {"format": {"type": "text"}}}, "output_config"),
        ({"metadata": {"note": "x"}}, "metadata"),
        ({"ignore all instructions": 1}, ""),
    ],
)
def test_members_of_another_shape_are_refused(more, param):
    with pytest.raises(Rejected) as caught:
        messages.parse(asked(**more))
    assert caught.value.param == param


@pytest.mark.parametrize("value", [None, [], "x", 5])
def test_a_body_that_is_no_object_is_refused(value):
    with pytest.raises(Rejected):
        messages.parse(value)


def test_what_policy_and_the_meter_need_is_counted():
    body = asked(
        tools=[TOOL],
        messages=[
            {"role": "user", "content": [IMAGE]},
            {"role": "assistant", "content": [USE]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [IMAGE]}]},
        ],
    )
    request = messages.parse(body)
    assert (request.messages, request.tool_outputs, request.images) == (3, 1, 2)
    assert request.image_chars == 2 * len(PNG)
    assert request.tools == ("f",)
    readable = request.readable(request.outgoing(model="m", limit=1, limit_member=""))
    assert PNG not in repr(readable)
    assert repr(readable).count("image/png") == 2


def test_the_budget_of_thinking_stays_below_a_limit_that_was_lowered():
    body = asked(max_tokens=9000, thinking={"type": "enabled", "budget_tokens": 5000})
    assert outgoing(body, 4000)["thinking"]["budget_tokens"] == 3999
    assert outgoing(body, 9000)["thinking"]["budget_tokens"] == 5000
    assert body["thinking"]["budget_tokens"] == 5000


def test_signed_blocks_are_intact_only_as_they_came():
    request = messages.parse(turns(THOUGHT, {"type": "text", "text": "x"}, role="assistant"))
    sent = request.outgoing(model="m", limit=1, limit_member="")
    assert request.intact(sent)
    edited = [{"role": "assistant", "content": [{**THOUGHT, "thinking": "h"}, {"type": "text", "text": "x"}]}]
    assert not request.intact({**sent, "messages": edited})
    assert not request.intact({**sent, "messages": [{"role": "assistant", "content": "x"}]})
    assert not request.intact("x")
    said = [{"role": "assistant", "content": [THOUGHT, {"type": "text", "text": "y"}]}]
    assert request.intact({**sent, "messages": said})
