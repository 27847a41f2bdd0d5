"""What a client's revision does not know reaches it in a form that it does (MCP, key changes of each revision)."""

import asyncio

import pytest

from mcp_gateway import forms
from tests.mcp_gateway.legacy import opened
from tests.mcp_gateway.scripted import as_json, event, head, result, scripted
from tests.support.mcp import person, running, spec

pytestmark = pytest.mark.flow
LINK = {"type": "resource_link", "uri": "note://a", "name": "a", "title": "A note", "description": "Of today."}
AS_TEXT = {"type": "text", "text": "A note\na\nnote://a\nOf today."}
PROMPT = {"messages": [{"role": "user", "content": LINK}, {"role": "user", "content": {"type": "text", "text": "x"}}]}


@pytest.mark.parametrize(("version", "shown"), [("2025-03-26", AS_TEXT), ("2025-06-18", LINK), ("2025-11-25", LINK)])
async def test_a_link_is_text_for_clients_of_before_there_were_links(version, shown):
    async def linking(asked, send):
        await send(as_json(result(asked, content=[LINK, {"type": "text", "text": "x"}])))

    answers = {"prompts/list": {"prompts": [{"name": "p"}]}, "prompts/get": PROMPT}
    people = {"alice": person("demo:read", "demo:write")}
    async with (
        scripted(linking, answers=answers) as upstream,
        running(spec("demo", url=upstream.url), people=people) as stack,
    ):
        client = await opened(stack, version=version)
        called = (await client.request("tools/call", {"name": "echo", "arguments": {}})).json()["result"]
        assert called["content"] == [shown, {"type": "text", "text": "x"}]
        got = (await client.request("prompts/get", {"name": "p"}, rpc_id=2)).json()["result"]
        assert [turn["content"] for turn in got["messages"]] == [shown, {"type": "text", "text": "x"}]
        assert got["messages"][0]["role"] == "user"


def form(**field):
    return {"message": "m", "requestedSchema": {"type": "object", "properties": {"a": field}, "required": ["a"]}}


TITLED = {"type": "string", "oneOf": [{"const": "r", "title": "Red"}, {"const": "b", "title": ""}], "default": "r"}
NAMED = {"type": "string", "enum": ["r", "b"], "enumNames": ["Red", "b"]}
SEVERAL = {"type": "array", "items": {"type": "string", "enum": ["r", "b"]}}


@pytest.mark.parametrize(
    ("field", "shown"),
    [
        (TITLED, NAMED),
        (SEVERAL, None),
        (NAMED, NAMED),
        ({"type": "boolean", "default": True}, {"type": "boolean", "default": True}),
        ({"type": "integer", "default": 3, "minimum": 1}, {"type": "integer", "minimum": 1}),
        ({"type": "string", "pattern": "^a$", "format": "email"}, {"type": "string", "format": "email"}),
    ],
)
def test_a_form_is_told_in_the_words_of_the_clients_revision(field, shown):
    assert forms.readable(form(**field), "2025-06-18") == (None if shown is None else form(**shown))
    assert forms.readable(form(**field), "2025-11-25") == form(**field)
    assert forms.readable({"mode": "url", "url": "https://x.example"}, "2025-06-18") == {
        "mode": "url",
        "url": "https://x.example",
    }


@pytest.mark.parametrize(("field", "put"), [(TITLED, True), (SEVERAL, False)])
async def test_a_form_that_a_client_cannot_read_is_not_put_and_its_server_is_told(field, put):
    heard = []

    async def asking(asked, send):
        await send(head("text/event-stream"))
        await send(event({"jsonrpc": "2.0", "id": 1, "method": "elicitation/create", "params": form(**field)}))
        async with asyncio.timeout(10):
            while not heard:
                await asyncio.sleep(0.01)
                heard.extend(body for _, body in upstream.seen if "method" not in body and body.get("id") == 1)
        await send(event(result(asked)))

    people = {"alice": person("demo:read", "demo:write")}
    async with scripted(asking, legacy=True) as upstream:
        one = spec("demo", url=upstream.url, asks=frozenset({"elicitation"}))
        async with running(one, people=people) as stack:
            client = await opened(stack, version="2025-06-18", capabilities={"elicitation": {}})
            async with client.call("echo") as events:
                if put:
                    question = await events.message()
                    assert question["params"]["requestedSchema"]["properties"] == {"a": NAMED}
                    await client.answer(question, {"action": "accept", "content": {"a": "r"}})
                    assert "result" in await events.message()
                    assert heard[0]["result"]["content"] == {"a": "r"}
                else:
                    assert "result" in (await events.response.aread()).decode()
                    assert heard[0]["error"]["code"] == -32603
