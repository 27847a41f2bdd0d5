"""The request codec: what is known goes on, rebuilt; everything else is refused."""

import pytest

from firewall.wire import strict_json
from llm_router import chat
from llm_router.shape import Rejected

USER = {"role": "user", "content": "hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True},
}
PIXEL = "data:image/png;base64,iVBORw0KGgo="


def body(**more):
    return {"model": "m", "messages": [USER], **more}


def out(**more):
    request = chat.parse(body(**more))
    return request.outgoing(model="real", limit=9, limit_member="max_completion_tokens")


def test_the_least_request_becomes_the_least_body():
    assert out() == {"model": "real", "messages": [USER], "max_completion_tokens": 9}


@pytest.mark.parametrize(
    "member",
    [
        {"temperature": 0.5},
        {"top_p": 1},
        {"frequency_penalty": -2},
        {"presence_penalty": 2},
        {"stop": "x"},
        {"stop": ["x", "y"]},
        {"seed": 7},
        {"tools": [TOOL]},
        {"tools": [TOOL], "tool_choice": "auto"},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"parallel_tool_calls": False},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": True}}},
        {"reasoning_effort": "low"},
        {"verbosity": "high"},
        {"logit_bias": {"50256": -100}},
        {"user": "u"},
        {"metadata": {"k": "v"}},
    ],
)
def test_a_known_member_goes_on_as_it_is(member):
    sent = out(**member)
    assert {name: sent[name] for name in member} == member


@pytest.mark.parametrize("name", sorted(chat.DROPPED))
def test_hints_are_dropped(name):
    assert name not in out(**{name: "x"})


@pytest.mark.parametrize("name", ["temperature", "tools", "stop", "functions", "audio", "nonsense"])
def test_null_is_absent(name):
    assert name not in out(**{name: None})


def test_store_is_forced_to_false_and_false_asks_for_nothing():
    assert out(store=True)["store"] is False
    assert "logprobs" not in out(logprobs=False)


@pytest.mark.parametrize("name", sorted(chat.REFUSED))
def test_a_dangerous_member_is_refused_by_name(name):
    with pytest.raises(Rejected) as caught:
        chat.parse(body(**{name: {"x": 1}}))
    assert caught.value.param == name
    assert caught.value.code == "params_invalid"


@pytest.mark.parametrize(
    ("member", "param"),
    [
        ({"api_base": "http://attacker/"}, ""),
        ({"extra_headers": {}}, ""),
        ({"mock_response": "x"}, ""),
        ({"model": ""}, "model"),
        ({"model": 1}, "model"),
        ({"model": "m" * 257}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [USER] * 4097}, "messages"),
        ({"n": 2}, "n"),
        ({"n": True}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"metadata": {"k": 1}}, "metadata"),
        ({"tools": [{"type": "mcp", "server_url": "http://x"}]}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": [{**TOOL, "cache_control": {}}]}, "tools"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "bad name"}}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "f", "exec": 1}}]}, "tools"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"x": True}}, "stream_options"),
    ],
)
def test_what_is_not_exactly_right_is_refused(member, param):
    with pytest.raises(Rejected) as caught:
        chat.parse(body(**member))
    assert caught.value.param == param


@pytest.mark.parametrize(
    "message",
    [
        {"role": "developer", "content": "d"},
        {"role": "user", "content": [{"type": "text", "text": "t"}], "name": "n"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}}]},
        {"role": "assistant", "content": "a", "refusal": "r"},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "t"}]},
    ],
)
def test_a_known_message_goes_on_as_it_is(message):
    assert out(messages=[message])["messages"] == [message]


@pytest.mark.parametrize(
    "message",
    [
        "hi",
        {"role": "root", "content": "x"},
        {"role": ["user"], "content": "x"},
        {"role": "function", "name": "f", "content": "x"},
        {"role": "user"},
        {"role": "user", "content": []},
        {"role": "user", "content": [{"type": "file", "file": {"file_id": "x"}}]},
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]},
        {"role": "user", "content": [{"type": "text", "text": "t", "cache_control": {}}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://beacon.example/?q=1"}}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,@@"}}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:text/html;base64,AAAA"}}]},
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aWdub3JlIGFsbA=="}}],
        },
        {"role": "user", "content": "x", "instructions": "y"},
        {"role": "system", "content": [{"type": "image_url", "image_url": {"url": PIXEL}}]},
        {"role": "tool", "content": "x"},
        {"role": "assistant"},
        {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "assistant", "audio": {"id": "x"}},
        {"role": "assistant", "tool_calls": [{**CALL, "type": "custom"}]},
        {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "{no"}}]},
        {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": '{"a":1,"a":2}'}}]},
        {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "[]"}}]},
    ],
)
def test_a_message_of_another_shape_is_refused(message):
    with pytest.raises(Rejected) as caught:
        chat.parse(body(messages=[message]))
    assert caught.value.param == "messages"


def test_arguments_of_past_calls_are_written_again_so_that_no_escape_hides():
    past = {
        "role": "assistant",
        "tool_calls": [{**CALL, "index": 0, "function": {"name": "f", "arguments": '{"k": "\\u0041"}'}}],
    }
    sent = out(messages=[USER, past])["messages"][1]
    assert sent["tool_calls"][0] == {
        "id": "c1",
        "type": "function",
        "function": {"name": "f", "arguments": '{"k":"A"}'},
    }
    assert sent["content"] is None


def test_an_answer_that_a_client_sends_back_is_accepted():
    """What `message.model_dump()` of the openai client gives."""
    dumped = {
        "role": "assistant",
        "content": "x",
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "tool_calls": None,
    }
    assert out(messages=[dumped])["messages"] == [{"role": "assistant", "content": "x"}]


def test_a_stream_always_asks_for_usage_and_remembers_who_wanted_it():
    request = chat.parse(body(stream=True))
    assert not request.include_usage
    assert request.outgoing(model="m", limit=1, limit_member="max_tokens")["stream_options"] == {"include_usage": True}
    assert chat.parse(body(stream=True, stream_options={"include_usage": True})).include_usage


def test_the_callers_own_spelling_of_the_limit_is_kept():
    assert out(max_tokens=5)["max_tokens"] == 9
    assert "max_completion_tokens" not in out(max_tokens=5)


def test_facts_are_counted():
    image = {"type": "image_url", "image_url": {"url": PIXEL}}
    request = chat.parse(
        body(
            messages=[
                {"role": "user", "content": [image, image]},
                {"role": "assistant", "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "c1", "content": "r"},
            ],
            tools=[TOOL],
        )
    )
    assert (request.messages, request.tool_outputs, request.images, request.tools) == (3, 1, 2, ("f",))
    assert request.image_chars == 2 * len(PIXEL)


def test_reading_what_was_written_changes_nothing():
    once = out(messages=[USER, {"role": "assistant", "tool_calls": [CALL]}], tools=[TOOL], stop=["x"])
    again = chat.parse({**strict_json.loads(strict_json.dumps(once)), "model": "m"})
    assert again.outgoing(model="real", limit=9, limit_member="x") == once
