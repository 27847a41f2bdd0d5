"""An MCP server with the fixed names that the conformance suites call, on the official SDK, both eras.

It answers what the suites ask for: tools of every content kind, progress, logging, errors, headers
from arguments, questions back to the client (`questions`), subscriptions, resources, prompts,
completion, and streams that end and are taken up again. The SDK's own everything-server is not part of
its wheel. Run it: ``python -m tests.conformance.everything_server --port N``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import mcp_types as t
from mcp import MCPError
from mcp.server.lowlevel import Server
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    PromptsListChanged,
    ResourcesListChanged,
    ResourceUpdated,
    ServerEvent,
    ToolsListChanged,
)
from mcp.shared.message import ServerMessageMetadata

from tests.conformance import questions
from tests.conformance.event_store import KeptEvents
from tests.conformance.questions import DEFAULTS, ENUMS, USER, Round

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
WAV = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA="
MODERN = "2026-07-28"
STATE_KEY = b"of a test server, and of nothing else"
RETRY_MS = 100
DIALECT = "https://json-schema.org/draft/2020-12/schema"

EMPTY: dict[str, Any] = {"type": "object", "properties": {}}
SCHEMA_2020_12: dict[str, Any] = {
    "$schema": DIALECT,
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def resource(uri: str, mime: str, value: str) -> dict[str, Any]:
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime, "text": value}}


IMAGE = {"type": "image", "data": PNG, "mimeType": "image/png"}
MIXED = resource("test://mixed-content-resource", "application/json", json.dumps({"test": "data", "value": 123}))
STATIC: dict[str, list[dict[str, Any]]] = {
    "test_simple_text": [text("This is a simple text response for testing.")],
    "test_image_content": [IMAGE],
    "test_audio_content": [{"type": "audio", "data": WAV, "mimeType": "audio/wav"}],
    "test_embedded_resource": [
        resource("test://embedded-resource", "text/plain", "This is an embedded resource content.")
    ],
    "test_multiple_content_types": [text("Multiple content types test:"), IMAGE, MIXED],
    "json_schema_2020_12_tool": [text("fits")],
}


Content = list[dict[str, Any]] | t.InputRequiredResult
Handler = Callable[[Any, dict[str, Any]], Awaitable[Content]]
RESULTS: dict[str, Any] = {
    "sampling/createMessage": t.CreateMessageResult,
    "elicitation/create": t.ElicitResult,
    "roots/list": t.ListRootsResult,
}
BUS = InMemorySubscriptionBus()
COMING_AND_GOING = {"tools": "test_dynamic_tool", "prompts": "test_dynamic_prompt", "resources": "test://dynamic"}
GONE: set[str] = set()


async def progress(ctx: Any, arguments: dict[str, Any]) -> Content:
    for done in (0, 50, 100):
        await ctx.session.report_progress(done, 100, f"step {done} of 100")
        await asyncio.sleep(0.05)
    return [text("progress was reported")]


async def logging(ctx: Any, arguments: dict[str, Any]) -> Content:
    for line in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await ctx.session.send_log_message("info", line, related_request_id=ctx.request_id)
        await asyncio.sleep(0.05)
    return [text("three lines were logged")]


async def failing(ctx: Any, arguments: dict[str, Any]) -> Content:
    raise ValueError("This tool intentionally returns an error for testing")


async def header(ctx: Any, arguments: dict[str, Any]) -> Content:
    return [text(f"region={arguments.get('region', '')}")]


async def missing_capability(ctx: Any, arguments: dict[str, Any]) -> Content:
    capabilities = ctx.session.client_capabilities
    if capabilities is None or capabilities.sampling is None:
        raise MCPError(-32021, "sampling is needed", {"requiredCapabilities": {"sampling": {}}})
    return [text("sampling was declared")]


async def sampling(ctx: Any, arguments: dict[str, Any]) -> Content:
    asked = questions.sample(arguments["prompt"])
    got = await put(ctx, asked)
    return got if isinstance(got, t.InputRequiredResult) else [text(f"LLM response: {got.content.text}")]


async def roots(ctx: Any, arguments: dict[str, Any]) -> Content:
    got = await put(ctx, t.ListRootsRequest())
    if isinstance(got, t.InputRequiredResult):
        return got
    return [text(f"roots: {json.dumps([str(root.uri) for root in got.roots])}")]


async def link(ctx: Any, arguments: dict[str, Any]) -> Content:
    asked = t.ElicitRequestURLParams(message="Sign in there", url="https://sign-in.example/start", elicitation_id="e1")
    got = await put(ctx, t.ElicitRequest(params=asked))
    return got if isinstance(got, t.InputRequiredResult) else [text(f"Elicitation completed: action={got.action}")]


async def put(ctx: Any, asked: t.InputRequest) -> Any:
    """Ask as the era asks: by a request on the stream of this call, or by a result that is called again."""
    expected = RESULTS[asked.method]
    if ctx.session.protocol_version != MODERN:
        return await ctx.session.send_request(asked, expected, metadata=ServerMessageMetadata(ctx.request_id))
    answer = ((ctx.params or {}).get("inputResponses") or {}).get("question")
    return questions.required(question=asked) if answer is None else expected.model_validate(answer, by_name=False)


async def reconnection(ctx: Any, arguments: dict[str, Any]) -> Content:
    """End the stream in the middle of a call: the client comes back with Last-Event-ID (SEP-1699)."""
    await ctx.session.send_log_message("info", "Before disconnect", related_request_id=ctx.request_id)
    if ctx.close_sse_stream is not None:
        await ctx.close_sse_stream()
    await asyncio.sleep(0.2)
    await ctx.session.send_log_message("info", "After reconnect", related_request_id=ctx.request_id)
    return [text("Reconnection test completed")]


def changing(what: str, event: Callable[[], ServerEvent]) -> Handler:
    """Return a tool that makes something come or go, and announces it to both eras."""

    async def change(ctx: Any, arguments: dict[str, Any]) -> Content:
        GONE.symmetric_difference_update({COMING_AND_GOING[what]} if what in COMING_AND_GOING else ())
        await BUS.publish(event())
        match event():
            case ToolsListChanged():
                await ctx.session.send_tool_list_changed()
            case PromptsListChanged():
                await ctx.session.send_prompt_list_changed()
            case ResourcesListChanged():
                await ctx.session.send_resource_list_changed()
            case ResourceUpdated(uri=uri):
                await ctx.session.send_resource_updated(uri)
        return [text(f"{what} changed")]

    return change


def asking(schema: dict[str, Any], prefix: str) -> Handler:
    async def ask(ctx: Any, arguments: dict[str, Any]) -> Content:
        got = await put(ctx, questions.ask(arguments.get("message", "Please answer"), schema))
        if isinstance(got, t.InputRequiredResult):
            return got
        return [text(f"{prefix}: action={got.action}, content={json.dumps(got.content)}")]

    return ask


RUN: dict[str, tuple[str, dict[str, Any], Handler]] = {
    "test_tool_with_progress": ("Reports progress", EMPTY, progress),
    "test_tool_with_logging": ("Logs while it runs", EMPTY, logging),
    "test_logging_tool": ("Logs to those who asked for it", EMPTY, logging),
    "test_streaming_elicitation": ("Streams, and asks nothing on the stream", EMPTY, progress),
    "test_error_handling": ("Always fails", EMPTY, failing),
    "test_missing_capability": ("Needs sampling", EMPTY, missing_capability),
    "test_x_mcp_header": (
        "Mirrors an argument in a header",
        {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}},
        header,
    ),
    "test_sampling": (
        "Asks the client's model",
        {"type": "object", "properties": {"prompt": {"type": "string"}}, "required": ["prompt"]},
        sampling,
    ),
    "test_elicitation": (
        "Asks the client's user",
        {"type": "object", "properties": {"message": {"type": "string"}}, "required": ["message"]},
        asking(USER, "User response"),
    ),
    "test_elicitation_sep1034_defaults": ("Asks with defaults", EMPTY, asking(DEFAULTS, "Elicitation completed")),
    "test_list_roots": ("Asks for the client's roots", EMPTY, roots),
    "test_elicitation_url": ("Asks the client's user to open a page", EMPTY, link),
    "test_reconnection": ("Ends its stream and goes on", EMPTY, reconnection),
    "test_dynamic_tool": ("Comes and goes", EMPTY, header),
    "test_trigger_tool_change": ("Says that tools changed", EMPTY, changing("tools", ToolsListChanged)),
    "test_trigger_prompt_change": ("Says that prompts changed", EMPTY, changing("prompts", PromptsListChanged)),
    "test_trigger_resource_change": (
        "Says that resources changed",
        EMPTY,
        changing("resources", ResourcesListChanged),
    ),
    "test_trigger_resource_update": (
        "Says that the watched resource changed",
        EMPTY,
        changing("watched resource", lambda: ResourceUpdated("test://watched-resource")),
    ),
    "test_elicitation_sep1330_enums": ("Asks with choices", EMPTY, asking(ENUMS, "Elicitation completed")),
}


async def list_tools(ctx: Any, params: Any) -> t.ListToolsResult:
    tools = [
        t.Tool(
            name=name,
            description=f"Returns {name.removeprefix('test_').replace('_', ' ')}",
            input_schema=SCHEMA_2020_12 if name == "json_schema_2020_12_tool" else EMPTY,
        )
        for name in STATIC
    ]
    tools += [t.Tool(name=n, description=about, input_schema=schema) for n, (about, schema, _) in RUN.items()]
    tools += [t.Tool(name=name, description="Asks before it answers", input_schema=EMPTY) for name in questions.TOOLS]
    return t.ListToolsResult(tools=[tool for tool in tools if tool.name not in GONE])


async def call_tool(ctx: Any, params: t.CallToolRequestParams) -> t.CallToolResult | t.InputRequiredResult:
    try:
        if params.name in questions.TOOLS:
            outcome = questions.TOOLS[params.name](Round(ctx, params))
            if not isinstance(outcome, str):
                return outcome
            content = [text(outcome)]
        elif params.name in STATIC:
            content = STATIC[params.name]
        elif params.name in RUN:
            made = await RUN[params.name][2](ctx, params.arguments or {})
            if isinstance(made, t.InputRequiredResult):
                return made
            content = made
        else:
            raise MCPError(-32602, "unknown tool")
    except MCPError:
        raise
    except Exception as error:
        return t.CallToolResult.model_validate({"content": [text(str(error))], "isError": True})
    return t.CallToolResult.model_validate({"content": content})


RESOURCES = {
    "test://static-text": ("text/plain", {"text": "This is the content of the static text resource."}),
    "test://static-binary": ("image/png", {"blob": PNG}),
    "test://watched-resource": ("text/plain", {"text": "Watched resource content"}),
    "test://dynamic": ("text/plain", {"text": "It comes and goes"}),
}


async def list_resources(ctx: Any, params: Any) -> t.ListResourcesResult:
    found = [
        {"uri": uri, "name": uri.partition("://")[2], "description": "A resource for tests", "mimeType": mime}
        for uri, (mime, _) in RESOURCES.items()
        if uri not in GONE
    ]
    return t.ListResourcesResult.model_validate({"resources": found})


async def list_templates(ctx: Any, params: Any) -> t.ListResourceTemplatesResult:
    template = {"uriTemplate": "test://template/{id}/data", "name": "template", "mimeType": "application/json"}
    return t.ListResourceTemplatesResult.model_validate({"resourceTemplates": [template]})


async def read_resource(ctx: Any, params: t.ReadResourceRequestParams) -> t.ReadResourceResult:
    uri = str(params.uri)
    if uri in RESOURCES:
        mime, content = RESOURCES[uri]
    elif uri.startswith("test://template/") and uri.endswith("/data"):
        key = uri.removeprefix("test://template/").removesuffix("/data")
        mime = "application/json"
        content = {"text": json.dumps({"id": key, "templateTest": True, "data": f"Data for ID: {key}"})}
    else:
        raise MCPError(-32602, "Resource not found", {"uri": uri})
    return t.ReadResourceResult.model_validate({"contents": [{"uri": uri, "mimeType": mime, **content}]})


async def subscribe(ctx: Any, params: Any) -> t.EmptyResult:
    return t.EmptyResult()


ARGUMENTS = [{"name": "arg1", "required": True}, {"name": "arg2", "required": True}]
PROMPTS: dict[str, list[dict[str, Any]]] = {
    "test_simple_prompt": [],
    "test_prompt_with_arguments": ARGUMENTS,
    "test_prompt_with_embedded_resource": [{"name": "resourceUri", "required": True}],
    "test_prompt_with_image": [],
    "test_input_required_result_prompt": [],
    "test_dynamic_prompt": [],
}


async def list_prompts(ctx: Any, params: Any) -> t.ListPromptsResult:
    found = [
        {"name": n, "description": "A prompt for tests", "arguments": a} for n, a in PROMPTS.items() if n not in GONE
    ]
    return t.ListPromptsResult.model_validate({"prompts": found})


async def get_prompt(ctx: Any, params: t.GetPromptRequestParams) -> t.GetPromptResult | t.InputRequiredResult:
    given = params.arguments or {}
    contents: list[dict[str, Any]]
    if params.name in ("test_simple_prompt", "test_dynamic_prompt"):
        contents = [text("This is a simple prompt for testing.")]
    elif params.name == "test_prompt_with_arguments":
        contents = [text(f"Prompt with arguments: arg1='{given['arg1']}', arg2='{given['arg2']}'")]
    elif params.name == "test_prompt_with_embedded_resource":
        contents = [
            resource(given["resourceUri"], "text/plain", "Embedded resource content for testing."),
            text("Please process the embedded resource above."),
        ]
    elif params.name == "test_input_required_result_prompt":
        outcome = questions.prompt(Round(ctx, params))
        if not isinstance(outcome, str):
            return outcome
        contents = [text(outcome)]
    elif params.name == "test_prompt_with_image":
        contents = [IMAGE, text("Please analyze the image above.")]
    else:
        raise MCPError(-32602, "unknown prompt")
    return t.GetPromptResult.model_validate({"messages": [{"role": "user", "content": c} for c in contents]})


async def complete(ctx: Any, params: Any) -> t.CompleteResult:
    return t.CompleteResult.model_validate({"completion": {"values": [], "total": 0, "hasMore": False}})


async def set_level(ctx: Any, params: Any) -> t.EmptyResult:
    return t.EmptyResult()


def build() -> Server[Any]:
    """Return the server."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # logging is deprecated in 2026-07-28, and still in both revisions
        server: Server[Any] = Server(
            "everything",
            version="1.0.0",
            instructions="A server for tests.",
            on_list_tools=list_tools,
            on_call_tool=call_tool,
            on_list_resources=list_resources,
            on_list_resource_templates=list_templates,
            on_read_resource=read_resource,
            on_subscribe_resource=subscribe,
            on_unsubscribe_resource=subscribe,
            on_list_prompts=list_prompts,
            on_get_prompt=get_prompt,
            on_completion=complete,
            on_set_logging_level=set_level,
            on_subscriptions_listen=ListenHandler(BUS),
        )
        server.middleware.append(RequestStateBoundary(RequestStateSecurity(keys=[STATE_KEY]), default_audience=None))
        return server


def application() -> Any:
    """Return the ASGI application: both eras, with events that outlive their connection."""
    return build().streamable_http_app(event_store=KeptEvents(), retry_interval=RETRY_MS)


def effects() -> dict[str, str]:
    """Return every tool as a reader, for the configuration of a firewall in front."""
    return dict.fromkeys([*STATIC, *RUN, *questions.TOOLS], "read")


def main() -> None:
    """Serve on loopback."""
    import uvicorn

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    uvicorn.run(application(), host="127.0.0.1", port=arguments.port, log_level="warning", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
