"""An MCP server of one era whose every word is a named place; any of them can be made to say something else.

``say("tool.description")`` is a harmless word unless the test planted another one there. The server offers
all that a server of its era can: lists, templates, prompts, completion, questions in all three kinds,
progress, log lines, tasks, errors, subscriptions. Whatever reaches it is kept as it came.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal

from firewall.net.runtime import SystemClock, Tasks
from firewall.net.server import Listener, Server
from tests.sim.corners import PROMPT, PROMPTED, QUESTION, READ, RESOURCE, RESULT, SERVER, TEMPLATE, TOOL, corner

Era = Literal["legacy", "modern"]
ERAS: tuple[Era, ...] = ("legacy", "modern")
META = "io.modelcontextprotocol/"
TASKS = META + "tasks"
AT = "at-"  # before the name of a place: a tool, resource or prompt whose answer or question has its words there
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="


def message(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """Return a notification."""
    return {"jsonrpc": "2.0", "method": method, "params": params}


@dataclass
class Planted:
    """One server. words: place → what it says there. seen: (verb, headers, body) of every request."""

    era: Era
    words: dict[str, str] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    seen: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    waiting: dict[str, asyncio.Future[Any]] = field(default_factory=dict)
    streams: list[asyncio.Queue[dict[str, Any]]] = field(default_factory=list)
    origin: str = ""
    made: int = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{self.origin}/mcp"

    def say(self, place: str) -> str:
        """Return what stands at a place; remember that it was asked for."""
        self.asked.add(place)
        return self.words.get(place, "harmless " + place.replace(".", " "))

    def received(self) -> str:
        """Return all that ever came in, as text with no escapes."""
        return json.dumps([[verb, headers, body] for verb, headers, body in self.seen], ensure_ascii=False)

    # -- what there is -----------------------------------------------------------------------------------

    def tools(self) -> list[dict[str, Any]]:
        """One tool for each corner of a definition, and plain ones that do things."""
        free: dict[str, Any] = {"type": "object"}
        plain = {"description": "Does its work.", "inputSchema": free}
        corners = [{"name": corner(place), **plain, **made(self.say(place))} for place, made in TOOL.items()]
        names = ["text", "structured", "embedded", "link", "block-meta", "result-meta", "fails", "error", "progress"]
        names += ["log", "ask-form", "ask-schema", "ask-url", "ask-sampling", "ask-roots", "url-required", "updates"]
        names += [AT + place for place in (*RESULT, *QUESTION)] + ["task"]
        doing = [{"name": n, **plain} for n in names]
        if self.era == "legacy":
            doing[-1]["execution"] = {"taskSupport": "optional"}
        return [*corners, *doing]

    def listed(self, method: str) -> dict[str, Any]:
        """Answer a list: one plain definition, and one for each corner."""
        if method == "tools/list":
            return {"tools": self.tools()}
        if method == "resources/list":
            one = {"uri": "test://one", "name": "one", "mimeType": "text/plain"}
            held = [{**one, "uri": f"test://{corner(at)}", **made(self.say(at))} for at, made in RESOURCE.items()]
            return {"resources": [one, *held, *({**one, "uri": f"test://{AT}{at}"} for at in READ)]}
        if method == "resources/templates/list":
            one = {"uriTemplate": "test://of/{id}", "name": "of"}
            held = [
                {**one, "uriTemplate": f"test://{corner(at)}/{{id}}", **made(self.say(at))}
                for at, made in TEMPLATE.items()
            ]
            return {"resourceTemplates": [one, *held]}
        greet = {"name": "greet", "arguments": [{"name": "who", "required": False}]}
        held = [{"name": corner(at), **made(self.say(at))} for at, made in PROMPT.items()]
        return {"prompts": [greet, *held, *({"name": AT + at} for at in PROMPTED)]}

    def content(self, name: str) -> dict[str, Any]:
        """Answer a call of a tool that only returns."""
        block: dict[str, Any] = {"type": "text", "text": "fine"}
        place = name.removeprefix(AT)
        if name.startswith(AT) and place in RESULT:
            return RESULT[place](self.say(place))
        if name == "text":
            block["text"] = self.say("result.text")
        if name == "structured":
            value = {"note": [self.say("result.structured")]}
            return {
                "content": [{"type": "text", "text": json.dumps(value, ensure_ascii=False)}],
                "structuredContent": value,
            }
        if name == "embedded":
            held = {"uri": "test://in", "mimeType": "text/plain", "text": self.say("result.embedded")}
            block = {"type": "resource", "resource": held}
        if name == "link":
            described = self.say("result.link.description")
            block = {"type": "resource_link", "uri": "test://one", "name": "one", "description": described}
        if name == "block-meta":
            block["_meta"] = {"com.example/note": self.say("result.block.meta")}
        if name == "result-meta":
            return {"content": [block], "_meta": {"com.example/note": self.say("result.meta")}}
        if name == "fails":
            return {"content": [{"type": "text", "text": self.say("result.error.text")}], "isError": True}
        return {"content": [block]}

    def question(self, name: str) -> dict[str, Any] | None:
        """Return what a tool asks before it answers."""
        form: dict[str, Any] = {"type": "object", "properties": {"colour": {"type": "string"}}}
        place = name.removeprefix(AT)
        if name.startswith(AT) and place in QUESTION:
            return QUESTION[place](self.say(place))
        match name:
            case "ask-form":
                given = {"message": self.say("ask.form.message"), "requestedSchema": form}
            case "ask-schema":
                form["properties"]["colour"] |= {
                    "title": self.say("ask.form.title"),
                    "description": self.say("ask.form.description"),
                }
                given = {"message": "Which?", "requestedSchema": form}
            case "ask-url":
                given = {
                    "mode": "url",
                    "message": self.say("ask.url.message"),
                    "url": self.words.get("ask.url", "https://sign-in.example/x"),
                }
                given |= {"elicitationId": "e1"} if self.era == "legacy" else {}
            case "ask-sampling":
                said = {"type": "text", "text": self.say("ask.sampling.message")}
                given = {"messages": [{"role": "user", "content": said}], "maxTokens": 10}
                given["systemPrompt"] = self.say("ask.sampling.system")
                return {"method": "sampling/createMessage", "params": given}
            case "ask-roots":
                return {"method": "roots/list", "params": {}}
            case _:
                return None
        return {"method": "elicitation/create", "params": given}

    def task(self, task_id: str, status: str, **more: Any) -> dict[str, Any]:
        """Return the state of a task, in the shape of this era."""
        times = {"createdAt": "2026-11-23T00:00:00Z", "lastUpdatedAt": "2026-11-23T00:00:01Z"}
        ttl = {"ttl": 60000, "pollInterval": 100} if self.era == "legacy" else {"ttlMs": 60000, "pollIntervalMs": 100}
        return {"taskId": task_id, "status": status, "statusMessage": self.say("task.status"), **times, **ttl, **more}

    # -- how it is said ------------------------------------------------------------------------------------

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request; whoever leaves meanwhile is not missed."""
        with contextlib.suppress(asyncio.CancelledError):
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        raw = b""
        while (part := await receive()).get("more_body") or part.get("body"):
            raw += part.get("body", b"")
            if not part.get("more_body"):
                break
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        body = json.loads(raw) if raw else None
        self.seen.append((scope["method"], headers, body))
        reply = _Reply(send)
        if scope["method"] == "GET" and self.era == "legacy":
            await self._hold(reply)
        elif scope["method"] != "POST" or not isinstance(body, dict):
            await reply.plain(405 if scope["method"] == "GET" else 200)
        elif "method" not in body:
            waiting = self.waiting.pop(str(body.get("id")), None)
            if waiting is not None and not waiting.done():
                waiting.set_result(body)
            await reply.plain(202)
        elif "id" not in body:
            await reply.plain(202)
        else:
            await self._request(body, reply)

    async def _hold(self, reply: _Reply, first: dict[str, Any] | None = None) -> None:
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.streams.append(queue)
        try:
            if first is not None:
                await reply.event(first)
            else:
                await reply.start()
            while True:
                await reply.event(await queue.get())
        finally:
            self.streams.remove(queue)

    def tell(self, note: dict[str, Any]) -> None:
        """Say something to whoever listens."""
        for queue in self.streams:
            queue.put_nowait(note)

    async def _request(self, body: dict[str, Any], reply: _Reply) -> None:
        method, params = body["method"], body.get("params") or {}
        known = "server/discover" if self.era == "modern" else "initialize"
        if method in ("initialize", "server/discover"):
            if method != known:
                error = {"code": -32601 if self.era == "modern" else -32000, "message": "no"}
                await reply.json({"jsonrpc": "2.0", "id": body["id"], "error": error}, status=400)
                return
            await reply.json(self._result(body, self._opening()), session=self.era == "legacy")
            return
        if method == "subscriptions/listen":
            meta = {META + "subscriptionId": body["id"]}
            ack = {"notifications": params.get("notifications", {}), "_meta": meta}
            await self._hold(reply, message("notifications/subscriptions/acknowledged", ack))
        elif method.endswith("/list"):
            listed = self.listed(method)
            await reply.json(
                self._result(
                    body, {**listed, **({"ttlMs": 0, "cacheScope": "private"} if self.era == "modern" else {})}
                )
            )
        elif method == "tools/call":
            await self._call(body, params, reply)
        elif method == "resources/read":
            place = params["uri"].removeprefix(f"test://{AT}")
            held = {"uri": params["uri"], "mimeType": "text/plain", "text": self.say("resource.text")}
            held["_meta"] = {"com.example/note": self.say("resource.meta")}
            held = READ[place](self.say(place)) if place in READ else held
            await reply.json(self._result(body, {"contents": [held]}, cache=True))
        elif method == "prompts/get":
            place = params["name"].removeprefix(AT)
            block = {"type": "text", "text": self.say("prompt.message")}
            said = {"role": "user", "content": PROMPTED[place](self.say(place)) if place in PROMPTED else block}
            told = {"description": self.say("prompt.result.description"), "messages": [said]}
            await reply.json(self._result(body, told))
        elif method == "completion/complete":
            found = {"values": [self.say("completion.value")], "total": 1, "hasMore": False}
            await reply.json(self._result(body, {"completion": found}))
        elif method.startswith("tasks/"):
            await self._tasks(method, body, reply)
        else:
            await reply.json(self._result(body, {}))

    def _opening(self) -> dict[str, Any]:
        info = {"name": "planted", "version": "1"} | {member: self.say(place) for place, member in SERVER.items()}
        able: dict[str, Any] = {"tools": {"listChanged": True}, "prompts": {"listChanged": True}, "completions": {}}
        able |= {"resources": {"subscribe": True, "listChanged": True}, "logging": {}}
        words = self.say("server.instructions")
        if self.era == "legacy":
            able["tasks"] = {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}
            return {"protocolVersion": "2025-11-25", "serverInfo": info, "capabilities": able, "instructions": words}
        able["extensions"] = {TASKS: {}}
        found: dict[str, Any] = {"supportedVersions": ["2026-07-28"], "capabilities": able, "instructions": words}
        return found | {"ttlMs": 0, "cacheScope": "private", "_meta": {META + "serverInfo": info}}

    async def _call(self, body: dict[str, Any], params: dict[str, Any], reply: _Reply) -> None:
        name, meta = params["name"], params.get("_meta", {})
        asked = self.question(name)
        if name == "error":
            error = {"code": -31999, "message": self.say("error.message"), "data": {"note": self.say("error.data")}}
            await reply.json({"jsonrpc": "2.0", "id": body["id"], "error": error})
        elif name == "url-required" and self.era == "legacy":
            one = {"mode": "url", "elicitationId": "e2", "url": "https://sign-in.example/y"}
            one["message"] = self.say("url.required.message")
            one["note"] = self.say("url.required.other")
            error = {"code": -32042, "message": self.say("url.required.error"), "data": {"elicitations": [one]}}
            await reply.json({"jsonrpc": "2.0", "id": body["id"], "error": error})
        elif name == "progress":
            for step in (1, 2):
                note = {
                    "progressToken": meta.get("progressToken"),
                    "progress": step,
                    "message": self.say("progress.message"),
                    "_meta": {"com.example/note": self.say("progress.meta")},
                    "note": self.say("progress.other"),
                }
                await reply.event(message("notifications/progress", note))
            await reply.event(self._result(body, self.content("fine")), last=True)
        elif name == "log":
            for data in (self.say("log.data"), {"deep": [self.say("log.data.deep")]}):
                note = {"level": "error", "logger": self.say("log.logger"), "data": data}
                note |= {"_meta": {"com.example/note": self.say("log.meta")}, "note": self.say("log.other")}
                await reply.event(message("notifications/message", note))
            await reply.event(self._result(body, self.content("fine")), last=True)
        elif name == "updates":
            told = {"uri": "test://one/" + self.say("updated.uri"), "_meta": {"a": self.say("updated.meta")}}
            await reply.event(message("notifications/resources/updated", told))
            for kind in ("tools", "prompts", "resources"):
                note = {"_meta": {"a": self.say("changed.meta")}, "note": self.say("changed.other")}
                await reply.event(message(f"notifications/{kind}/list_changed", note))
            await reply.event(message("notifications/cancelled", {"requestId": 1, "reason": self.say("cancelled")}))
            await reply.event(message("notifications/x-other", {"note": self.say("unknown.note")}))
            await reply.event(self._result(body, self.content("fine")), last=True)
        elif name == "task" and (params.get("task") or TASKS in json.dumps(meta)):
            await reply.json(self._result(body, self._created()))
        elif asked is None:
            await reply.json(self._result(body, self.content(name)))
        elif self.era == "modern":
            if "inputResponses" in params:
                await reply.json(self._result(body, {"content": [{"type": "text", "text": "thanks"}]}))
            else:
                held = {
                    "resultType": "input_required",
                    "inputRequests": {"q": asked},
                    "requestState": "state-of-the-server",
                }
                await reply.json({"jsonrpc": "2.0", "id": body["id"], "result": held})
        else:
            self.waiting["q1"] = asyncio.get_running_loop().create_future()
            waiting = self.waiting["q1"]
            await reply.event({"jsonrpc": "2.0", "id": "q1", **asked})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(10):
                    await waiting
            await reply.event(self._result(body, {"content": [{"type": "text", "text": "thanks"}]}), last=True)

    def _created(self) -> dict[str, Any]:
        self.made += 1
        made = self.task(f"t{self.made}", "working")
        if self.era == "legacy":
            words = {META + "model-immediate-response": self.say("task.immediate")}
            return {"task": made, "_meta": words}
        return {"resultType": "task", **made}

    async def _tasks(self, method: str, body: dict[str, Any], reply: _Reply) -> None:
        task_id = str((body.get("params") or {}).get("taskId", ""))
        done: dict[str, Any] = {"content": [{"type": "text", "text": self.say("task.result")}]}
        if method == "tasks/result":
            done["_meta"] = {META + "related-task": {"taskId": task_id}}
            await reply.json(self._result(body, done))
        elif method == "tasks/get" and self.era == "modern":
            if "task.asks" in self.words and "task.answered" not in self.asked:
                form = {"type": "object", "properties": {"colour": {"type": "string"}}}
                asked = {
                    "method": "elicitation/create",
                    "params": {"message": self.say("task.asks"), "requestedSchema": form},
                }
                await reply.json(self._result(body, self.task(task_id, "input_required", inputRequests={"q": asked})))
                return
            result = {"resultType": "complete", **done}
            await reply.json(self._result(body, self.task(task_id, "completed", result=result)))
        elif method == "tasks/get":
            await reply.json(self._result(body, self.task(task_id, "completed")))
        elif method == "tasks/update":
            self.asked.add("task.answered")
            await reply.json(self._result(body, {}))
        else:
            await reply.json(self._result(body, self.task(task_id, "cancelled") if self.era == "legacy" else {}))

    def _result(self, body: dict[str, Any], value: dict[str, Any], *, cache: bool = False) -> dict[str, Any]:
        extra = {"ttlMs": 0, "cacheScope": "private"} if cache and self.era == "modern" else {}
        kind = {"resultType": "complete"} if self.era == "modern" else {}
        return {"jsonrpc": "2.0", "id": body["id"], "result": {**kind, **extra, **value}}


class _Reply:
    """One HTTP answer: a JSON value, or events."""

    def __init__(self, send: Any) -> None:
        self._send = send
        self._started = False

    async def plain(self, status: int) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": []})
        await self._send({"type": "http.response.body", "body": b""})

    async def json(self, value: Any, *, status: int = 200, session: bool = False) -> None:
        headers = [(b"content-type", b"application/json")] + ([(b"mcp-session-id", b"s-planted")] if session else [])
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": json.dumps(value).encode()})

    async def start(self) -> None:
        if not self._started:
            self._started = True
            headers = [(b"content-type", b"text/event-stream")]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._send({"type": "http.response.body", "body": b":\n\n", "more_body": True})

    async def event(self, value: Any, *, last: bool = False) -> None:
        await self.start()
        data = b"event: message\ndata: " + json.dumps(value).encode() + b"\n\n"
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})


@contextlib.asynccontextmanager
async def planted(era: Era, **words: str) -> AsyncIterator[Planted]:
    """Serve one on a free loopback port."""
    made = Planted(era, dict(words))
    tasks = Tasks()
    server = Server([Listener("planted", "127.0.0.1", 0, made)], SystemClock(), tasks)
    await server.start()
    made.origin = f"http://127.0.0.1:{server.ports['planted']}"
    try:
        yield made
    finally:
        await server.stop(grace_s=0.0)
        await tasks.close()
