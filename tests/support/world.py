"""Scripted upstreams of all three protocols on one loopback port; whatever reaches them is kept.

    /mcp/<name>   an MCP server of the modern era     /llm/<name>/chat/completions   a model provider
    /a2a/<name>/  an A2A agent with a signed card     /llm/<name>/messages           the same, as Anthropic's

A script is data: what the upstream defines and what it answers. Nothing here is polite or careful:
an upstream says what its script says.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from a2a.types import AgentCard
from google.protobuf.json_format import MessageToDict

from examples.demo_a2a_agent import DemoAgent
from firewall.net.runtime import SystemClock, Tasks
from firewall.net.server import Listener, Server

STRING = {"type": "string"}
ECHO: dict[str, Any] = {
    "name": "echo",
    "description": "Returns its text.",
    "inputSchema": {"type": "object", "properties": {"text": STRING}, "additionalProperties": False},
}


def tool(name: str, *strings: str, description: str = "Does its work.", **more: Any) -> dict[str, Any]:
    """Return a definition whose arguments are strings."""
    schema = {"type": "object", "properties": dict.fromkeys(strings, STRING), "additionalProperties": False}
    return {"name": name, "description": description, "inputSchema": schema, **more}


@dataclass
class MCPScript:
    """tools: its definitions. answer: the result of a call, or a function of the call's params."""

    tools: list[dict[str, Any]] = field(default_factory=lambda: [ECHO])
    instructions: str = ""
    answer: dict[str, Any] | Callable[[dict[str, Any]], dict[str, Any]] | None = None
    notices: list[dict[str, Any]] = field(default_factory=list)
    error: dict[str, Any] | None = None
    raw: bytes | None = None
    kind: str = "application/json"


@dataclass
class A2AScript:
    """card: changes to the agent's card. result: what SendMessage returns; None gives a task with ``text``."""

    agent: DemoAgent
    text: str = ""
    result: dict[str, Any] | None = None
    form: str = "restore"
    error: dict[str, Any] | None = None
    raw: bytes | None = None


@dataclass
class LLMScript:
    """message: the assistant's message; pieces: the deltas of a stream. blocks, events: what the Messages API says."""

    message: dict[str, Any] = field(default_factory=lambda: {"content": "Hello."})
    finish: str = "stop"
    pieces: list[str] = field(default_factory=list)
    blocks: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200
    raw: bytes | None = None


@dataclass
class Seen:
    """One request that an upstream got."""

    kind: str
    name: str
    headers: list[tuple[bytes, bytes]]
    raw: bytes
    target: str

    @property
    def body(self) -> Any:
        """The parsed body."""
        return json.loads(self.raw) if self.raw else None

    @cached_property
    def method(self) -> str:
        """The JSON-RPC method, or ``chat`` and ``card``."""
        if self.kind == "llm":
            return "chat"
        return str(self.body.get("method", "(answer)")) if self.raw else "card"


@dataclass
class World:
    """The upstreams. Change a script at any time; the next request sees it."""

    origin: str = ""
    mcp: dict[str, MCPScript] = field(default_factory=dict)
    a2a: dict[str, A2AScript] = field(default_factory=dict)
    llm: dict[str, LLMScript] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    hold: asyncio.Event | None = None

    def add_mcp(self, name: str, **script: Any) -> str:
        """Add an MCP server; return its URL."""
        self.mcp[name] = MCPScript(**script)
        return f"{self.origin}/mcp/{name}"

    def add_a2a(self, name: str, *, skill: str = "", description: str = "", **script: Any) -> A2AScript:
        """Add an agent; its card is at ``<origin>/a2a/<name>/.well-known/agent-card.json``."""
        agent = DemoAgent(f"{self.origin}/a2a/{name}/")
        if skill or description:
            words = {k: v for k, v in (("skill", skill), ("description", description)) if v}
            agent.cards["restore"] = agent.served = agent._signed(agent.card(**words))
        self.a2a[name] = A2AScript(agent, **script)
        return self.a2a[name]

    def calls(self, kind: str = "", name: str = "") -> list[Seen]:
        """Return what carried a caller's content: tool calls, messages, chats."""
        mine = [s for s in self.seen if kind in ("", s.kind) and name in ("", s.name)]
        return [s for s in mine if s.method in ("tools/call", "SendMessage", "SendStreamingMessage", "chat")]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        raw = b""
        while True:
            message = await receive()
            raw += message.get("body", b"")
            if not message.get("more_body"):
                break
        _, kind, name, *rest = scope["path"].split("/")
        seen = Seen(kind, name, list(scope["headers"]), raw, scope["path"])
        self.seen.append(seen)
        if self.hold is not None and raw and seen in self.calls():
            await self.hold.wait()
        say = _sender(send)
        if kind == "mcp" and name in self.mcp:
            await _mcp(self.mcp[name], seen.body, say)
        elif kind == "a2a" and name in self.a2a:
            await _a2a(self.a2a[name], seen, rest, say)
        elif kind == "llm" and name in self.llm:
            await (_messages if rest == ["messages"] else _llm)(self.llm[name], seen.body, say)
        else:
            await say(404, "application/json", b"{}")


Say = Callable[[int, str, bytes], Awaitable[None]]


def _sender(send: Any) -> Say:
    async def say(status: int, kind: str, body: bytes) -> None:
        headers = [(b"content-type", kind.encode())] if kind else []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return say


async def _mcp(script: MCPScript, asked: Any, say: Say) -> None:
    method, rpc_id = asked.get("method"), asked.get("id")
    if rpc_id is None:
        await say(202, "", b"")
        return
    result: dict[str, Any] = {"resultType": "complete"}
    if method == "server/discover":
        result |= {
            "supportedVersions": ["2026-07-28"],
            "capabilities": {"tools": {}},
            "instructions": script.instructions,
        }
    elif method == "tools/list":
        result["tools"] = script.tools
    elif script.raw is not None:
        await say(200, script.kind, script.raw)
        return
    else:
        given = script.answer(asked["params"]) if callable(script.answer) else script.answer
        result |= given or {"content": [{"type": "text", "text": "fine"}]}
    answer: dict[str, Any] = {"jsonrpc": "2.0", "id": rpc_id, "result": result}
    if script.error is not None and method == "tools/call":
        answer = {"jsonrpc": "2.0", "id": rpc_id, "error": script.error}
    if script.notices and method == "tools/call":
        token = asked["params"].get("_meta", {}).get("progressToken")
        notices = json.loads(json.dumps(script.notices).replace('"$token"', json.dumps(token)))
        body = b"".join(b"event: message\ndata: " + json.dumps(v).encode() + b"\n\n" for v in [*notices, answer])
        await say(200, "text/event-stream", body)
        return
    await say(200, "application/json", json.dumps(answer).encode())


async def _a2a(script: A2AScript, seen: Seen, rest: list[str], say: Say) -> None:
    if rest and rest[0] == ".well-known":
        card: AgentCard = script.agent.cards[script.form]
        await say(200, "application/json", json.dumps(MessageToDict(card)).encode())
        return
    if script.raw is not None:
        await say(200, "application/json", script.raw)
        return
    asked = seen.body
    answer: dict[str, Any] = {"jsonrpc": "2.0", "id": asked["id"]}
    if script.error is not None:
        answer["error"] = script.error
    elif script.result is not None:
        answer["result"] = script.result
    else:
        task = {
            "id": asked["params"].get("id") or "task-of-the-agent",
            "contextId": "context-of-the-agent",
            "status": {"state": "TASK_STATE_COMPLETED"},
            "artifacts": [{"artifactId": "a1", "parts": [{"text": script.text or "fine"}]}],
        }
        answer["result"] = {"task": task} if "message" in asked["params"] else task
    body = json.dumps(answer).encode()
    if asked["method"] == "SendStreamingMessage":
        await say(200, "text/event-stream", b"data: " + body + b"\n\n")
    else:
        await say(200, "application/json", body)


async def _llm(script: LLMScript, asked: Any, say: Say) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    base = {"id": "up", "created": 1, "model": asked["model"]}
    if script.raw is not None:
        await say(script.status, "application/json", script.raw)
    elif asked.get("stream"):
        pieces = [{"content": piece} for piece in script.pieces or [script.message.get("content") or ""]]
        deltas: list[tuple[dict[str, Any], str | None]] = [({"role": "assistant", "content": ""}, None)]
        deltas += [(piece, None) for piece in pieces]
        deltas.append(({}, script.finish))
        chunks = [
            {**base, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": d, "finish_reason": f}]}
            for d, f in deltas
        ]
        events = [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks]
        await say(200, "text/event-stream", b"".join(events) + b"data: [DONE]\n\n")
    else:
        choice = {"index": 0, "message": {"role": "assistant", **script.message}, "finish_reason": script.finish}
        whole = {**base, "object": "chat.completion", "choices": [choice], "usage": usage}
        await say(script.status, "application/json", json.dumps(whole).encode())


async def _messages(script: LLMScript, asked: Any, say: Say) -> None:
    base = {"id": "msg_up", "type": "message", "role": "assistant", "model": asked["model"], "stop_sequence": None}
    usage = {"input_tokens": 3, "output_tokens": 2}
    called = any(block["type"] == "tool_use" for block in script.blocks)
    reason = "tool_use" if called else "end_turn"
    if script.raw is not None:
        await say(script.status, "application/json", script.raw)
    elif asked.get("stream"):
        text = [{"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}]
        for piece in script.pieces or ["Hello."]:
            delta = {"type": "text_delta", "text": piece}
            text.append({"type": "content_block_delta", "index": 0, "delta": delta})
        events: list[dict[str, Any]] = [
            {"type": "message_start", "message": {**base, "content": [], "stop_reason": None, "usage": usage}},
            *(script.events or [*text, {"type": "content_block_stop", "index": 0}, *MESSAGE_END]),
        ]
        said = [f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in events]
        await say(200, "text/event-stream", b"".join(said))
    else:
        content = script.blocks or [{"type": "text", "text": "Hello."}]
        whole = {**base, "content": content, "stop_reason": reason, "usage": usage}
        await say(script.status, "application/json", json.dumps(whole).encode())


MESSAGE_END: list[dict[str, Any]] = [
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
    {"type": "message_stop"},
]


@contextlib.asynccontextmanager
async def serve_app(app: Any) -> AsyncIterator[str]:
    """Serve an ASGI application on a free loopback port; yield its origin."""
    tasks = Tasks()
    server = Server([Listener("world", "127.0.0.1", 0, app)], SystemClock(), tasks)
    await server.start()
    try:
        yield f"http://127.0.0.1:{server.ports['world']}"
    finally:
        await server.stop(grace_s=0.1)
        await tasks.close()


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[World]:
    """Serve a world of upstreams on a free port."""
    made = World()
    async with serve_app(made) as origin:
        made.origin = origin
        yield made


__all__ = ["ECHO", "World", "serve_app", "tool", "world"]
