"""Clients of both eras that answer what they are asked, and the houses they visit (`test_hiding_places`)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx2

from firewall.detect.scan import PatternScanner
from firewall.detect.tool_review import review
from tests.mcp_gateway.legacy import Events, LegacyClient
from tests.sim.planted import Era, Planted, planted
from tests.support.composed import ROOT
from tests.support.kit import ScriptedEngine
from tests.support.mcp import MODERN_META, NO_TLS, Stack, person, running, spec

SECRET = "AKIA" + "QYLPMN5HHHFPZAM2"
ABLE = {
    "sampling": {"tools": {}},
    "elicitation": {"form": {}, "url": {}},
    "roots": {},
    "extensions": {"io.modelcontextprotocol/tasks": {}},
}
ERAS: tuple[Era, ...] = ("legacy", "modern")


# -- clients -----------------------------------------------------------------------------------------------------


@dataclass
class Modern:
    """A client of 2026-07-28 that answers what it is asked."""

    stack: Stack
    token: str
    answers: dict[str, Any]
    heard: list[Any]

    async def ask(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """Send a request, answer its questions, return the last message."""
        given = {**(params or {})}
        meta = {**MODERN_META, **given.get("_meta", {}), "progressToken": "p"}
        meta["io.modelcontextprotocol/clientCapabilities"] = ABLE
        meta["io.modelcontextprotocol/logLevel"] = "debug"
        given["_meta"] = meta
        extra = {"mcp-name": given["uri"]} if method == "resources/read" else {}
        if method.startswith("tasks/"):
            extra = {"mcp-name": given["taskId"]}
        answer = await self.stack.modern("/mcp/planted", method, given, token=self.token, **extra)
        messages = _messages(answer.text)
        self.heard += messages
        result = messages[-1].get("result", {})
        if isinstance(result, dict) and result.get("resultType") == "input_required" and "inputResponses" not in given:
            responses = {key: self.answers[_kind(q)] for key, q in result.get("inputRequests", {}).items()}
            again = {**(params or {}), "inputResponses": responses}
            if "requestState" in result:
                again["requestState"] = result["requestState"]
            return await self.ask(method, again)
        return messages[-1]

    async def task(self) -> None:
        """Begin a task and follow it to its end."""
        made = (await self.ask("tools/call", {"name": "task", "arguments": {}})).get("result", {})
        if made.get("resultType") != "task":
            return
        for _ in range(3):
            now = (await self.ask("tasks/get", {"taskId": made["taskId"]})).get("result", {})
            if now.get("status") != "input_required":
                return
            responses = {key: self.answers[_kind(q)] for key, q in now["inputRequests"].items()}
            await self.ask("tasks/update", {"taskId": made["taskId"], "inputResponses": responses})


@dataclass
class Legacy:
    """A client of 2025-11-25 with a session, that answers what it is asked."""

    session: LegacyClient
    answers: dict[str, Any]
    heard: list[Any]

    async def ask(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """Send a request, answer the questions on its stream, return the last message."""
        given = {**(params or {})}
        given["_meta"] = {"progressToken": "p", **given.get("_meta", {})}
        body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": given}
        stack, last = self.session.stack, {}
        async with httpx2.AsyncClient(timeout=40, verify=NO_TLS) as http:
            url, headers = stack.url("/mcp/planted"), self.session.headers()
            async with http.stream("POST", url, json=body, headers=headers) as response:
                if not response.headers.get("content-type", "").startswith("text/event-stream"):
                    last = json.loads(await response.aread())
                    self.heard.append(last)
                    return last
                events = Events(response)
                while (said := await events.message(30)) is not None:
                    self.heard.append(said)
                    last = said
                    if "method" in said and "id" in said:
                        await self.session.answer(said, self.answers[_kind(said)])
        return last

    async def task(self) -> None:
        """Begin a task and follow it to its end."""
        made = await self.ask("tools/call", {"name": "task", "arguments": {}, "task": {"ttl": 60000}})
        task = made.get("result", {}).get("task")
        if task is None:
            return
        for method in ("tasks/get", "tasks/result", "tasks/list"):
            await self.ask(method, {} if method == "tasks/list" else {"taskId": task["taskId"]})


Client = Modern | Legacy


def _messages(text: str) -> list[Any]:
    if text.startswith("{"):
        return [json.loads(text)]
    lines = [line[5:].strip() for line in text.split("\n") if line.startswith("data:")]
    return [json.loads(line) for line in lines if line]


def _kind(question: dict[str, Any]) -> str:
    if question["method"] == "elicitation/create":
        return "url" if question["params"].get("mode") == "url" else "form"
    return str(question["method"])


def plain_answers(**changed: Any) -> dict[str, Any]:
    """Return what a client says to each kind of question."""
    said = {"type": "text", "text": changed.get("sampling", "a word")}
    root = {"uri": changed.get("root.uri", "file:///srv/shared/x"), "name": changed.get("root.name", "x")}
    plain = {
        "form": {"action": "accept", "content": {"colour": changed.get("form", "blue")}},
        "url": {"action": "accept"},
        "sampling/createMessage": {"role": "assistant", "model": "m", "content": said},
        "roots/list": {"roots": [root]},
    }
    return {kind: {**answer, **changed.get(f"{kind}.more", {})} for kind, answer in plain.items()}


# -- the house ---------------------------------------------------------------------------------------------------


@cache
def _scanner() -> PatternScanner:
    place = ROOT / "build" / "conformance" / "patterns"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    return PatternScanner(cache=place)


@cache
def _engine() -> Any:
    from firewall.decide.bundle import load
    from firewall.decide.regorus import RegorusEngine

    place = ROOT / "build" / "conformance" / "policy"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    return RegorusEngine(load(state_dir=place, wait=False))


@dataclass
class House:
    """A server and the gateway in front of it, for many places: each visitor is a principal of its own."""

    server: Planted
    stack: Stack

    @contextlib.asynccontextmanager
    async def visitor(self, era: str, name: str, answers: dict[str, Any]) -> AsyncIterator[Client]:
        """Open a client of an era for one place; what it did and carries belongs to nobody else."""
        self.stack.auth.people[name] = person("planted:read", "planted:write", subject=f"u_{name}")
        if era == "modern":
            yield Modern(self.stack, name, answers, [])
            return
        session = LegacyClient(self.stack, "/mcp/planted", name)
        told = await session.initialize(
            {"sampling": {"tools": {}}, "elicitation": {"form": {}, "url": {}}, "roots": {}}
        )
        yield Legacy(session, answers, [told])

    def records(self, name: str) -> list[dict[str, Any]]:
        """Return what was recorded of one visitor."""
        return [r for r in self.stack.kit.audit.records if r.get("subject") == f"u_{name}"]  # type: ignore[misc]


@contextlib.asynccontextmanager
async def house(era: Era, words: dict[str, str], *, inspecting: bool) -> AsyncIterator[House]:
    """Run a server, and the gateway in front of it with everything or with nothing that looks at content."""
    given: dict[str, Any] = {"engine": _engine(), "scanner": _scanner(), "review": review}
    async with planted(era, **words) as server:
        one = spec(
            "planted",
            url=server.url,
            trust="trusted",
            asks=frozenset({"sampling", "elicitation", "roots"}),
            roots=("/srv/shared",),
            effects={tool["name"]: "read" for tool in server.tools()},
            era=era,
            answer_s=10.0,
            list_age_s=60.0,
        )
        server.asked.clear()
        async with running(one, **(given if inspecting else {"engine": ScriptedEngine()})) as stack:
            await stack.gateway.warm("default")  # all is read and reviewed: no visitor's patience pays for that
            yield House(server, stack)


class Street:
    """The houses of a module, each opened when it is first needed."""

    def __init__(self, stack: contextlib.AsyncExitStack) -> None:
        self._stack = stack
        self._houses: dict[tuple[str, str, bool], House] = {}

    async def house(self, era: Era, which: str, words: dict[str, str], *, inspecting: bool) -> House:
        """Return a house; ``which`` names its words."""
        key = (era, which, inspecting)
        if key not in self._houses:
            self._houses[key] = await self._stack.enter_async_context(house(era, words, inspecting=inspecting))
        return self._houses[key]


Visit = Callable[[Client], Awaitable[Any]]


def asks(method: str, **params: Any) -> Visit:
    """Return the visit that sends one request."""
    return lambda client: client.ask(method, params)


def calls(name: str) -> Visit:
    """Return the visit that calls one tool."""
    return asks("tools/call", name=name, arguments={})


async def opens(client: Client) -> None:
    """A legacy client has opened already; a modern one asks."""
    if isinstance(client, Modern):
        await client.ask("server/discover")


async def listens(client: Client) -> None:
    """Follow a task: its states and its result."""
    await client.task()


async def watches(client: Client) -> None:
    """Watch a resource whose address holds the secret, on the standalone stream of a session."""
    assert isinstance(client, Legacy)
    async with client.session.get() as events:
        await events.next()
        await client.ask("resources/subscribe", {"uri": f"test://of/{SECRET}"})
        with contextlib.suppress(TimeoutError):
            await events.message(0.3)  # until the gateway has passed it on, or would have


async def cancels(client: Client) -> None:
    """Say why a request is not wanted any more."""
    assert isinstance(client, Legacy)
    note = {"method": "notifications/cancelled", "params": {"requestId": 99, "reason": SECRET}}
    assert (await client.session.send({"jsonrpc": "2.0", **note})).status_code == 202
    await client.ask("tools/call", {"name": "text", "arguments": {}})


async def introduces(client: Client) -> None:
    """Open a session under a name, and tell of progress and of changed roots."""
    assert isinstance(client, Legacy)
    info = {"name": SECRET, "version": SECRET, "title": SECRET}
    params = {"protocolVersion": "2025-11-25", "capabilities": {"experimental": {"a": SECRET}}, "clientInfo": info}
    await client.session.send({"jsonrpc": "2.0", "id": 98, "method": "initialize", "params": params})
    for method in ("notifications/progress", "notifications/roots/list_changed", "notifications/tasks/status"):
        told = {"progressToken": "p", "progress": 1, "message": SECRET, "_meta": {"a": SECRET}}
        await client.session.send({"jsonrpc": "2.0", "method": method, "params": told})
    await client.ask("tools/call", {"name": "text", "arguments": {}})


async def resumes(client: Client) -> None:
    """Lose the stream of a call and take it up again with Last-Event-ID."""
    assert isinstance(client, Legacy)
    session = client.session
    async with session.call("progress", rpc_id=21) as events:
        first = await events.next()
        assert first is not None
    for _ in range(40):
        async with session.get(first.id) as replay:
            with contextlib.suppress(TimeoutError):
                while (said := await replay.message(0.5)) is not None:
                    client.heard.append(said)
                    if "result" in said or "error" in said:
                        return
        await asyncio.sleep(0.02)
