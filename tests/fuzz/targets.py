"""Every place where foreign bytes become values: one target each, a corpus, and what must hold.

A target takes bytes and returns, or raises one of our own errors with a code. Anything else that
escapes is a finding. Where an output exists it has properties of its own, checked here as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from a2a_gateway import card
from a2a_gateway import message as a2a_message
from firewall import config
from firewall.core import tool_details
from firewall.core.errors import BartizanError, Malformed
from firewall.core.jsonvalue import JSON
from firewall.decide import contract
from firewall.identity.cimd import images
from firewall.identity.rfc7591 import metadata as registration
from firewall.identity.rfc8628 import codes as device_codes
from firewall.wire import canonical, cimd, http, jsonrpc, jwt, oauth, sse, strict_json
from llm_router import answer, chat, message_answer, message_events, messages, shape
from mcp_gateway import apps, bridge, content, headers, incoming, lists
from mcp_gateway import message as mcp_message
from tests.support.composed import META, VERSION

ROUTING = [
    (b"mcp-protocol-version", VERSION.encode()),
    (b"mcp-method", b"tools/call"),
    (b"mcp-name", b"echo"),
]


@dataclass(frozen=True)
class Target:
    """A parse entry point with good examples of its input."""

    name: str
    run: Callable[[bytes], object]
    corpus: tuple[bytes, ...]


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _json(use: Callable[[JSON], object]) -> Callable[[bytes], object]:
    return lambda data: use(strict_json.loads(data))


def strict(data: bytes) -> None:
    """What was parsed is written and read again as the same value; no stricter reader would disagree."""
    value = strict_json.loads(data)
    again = strict_json.dumps(value)
    assert strict_json.loads(again) == value
    assert json.loads(data) == value
    canonical.encode(value)


def rpc(data: bytes) -> None:
    """A JSON-RPC message is of exactly one kind."""
    jsonrpc.parse(strict_json.loads(data))


def events(data: bytes) -> None:
    """What is released never depends on how the bytes were cut (DESIGN §8)."""
    whole = [_shown(e) for e in sse.Parser(4096).feed(data)]
    for cut in {1, len(data) // 3, len(data) // 2, max(0, len(data) - 1)}:
        parser = sse.Parser(4096)
        pieces = [_shown(e) for part in (data[:cut], data[cut:]) for e in parser.feed(part)]
        assert pieces == whole, f"cut at {cut}"


def _shown(event: sse.Event | Malformed) -> object:
    return event.code if isinstance(event, Malformed) else event


def mcp(data: bytes) -> None:
    """A message has the era that header and body agree on; both header sets are tried."""
    value = strict_json.loads(data)
    for raw in (ROUTING, [], [*ROUTING, (b"mcp-name", b"other")]):
        try:
            mcp_message.parse(value, incoming.split(raw)[1])
        except BartizanError:
            continue


def mcp_answer(data: bytes) -> None:
    """An upstream's JSON as a result, an opening, a definition."""
    value = strict_json.loads(data)
    for use in (
        lambda: content.tool_result(1, "modern", value, {}, None, apps.NONE),
        lambda: bridge.opened(value, "modern"),
        lambda: bridge.opened(value, "legacy"),
        lambda: lists.shown(lists.definition(value), "legacy", "x"),
    ):
        try:
            use()
        except BartizanError:
            continue


def routing_headers(data: bytes) -> None:
    """Header values in every spelling."""
    pairs = [(b"mcp-name", data), (b"mcp-method", data[::-1])]
    incoming.split(pairs)
    headers.says(data, data.decode("latin-1"))
    told = headers.decode(data)
    if told is not None:
        assert headers.decode(headers.encode(told)) == told


def a2a(data: bytes) -> None:
    """A caller's params, an agent's result and event."""
    value = strict_json.loads(data)
    for use in (
        lambda: a2a_message.parse_send(value),
        lambda: a2a_message.parse_task_query("GetTask", value),
        lambda: a2a_message.parse_result("SendMessage", value),
        lambda: a2a_message.parse_event(value),
    ):
        try:
            use()
        except BartizanError:
            continue


def chat_answer(data: bytes) -> None:
    """A provider's whole answer and one chunk."""
    value = strict_json.loads(data)
    for use in (answer.parse_answer, answer.parse_chunk, answer.error_text):
        try:
            use(value)
        except BartizanError:
            continue


def message_request(data: bytes) -> None:
    """A Messages request: what goes on is written from checked members, signed blocks as they came."""
    request = messages.parse(strict_json.loads(data))
    body = request.outgoing(model="m", limit=1, limit_member="")
    strict_json.dumps(request.readable(body))
    assert request.intact(body)


def message_stream(data: bytes) -> None:
    """A provider's whole message, or a list of its events."""
    value = strict_json.loads(data)
    if isinstance(value, list):
        machine = message_events.Events()
        for event in value:
            machine.feed(event)
    else:
        message_answer.check_calls(message_answer.parse_answer(value).blocks, "a", frozenset({"f"}))


def paths(data: bytes) -> None:
    """Hosts, paths, URLs and media types."""
    http.is_normal_path(data)
    http.media_type(data)
    http.accepts(data, b"application/json")
    for use in (
        lambda: http.parse_host(data),
        lambda: http.parse_url(_text(data)),
        lambda: http.decode_header_value(data),
        lambda: oauth.check_redirect_uri(_text(data)),
        lambda: oauth.parse_scope(_text(data)),
        lambda: cimd.check_client_url(_text(data)),
    ):
        try:
            use()
        except BartizanError:
            continue


def decision(data: bytes) -> None:
    """A decision is permitted only by a whole, consistent document."""
    made = contract.parse_decision(data, revision="r", engine="e")
    assert made.permits is (json.loads(data)["effect"] in ("allow", "transform"))


def picture(data: bytes) -> None:
    """What is shown of a picture is of one of three kinds, no longer than what came, and a picture itself."""
    shown = images.parse_picture(data)
    if shown is not None:
        assert shown.kind in ("image/png", "image/jpeg", "image/webp")
        assert len(shown.data) <= len(data)
        assert images.parse_picture(shown.data) == shown


def freshness(data: bytes) -> None:
    """Whatever a client's host says, its document is kept within our bounds."""
    names = ("cache-control", "age", "date", "expires")
    told = dict(zip(names, _text(data).split("\n"), strict=False))
    assert 300 <= cimd.fresh_seconds(told, 1_795_000_000) <= 86_400


DETAILS = [
    {
        "type": "mcp_tool",
        "locations": ["https://fw.example/mcp/files"],
        "actions": ["call"],
        "tools": ["read_file"],
        "constraints": {"path": ["/docs/a"], "depth": [1, True]},
    }
]


def details(value: JSON) -> None:
    """What was read is written and read again as the same limits, which permit no more than themselves."""
    read = tool_details.parse_details(value)
    assert tool_details.parse_details([one.as_json() for one in read]) == read
    assert all(tool_details.covers(read, one) for one in read)
    assert all(one.lacks("https://fw.example/mcp/files", "\0", {}) for one in read)


def user_code(typed: str) -> None:
    """A typed code is one of ours or nothing, and is always spelt the same."""
    kept = device_codes.normal(typed)
    assert kept == "" or (len(kept) == 8 and device_codes.normal(device_codes.shown(kept)) == kept)


def form(data: bytes) -> None:
    """An OAuth form, and an authorization request made of it."""
    oauth.parse_authorization_request(oauth.parse_form(data))


def settings(data: bytes) -> None:
    """A configuration document."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    raw = config.parse(text, "bartizan.yaml")
    if all(isinstance(key, str) for key in raw):
        config.build(raw)


def _dump(value: object) -> bytes:
    return json.dumps(value).encode()


CALL = {"name": "echo", "arguments": {"text": "hello", "n": [1, 2.5, None, True]}, "_meta": META}
SEND = {"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "x"}, {"data": {"a": 1}}], "taskId": "t"}}
TASK = {
    "id": "t",
    "contextId": "c",
    "status": {"state": "TASK_STATE_COMPLETED"},
    "artifacts": [{"artifactId": "a", "parts": [{"text": "x"}]}],
}
CHAT = {
    "model": "m",
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
        {"role": "tool", "tool_call_id": "c", "content": "y"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "stream": True,
}
THOUGHT = {"type": "thinking", "thinking": "t", "signature": "s"}
USE = {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}}
PROMPT = {
    "model": "m-messages",
    "max_tokens": 5,
    "system": [{"type": "text", "text": "s"}],
    "messages": [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": [THOUGHT, USE]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "y"}]},
    ],
    "tools": [{"name": "f", "input_schema": {"type": "object"}}],
    "thinking": {"type": "enabled", "budget_tokens": 3},
    "stream": True,
}
SAID = {"role": "assistant", "content": [THOUGHT, {"type": "text", "text": "x"}, USE], "stop_reason": "tool_use"}
STREAM = [
    {"type": "message_start", "message": {"role": "assistant", "content": [], "usage": {"input_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {**USE, "input": {}}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
    {"type": "content_block_stop", "index": 1},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 3}},
    {"type": "message_stop"},
]
MESSAGE = {
    "role": "assistant",
    "content": "hi",
    "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}
WHOLE = {
    "choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
}
CHUNK = {
    "choices": [
        {
            "index": 0,
            "delta": {"content": "x", "tool_calls": [{"index": 0, "function": {"arguments": "{"}}]},
            "finish_reason": None,
        }
    ]
}
TOOL = {
    "name": "echo",
    "description": "x",
    "inputSchema": {"type": "object", "properties": {"a": {"type": "string", "x-mcp-header": "A"}}},
    "icons": [{"src": "https://x.example/i.png"}],
}
RESULT = {
    "resultType": "complete",
    "content": [{"type": "text", "text": "x"}],
    "structuredContent": {"a": 1},
    "isError": False,
}
OPENED = {
    "supportedVersions": [VERSION],
    "capabilities": {"tools": {}},
    "protocolVersion": "2025-11-25",
    "serverInfo": {"name": "s", "version": "1"},
}
DECISION = {
    "contract": "1", "decision": True, "effect": "transform", "risk": 10, "shadow": [], "lifted": [],
    "reasons": [{"rule": "a.b", "effect": "transform", "code": "c", "owasp": ["ASI01"], "severity": 10}],
    "obligations": [{"type": "redact", "pointer": "/a/b"}],
}  # fmt: skip
CARD = {
    "name": "a", "description": "b", "version": "1", "supportedInterfaces": [{"url": "https://a.example/", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}],
    "capabilities": {"streaming": True}, "defaultInputModes": ["text/plain"], "defaultOutputModes": ["text/plain"],
    "skills": [{"id": "s", "name": "S", "description": "d", "tags": ["t"]}], "signatures": [{"protected": "e30", "signature": "AA"}],
}  # fmt: skip
DOCUMENT = {
    "client_id": "https://app.example/c.json", "client_name": "A", "redirect_uris": ["http://127.0.0.1/cb"], "grant_types": ["authorization_code"],
    "response_types": ["code"], "token_endpoint_auth_method": "none",
}  # fmt: skip
JWKS = {
    "keys": [
        {
            "kty": "EC",
            "crv": "P-256",
            "kid": "k",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        }
    ]
}
TOKEN = b"eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCIsImtpZCI6ImsifQ.eyJpc3MiOiJhIiwiZXhwIjoxfQ." + b"A" * 86
CONFIG = b"version: 1\npublic_url: http://127.0.0.1:8700\nworkers: 1\nmcp:\n  a:\n    url: https://a.example/mcp\n    tools: {x: read}\n"
FORM = (
    b"response_type=code&client_id=https%3A%2F%2Fapp.example%2Fc.json&redirect_uri=http%3A%2F%2F127.0.0.1%2Fcb&state=x&code_challenge="
    + b"a" * 43
    + b"&code_challenge_method=S256&resource=https%3A%2F%2Ffw.example%2Fmcp"
)


def _request(method: str, params: object) -> bytes:
    return _dump({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})


TARGETS = {
    target.name: target
    for target in (
        Target("strict_json", strict, (_request("tools/call", CALL), b'{"a":[1,-0.0,1e5,"\\u00e9\\ud83d\\ude00",null]}')),
        Target("jsonrpc", rpc, (_request("x", {}), _dump({"jsonrpc": "2.0", "id": "a", "error": {"code": 1, "message": "m"}}))),
        Target("sse", events, (b"event: message\nid: 1\ndata: {}\n\n: note\n\n", b"\xef\xbb\xbfdata: a\r\ndata: b\r\rdata\n\n")),
        Target("mcp_message", mcp, (_request("tools/call", CALL), _request("initialize", {"protocolVersion": "2025-11-25"}))),
        Target("mcp_answer", mcp_answer, (_dump(RESULT), _dump(OPENED), _dump(TOOL))),
        Target("mcp_headers", routing_headers, (b"echo", b"=?base64?w6k=?=", b" x ")),
        Target("a2a_message", a2a, (_dump(SEND), _dump({"task": TASK}), _dump({"id": "t", "historyLength": 3}))),
        Target("a2a_card", card.parse, (_dump(CARD),)),
        Target("chat_request", _json(chat.parse), (_dump(CHAT),)),
        Target("chat_answer", chat_answer, (_dump(WHOLE), _dump(CHUNK))),
        Target("message_request", message_request, (_dump(PROMPT),)),
        Target("message_answer", message_stream, (_dump(SAID), _dump(STREAM))),
        Target("call_arguments", lambda data: shape.read_arguments(data.decode("utf-8", "replace")), (b'{"zone":"UTC"}',)),
        Target("cimd", lambda data: cimd.parse_document("https://app.example/c.json", data), (_dump(DOCUMENT),)),
        Target("registration", _json(registration.parse_registration), (_dump({**DOCUMENT, "application_type": "native", "response_types": ["code"]}),)),
        Target("client_picture", picture, (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x20\0\0\0\x20\x08\0\0\0\0" + b"\0" * 9, b"\xff\xd8\xff\xc0\0\x11\x08\0\x20\0\x20" + b"\0" * 30, b"RIFF\x30\0\0\0WEBPVP8X\x0a\0\0\0" + b"\0" * 30)),
        Target("freshness", freshness, (b"public, max-age=600\n12\nWed, 18 Nov 2026 11:06:40 GMT\n0",)),
        Target("jwks", jwt.parse_jwks, (_dump(JWKS),)),
        Target("jwt", lambda data: jwt.parse_compact(data, algorithms=("ES256",)), (TOKEN,)),
        Target("oauth_form", form, (FORM,)),
        Target("tool_details", _json(details), (_dump(DETAILS),)),
        Target("user_code", lambda data: user_code(_text(data)), (b"WDJB-MJHT", b"wdjb mjht")),
        Target("addresses", paths, (b"/mcp/a", b"https://a.example:8443/x?y=1", b"[::1]:80", b"text/html;q=0.5, */*")),
        Target("decision", decision, (_dump(DECISION),)),
        Target("config", settings, (CONFIG,)),
    )
}  # fmt: skip


def attempt(target: Target, data: bytes) -> str:
    """Run a target once; return the code of our own refusal, or "ok". Whatever else escapes is raised."""
    try:
        target.run(data)
    except BartizanError as error:
        code = error.code
    else:
        return "ok"
    assert code.replace(".", "_").isidentifier(), "a code is a word of ours, never the peer's text"
    return code
