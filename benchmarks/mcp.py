"""What the rest of MCP costs: lists, streamed events, idle sessions, and calls across the eras.

    tools_list.N.cpu_us       one whole listing of N tools, every page, filtered for its caller
    sse.event.cpu_us          one event of a running call, relayed and scanned; what is there at once is one burst
    sse.apart.cpu_us          the same where each comes alone
    llm.event.cpu_us          one piece of a model's streamed answer; llm.apart.cpu_us where each comes alone
    session.idle.kb           one idle session with an open stream, memory of the worker
    bridge.A_B.cpu_us         one 1 KB call of a client of era A to a server of era B

CPU is that of the firewall's process tree; the driver is in this process and does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import orjson
from joserfc import jwt

from benchmarks import cores
from benchmarks.load import cpu_us, rss_mb

if TYPE_CHECKING:
    from benchmarks.run import Figures, Firewall, Setting

VERSION = "2026-07-28"
HANDSHAKE = "2025-11-25"
LISTS = (10, 100, 1000)
SESSIONS = 1000
CALLERS = 20
EVENTS = 500
APART_MS = 3  # eight streams at once: their firewall is busy, and no two events of one stream meet
PREFIX = "io.modelcontextprotocol/"
META = {
    PREFIX + "protocolVersion": VERSION,
    PREFIX + "clientCapabilities": {},
    PREFIX + "clientInfo": {"name": "bench", "version": "1"},
}


def document(base: dict[str, Any], servers: dict[str, int]) -> dict[str, Any]:
    """Return a configuration with one server per name, on a port each, and twenty service clients."""
    client = next(iter(base["identity"]["clients"].values()))
    clients = {f"bench{n}": {**client, "scopes": ["*"]} for n in range(CALLERS)}
    tools = {**{f"tool_{n}": "read" for n in range(max(LISTS))}, "stream": "read"}
    mcp = {
        name: {
            "url": f"http://127.0.0.1:{port}/mcp",
            "network": "loopback",
            "trust": "trusted",
            "era": "legacy" if name == "legacy" else "modern",
            "tools": tools,
        }
        for name, port in servers.items()
    }
    provider = {"base_url": f"http://127.0.0.1:{next(iter(servers.values()))}/v1", "network": "loopback"}
    model = {"provider": "bench", "model": "m", "input_usd": 0, "output_usd": 0, "free": True}
    llm = {"providers": {"bench": provider}, "models": {"bench": model}}
    return {**base, "identity": {**base["identity"], "clients": clients}, "mcp": mcp, "llm": llm}


def start(children: list[subprocess.Popen[bytes]], *options: str) -> int:
    """Start an upstream; return its port."""
    from benchmarks.run import ROOT, free_port, wait_port

    port = free_port()
    child = subprocess.Popen([sys.executable, "-m", "benchmarks.upstream", "--port", str(port), *options], cwd=ROOT)
    children.append(child)
    wait_port(port, child)
    return port


class Caller:
    """One connection of one service client to one endpoint."""

    def __init__(self, port: int, path: str, token: str) -> None:
        self.port = port
        self.path = path
        self.token = token
        self.session = ""
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def send(self, verb: str, headers: dict[str, str], body: bytes) -> tuple[dict[str, str], bytes]:
        """Send a request; return the answer's headers and its whole body."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 24)
        assert self._reader is not None
        lines = "".join(f"{k}: {v}\r\n" for k, v in headers.items())
        head = f"{verb} {self.path} HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\nauthorization: Bearer {self.token}\r\n{lines}"
        self._writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        told = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        pairs = (line.split(": ", 1) for line in told.split("\r\n")[1:] if ": " in line)
        fields = {name.lower(): value for name, value in pairs}
        fields[""] = told.split(" ")[1]
        if verb == "GET":
            return fields, b""
        if fields.get("transfer-encoding") == "chunked":
            data = b""
            while size := int(await self._reader.readline(), 16):
                data += (await self._reader.readexactly(size + 2))[:-2]
            await self._reader.readline()
            return fields, data
        return fields, await self._reader.readexactly(int(fields.get("content-length", "0")))

    async def ask(self, method: str, params: dict[str, Any], *, modern: bool = True, meta: Any = ()) -> Any:
        """Send a request; return its result."""
        headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
        if modern:
            params = {**params, "_meta": {**META, **dict(meta)}}
            headers |= {"mcp-protocol-version": VERSION, "mcp-method": method}
            if "name" in params:
                headers["mcp-name"] = params["name"]
        elif self.session:
            headers |= {"mcp-protocol-version": HANDSHAKE, "mcp-session-id": self.session}
        body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        fields, data = await self.send("POST", headers, body)
        if "event-stream" in fields.get("content-type", ""):
            data = data.rstrip().rpartition(b"data:")[2]
        answer = orjson.loads(data)
        if "result" not in answer or answer["result"].get("isError"):
            raise SystemExit(f"{method} at {self.path} was not answered with a result: {data[:300]!r}")
        return answer["result"]

    async def open(self) -> None:
        """Begin a session."""
        info = {"protocolVersion": HANDSHAKE, "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
        headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
        body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": info})
        fields, data = await self.send("POST", headers, body)
        if "mcp-session-id" not in fields:
            raise SystemExit(f"no session: {data[:200]!r}")
        self.session = fields["mcp-session-id"]

    def close(self) -> None:
        """Leave."""
        if self._writer is not None:
            self._writer.close()


def token(setting: Setting, server: str, number: int) -> str:
    """Sign one of the service clients in. server: an MCP server's name, or "" for the models."""
    now, name = int(time.time()), f"bench{number}"
    claims = {"iss": name, "sub": name, "aud": setting.url, "iat": now, "exp": now + 60}
    claims["jti"] = base64.urlsafe_b64encode(os.urandom(12)).decode()
    form = {
        "grant_type": "client_credentials",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": jwt.encode({"alg": "ES256", "kid": "bench"}, claims, setting.key),
        "resource": f"{setting.url}/mcp/{server}" if server else f"{setting.url}/v1",
        "scope": f"{server}:read {server}:write" if server else "llm:invoke",
    }
    request = urllib.request.Request(f"{setting.url}/token", urlencode(form).encode())
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(orjson.loads(answer.read())["access_token"])


async def cost(pid: int, work: Callable[[], Awaitable[object]], *, times: int, side_by_side: int = 8) -> float:
    """Return CPU µs of a process tree per piece of work, several at a time."""
    await work()
    before = cpu_us(pid)

    async def loop() -> None:
        for _ in range(times // side_by_side):
            await work()

    await asyncio.gather(*(loop() for _ in range(side_by_side)))
    return (cpu_us(pid) - before) / (times // side_by_side * side_by_side)


async def lists(figures: Figures, wall: Firewall, setting: Setting, times: int) -> None:
    """Cost of a whole listing."""
    for count in LISTS:
        held = token(setting, f"list{count}", 0)

        async def work(count: int = count, held: str = held) -> None:
            caller, seen, cursor = Caller(setting.port, f"/mcp/list{count}", held), 0, ""
            while True:
                page = await caller.ask("tools/list", {"cursor": cursor} if cursor else {})
                seen += len(page["tools"])
                if not (cursor := page.get("nextCursor", "")):
                    break
            caller.close()
            if seen != count:
                raise SystemExit(f"{seen} tools were listed of {count}")

        value = await cost(wall.process.pid, work, times=max(8, times * 10 // count))
        figures.put(f"tools_list.{count}.cpu_us", value, "us", "every page, connection included")


async def events(figures: Figures, wall: Firewall, setting: Setting, times: int) -> None:
    """Cost of one event, as the difference between an answer with many and one with none."""
    meta = {PREFIX + "logLevel": "debug"}
    held, models = token(setting, "list10", 0), token(setting, "", 0)

    async def tool(count: int, gap_ms: int) -> None:
        caller = Caller(setting.port, "/mcp/list10", held)
        call = {"name": "stream", "arguments": {"count": count, "gap_ms": gap_ms}}
        await caller.ask("tools/call", call, meta=meta)
        caller.close()

    async def chat(count: int, gap_ms: int) -> None:
        caller = Caller(setting.port, "/v1/chat/completions", models)
        asked = {"model": "bench", "stream": True, "max_tokens": count + 2}
        asked["messages"] = [{"role": "user", "content": str(gap_ms)}]
        fields, data = await caller.send("POST", {"content-type": "application/json"}, orjson.dumps(asked))
        caller.close()
        if data.count(b"data:") < count or not data.endswith(b"data: [DONE]\n\n"):
            raise SystemExit(f"a model did not answer to its end: {fields} {data[-300:]!r}")

    for name, answer, note in (("sse", tool, "log events of 200 bytes"), ("llm", chat, "words of a chat completion")):
        for kind, gap_ms in (("event", 0), ("apart", APART_MS)):
            costs = []
            for count in (0, EVENTS):

                async def work(count: int = count, gap_ms: int = gap_ms, answer: Any = answer) -> None:
                    await answer(count, gap_ms)

                runs = max(8, times // (200 if gap_ms else 20))
                costs.append(await cost(wall.process.pid, work, times=runs))
            how = f", {APART_MS} ms apart" if gap_ms else ""
            figures.put(f"{name}.{kind}.cpu_us", (costs[1] - costs[0]) / EVENTS, "us", f"of {EVENTS} {note}{how}")


async def bridges(figures: Figures, wall: Firewall, setting: Setting, times: int) -> None:
    """Cost of a call in every pair of eras."""
    prose = "The quick brown fox jumps over the lazy dog. " * 18
    call = {"name": "tool_0", "arguments": {"text": prose}}
    for client in ("modern", "legacy"):
        for server in ("modern", "legacy"):
            path = "/mcp/legacy" if server == "legacy" else "/mcp/list10"
            held = token(setting, path[5:], 0)
            callers = [Caller(setting.port, path, held) for _ in range(8)]
            if client == "legacy":
                for one in callers:
                    await one.open()
            free = asyncio.Queue[Caller]()
            for one in callers:
                free.put_nowait(one)

            async def work(client: str = client, free: asyncio.Queue[Caller] = free) -> None:
                caller = await free.get()
                try:
                    await caller.ask("tools/call", call, modern=client == "modern")
                finally:
                    free.put_nowait(caller)

            value = await cost(wall.process.pid, work, times=times)
            figures.put(f"bridge.{client}_{server}.cpu_us", value, "us", "1 KB call, client era first")
            for one in callers:
                one.close()


async def idle(figures: Figures, wall: Firewall, setting: Setting, count: int) -> None:
    """Memory of idle sessions, each with an open stream."""
    tokens = [token(setting, "list10", number) for number in range(CALLERS)]
    callers = [Caller(setting.port, "/mcp/list10", tokens[n % CALLERS]) for n in range(count)]
    await callers[0].open()
    before = rss_mb(wall.process.pid)
    for number, caller in enumerate(callers):
        if number:
            await caller.open()
        given = {"accept": "text/event-stream", "mcp-session-id": caller.session, "mcp-protocol-version": HANDSHAKE}
        fields, _ = await caller.send("GET", given, b"")
        if fields[""] != "200":
            raise SystemExit(f"no stream for session {number}: {fields['']}")
    await asyncio.sleep(1)
    grown = rss_mb(wall.process.pid) - before
    figures.put("session.idle.kb", grown * 1024 / count, "KB", f"{count} sessions with an open stream")
    for caller in callers:
        caller.close()


def measure(
    figures: Figures,
    given: argparse.Namespace,
    directory: Path,
    children: list[subprocess.Popen[bytes]],
    firewalls: list[Firewall],
    first: Setting,
) -> None:
    """Start the servers and a firewall in front of them, and put every figure."""
    from benchmarks.run import Firewall, Setting, wait_port

    servers = {f"list{count}": start(children, "--tools", str(count)) for count in LISTS}
    servers["legacy"] = start(children, "--tools", "10", "--era", "legacy")
    place = directory / "mcp"
    place.mkdir()
    setting = Setting(
        place, servers["list10"], cache=first.state / "cache", change=lambda base: document(base, servers)
    )
    wall = Firewall(setting)
    firewalls.append(wall)
    wait_port(setting.port, wall.process)
    cores.keep(wall.process.pid, cores.MEASURED)
    times = 200 if given.quick else 4000

    async def run() -> None:
        until = time.monotonic() + 60
        while True:
            try:
                await Caller(setting.port, "/mcp/list10", token(setting, "list10", 0)).ask("tools/list", {})
                break
            except (OSError, SystemExit, asyncio.IncompleteReadError):
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(0.1)
        for server in servers:  # their tools are read and reviewed once, before anything is counted
            await Caller(setting.port, f"/mcp/{server}", token(setting, server, 0)).ask("tools/list", {})
        await bridges(figures, wall, setting, times)
        await lists(figures, wall, setting, times)
        await events(figures, wall, setting, times)
        await idle(figures, wall, setting, 100 if given.quick else SESSIONS)

    asyncio.run(run())
    wall.stop()
