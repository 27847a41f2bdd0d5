"""A real SDK server whose tools ask their caller before they answer; as a server of either era does it."""

from __future__ import annotations

import warnings
from typing import Any

import mcp_types as t
from mcp.server.lowlevel import Server

NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
URL = "https://sign-in.example/start"
STATE = "kept by the server"


def sample(prompt: str) -> list[t.SamplingMessage]:
    return [t.SamplingMessage(role="user", content=t.TextContent(type="text", text=prompt))]


async def _legacy(ctx: Any, name: str) -> str:
    session = ctx.session
    if name == "form":
        got = await session.elicit_form("Who are you?", NAME, ctx.request_id)
        return f"{got.action} {(got.content or {}).get('name')}"
    if name == "link":
        return f"{(await session.elicit_url('Sign in', URL, 'e1', ctx.request_id)).action}"
    if name == "model":
        got = await session.create_message(
            sample("Say hi"), max_tokens=50, include_context="allServers", related_request_id=ctx.request_id
        )
        return f"said {got.content.text}"
    if name == "roots":
        return f"roots {[str(root.uri) for root in (await session.list_roots()).roots]}"
    first = await session.elicit_form("Who are you?", NAME, ctx.request_id)
    second = await session.elicit_form("And your friend?", NAME, ctx.request_id)
    return f"{first.content['name']} and {second.content['name']}"


def _modern(params: t.CallToolRequestParams) -> str | t.InputRequiredResult:
    name, given, state = params.name, params.input_responses or {}, params.request_state

    def asked(state: str | None = None, **requests: Any) -> t.InputRequiredResult:
        return t.InputRequiredResult(input_requests=requests, request_state=state)

    def form(message: str) -> t.ElicitRequest:
        return t.ElicitRequest(params=t.ElicitRequestFormParams(message=message, requested_schema=NAME))

    if name == "form":
        if "who" not in given:
            return asked(STATE, who=form("Who are you?"))
        assert state == STATE
        return f"{given['who'].action} {(given['who'].content or {}).get('name')}"
    if name == "link":
        if "page" not in given:
            link = t.ElicitRequestURLParams(message="Sign in", url=URL)
            return asked(page=t.ElicitRequest(params=link))
        return str(given["page"].action)
    if name == "model":
        if "said" not in given:
            params_ = t.CreateMessageRequestParams(
                messages=sample("Say hi"), max_tokens=50, include_context="allServers"
            )
            return asked(said=t.CreateMessageRequest(params=params_))
        return f"said {given['said'].content.text}"
    if name == "roots":
        if "where" not in given:
            return asked(where=t.ListRootsRequest())
        return f"roots {[str(root.uri) for root in given['where'].roots]}"
    if "first" not in given and state is None:
        return asked("0", first=form("Who are you?"))
    if "first" in given:
        return asked(given["first"].content["name"], second=form("And your friend?"))
    return f"{state} and {given['second'].content['name']}"


def build(*, modern: bool) -> Server[Any]:
    """Return a server with the tools form, link, model, roots and twice."""
    names = ("form", "link", "model", "roots", "twice")

    async def tools(_ctx: Any, _params: Any) -> t.ListToolsResult:
        return t.ListToolsResult(
            tools=[t.Tool(name=n, description="Asks.", input_schema={"type": "object"}) for n in names]
        )

    async def call(ctx: Any, params: t.CallToolRequestParams) -> t.CallToolResult | t.InputRequiredResult:
        outcome = _modern(params) if modern else await _legacy(ctx, params.name)
        if not isinstance(outcome, str):
            return outcome
        return t.CallToolResult(content=[t.TextContent(type="text", text=outcome)])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Server("asking", version="1", on_list_tools=tools, on_call_tool=call)
