"""A scripted upstream with tasks and change notifications, in either era, that does as a test says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from tests.mcp_gateway.scripted import Scripted, Send, as_json, event, fine, head
from tests.support.mcp import MODERN_META, Stack

EXT = "io.modelcontextprotocol/tasks"
RELATED = "io.modelcontextprotocol/related-task"
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
TIMES = {"createdAt": "2026-11-23T05:00:00Z", "lastUpdatedAt": "2026-11-23T05:00:01Z"}
DONE = {"content": [{"type": "text", "text": "done"}], "isError": False}
SLOW = {"name": "slow", "description": "Takes a while.", "inputSchema": {"type": "object"}}
TOOLS = [
    {**SLOW, "execution": {"taskSupport": "optional"}},
    {**SLOW, "name": "must", "execution": {"taskSupport": "required"}},
    {**SLOW, "name": "never"},
]
CORE = {"tasks": {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}}
NOTES = "note://x/notes.txt"
RESOURCES = [{"uri": NOTES, "name": "notes"}, {"uri": "note://x/other.txt", "name": "other"}]


@dataclass
class Tasked(Scripted):
    """tasks: id → what is added to its state. result: of every task; done: set when ``tasks/result`` may answer.

    question: what it asks on the stream of ``tasks/result`` before that answers. demands: the addresses that its
    next ``tasks/result`` demand instead (-32042). ears: one queue per stream on
    which it can speak unasked.
    """

    tools: list[dict[str, Any]] = field(default_factory=lambda: [dict(tool) for tool in TOOLS])
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=lambda: dict(DONE))
    text: str = ""
    fixed_id: str = ""
    able: bool = True
    question: dict[str, Any] | None = None
    demands: list[dict[str, Any]] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=lambda: [dict(one) for one in RESOURCES])
    templates: list[dict[str, Any]] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    ears: list[tuple[Any, asyncio.Queue[Any]]] = field(default_factory=list)
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    def state(self, task_id: str) -> dict[str, Any]:
        ttl = {"ttl": 60_000, "pollInterval": 100} if self.legacy else {"ttlMs": 60_000, "pollIntervalMs": 100}
        said = {"statusMessage": self.text} if self.text else {}
        return {"taskId": task_id, "status": "working", **TIMES, **ttl, **said, **self.tasks[task_id]}

    def finish(self, **added: Any) -> None:
        """End every task."""
        for task in self.tasks.values():
            task |= {"status": "completed", **({} if self.legacy else {"result": self.result}), **added}
        self.done.set()

    def say(self, method: str, **params: Any) -> None:
        """Send a notification on every open stream, each with the id of its listen."""
        for rpc_id, queue in self.ears:
            meta = {} if rpc_id is None else {"_meta": {SUBSCRIPTION: rpc_id}}
            queue.put_nowait({"jsonrpc": "2.0", "method": method, "params": {**params, **meta}})

    async def listened(self) -> None:
        """Return when somebody listens."""
        async with asyncio.timeout(5):
            while not self.ears:
                self.heard.clear()
                await self.heard.wait()

    async def answer(self, headers: dict[str, str], asked: dict[str, Any], send: Send) -> None:
        method, params = asked.get("method", ""), asked.get("params", {})
        reply: Any = None
        if not asked and headers.get("accept") == "text/event-stream":
            await self._speak(None, send)
        elif method == "server/discover" and not self.legacy:
            extensions = {"extensions": {EXT: {}}} if self.able else {}
            reply = {"supportedVersions": ["2026-07-28"], "capabilities": self._said(extensions)}
        elif method == "initialize":
            reply = {
                "protocolVersion": "2025-11-25",
                "capabilities": self._said(CORE if self.able else {}),
                "serverInfo": {"name": "s", "version": "1"},
            }
            body = {"jsonrpc": "2.0", "id": asked["id"], "result": reply}
            await send(as_json(body, extra=f"mcp-session-id: {self.session}\r\n"))
            return
        elif method == "subscriptions/listen":
            await self._speak(asked["id"], send, params["notifications"])
        elif method == "tools/call" and self._begins(params):
            task_id = self.fixed_id or f"up-{len(self.tasks) + 1}"
            self.tasks[task_id] = {}
            state = self.state(task_id)
            reply = {"task": state} if self.legacy else {"resultType": "task", **state}
        elif method == "tools/call" and self.legacy:
            reply = self.result
        elif method == "tasks/result" and self.demands:
            error = {"code": -32042, "message": "MARKER", "data": {"elicitations": [self.demands.pop()]}}
            await send(as_json({"jsonrpc": "2.0", "id": asked["id"], "error": error}))
        elif method == "tasks/result" and self.question is not None:
            await send(head("text/event-stream"))
            related = {"_meta": {RELATED: {"taskId": params["taskId"]}}}
            asking = {"jsonrpc": "2.0", "id": "s1", "method": "elicitation/create"}
            await send(event({**asking, "params": {**self.question, **related}}))
            await self.done.wait()
            await send(event({"jsonrpc": "2.0", "id": asked["id"], "result": self.result}))
        elif method == "tasks/result":
            await self.done.wait()
            reply = {**self.result, "_meta": {RELATED: {"taskId": params["taskId"]}}}
        elif method in ("tasks/get", "tasks/cancel", "tasks/update"):
            if params["taskId"] not in self.tasks:
                error = {"code": -32602, "message": "no such task: MARKER"}
                await send(as_json({"jsonrpc": "2.0", "id": asked["id"], "error": error}))
                return
            if method == "tasks/cancel":
                self.tasks[params["taskId"]] = {"status": "cancelled"}
            reply = self.state(params["taskId"]) if self.legacy or method == "tasks/get" else {}
        elif method == "resources/list":
            reply = {"resources": self.resources}
        elif method == "resources/templates/list":
            reply = {"resourceTemplates": self.templates}
        elif method in ("resources/subscribe", "resources/unsubscribe"):
            reply = {}
        else:
            await super().answer(headers, asked, send)
        if reply is not None:
            given = reply if self.legacy else {"resultType": "complete", **reply}
            await send(as_json({"jsonrpc": "2.0", "id": asked["id"], "result": given}))

    def _said(self, more: dict[str, Any]) -> dict[str, Any]:
        return {"tools": {"listChanged": True}, "resources": {"subscribe": True, "listChanged": True}, **more}

    def _begins(self, params: dict[str, Any]) -> bool:
        if self.legacy:
            return "task" in params
        return EXT in params["_meta"][CAPABILITIES].get("extensions", {})

    async def _speak(self, rpc_id: Any, send: Send, wanted: Any = None) -> None:
        await send(head("text/event-stream"))
        if rpc_id is not None:
            params = {"notifications": wanted, "_meta": {SUBSCRIPTION: rpc_id}}
            await send(
                event({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": params})
            )
        ear = (rpc_id, asyncio.Queue())
        self.ears.append(ear)
        self.heard.set()
        try:
            while True:
                await send(event(await ear[1].get()))
        finally:
            self.ears.remove(ear)


@contextlib.asynccontextmanager
async def tasked(**changes: Any) -> AsyncIterator[Tasked]:
    """Run such an upstream on a free port."""
    upstream = Tasked(changes.pop("call", fine), **changes)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, limit=1 << 20)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()


def meta(*, extended: bool = True, **capabilities: Any) -> dict[str, Any]:
    """Return the ``_meta`` of a modern client."""
    declared = {**capabilities, **({"extensions": {EXT: {}}} if extended else {})}
    return {**MODERN_META, CAPABILITIES: declared}


async def ask(stack: Stack, method: str, task_id: str, *, token: str = "alice", **params: Any) -> Any:
    """Return a modern client's answer about a task."""
    given = {"taskId": task_id, "_meta": meta(**params.pop("capabilities", {})), **params}
    answer = await stack.modern("/mcp/demo", method, given, token=token, **{"mcp-name": task_id})
    return answer.json()


async def begin(stack: Stack, name: str = "slow", *, token: str = "alice", path: str = "/mcp/demo") -> Any:
    """Return the result of a modern call that may become a task."""
    answer = await stack.modern(path, "tools/call", {"name": name, "arguments": {}, "_meta": meta()}, token=token)
    return answer.json()["result"]
