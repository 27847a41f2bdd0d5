"""CPU µs of a hand-over between workers: one request served where it arrives, and by the worker that owns it.

    python -m benchmarks.handover

Two workers of one node in this process, on uvloop, made exactly as ``bartizan up`` makes them; the server
behind them is a process of its own. Each request enters at a worker's edge, so no client and no listener
counts, but both workers do: the difference is what the node pays for the hand-over, both ends of the
channel, the second edge and the second authentication together. Minimum of several repeats.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

from firewall import app as composition
from firewall import config as configuration
from firewall.net.channel import Seat
from firewall.nucleus import Paths
from firewall.worker import Worker
from tests.e2e.conftest import TOOLS, example, program
from tests.support.composed import Composed, free_port, modern, settings, warm_cache

SECRET = b"b" * 32
LOOPS = 300
REPEATS = 5


class Client:
    """One request at a worker's edge, as its listener would bring it."""

    def __init__(self, worker: Worker, token: str) -> None:
        assert worker.server is not None
        self._app = worker.server._listeners[0].app
        self._token = token
        self._host = worker.config.public_url[7:].encode()

    async def send(self, path: str, body: Any, headers: dict[str, str]) -> tuple[dict[str, str], bytes]:
        """Return the answer's header fields and body; raises AssertionError for anything but 200."""
        data = json.dumps(body).encode()
        given = {"content-type": "application/json", "accept": "application/json, text/event-stream", **headers}
        fields = [(b"host", self._host), (b"authorization", b"Bearer " + self._token.encode())]
        fields += [(name.encode(), value.encode()) for name, value in given.items()]
        scope = {
            "type": "http",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": fields,
            "client": ("127.0.0.1", 9),
        }
        pending = [{"type": "http.request", "body": data, "more_body": False}]
        gone = asyncio.Event()
        sent: list[Any] = []

        async def receive() -> Any:
            if pending:
                return pending.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        assert sent[0]["status"] == 200, sent
        told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return told, b"".join(m.get("body", b"") for m in sent[1:])


async def best_us(call: Callable[[], Awaitable[object]]) -> float:
    """Return the process's CPU µs of one call."""
    for _ in range(50):
        await call()
    best = float("inf")
    for _ in range(REPEATS):
        started = time.process_time_ns()
        for _ in range(LOOPS):
            await call()
        best = min(best, (time.process_time_ns() - started) / LOOPS / 1000)
    return best


async def measure(state: Path, notes: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Return name → (where it arrives, handed over), µs."""
    upstreams = {
        "notes": {"url": notes["url"], "network": "loopback", "trust": "trusted", "tools": TOOLS},
        "time": program("mcp_server_time", get_current_time="read"),
    }
    config = settings(state, workers=2, mcp=upstreams)
    second = {**config, "listeners": {name: {"host": "127.0.0.1", "port": free_port()} for name in ("data", "admin")}}
    workers = []
    for index, given in enumerate((config, second)):
        made = configuration.build(given)
        with warm_cache(made.state):
            workers.append(composition.build(made, seat=Seat(index, 2, Paths(made.state).run, SECRET)))
        await workers[-1].start()
    try:
        face = Composed(workers[0], config["listeners"]["data"]["port"], config["public_url"], Path())
        read = face.mint("/mcp/notes", "notes:read", exp=int(time.time()) + 3000)
        clock = face.mint("/mcp/time", "time:read", exp=int(time.time()) + 3000)
        owner, other = (Client(worker, read) for worker in workers)
        info = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "b", "version": "1"}}
        opening = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": info}
        told, _ = await owner.send("/mcp/notes", opening, {})
        session = {"mcp-session-id": told["mcp-session-id"], "mcp-protocol-version": "2025-11-25"}
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        params = {"name": "read_page", "arguments": {"name": "plain" + "x" * 900}}
        call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}
        found = {}
        for name, body in (("ping of a session", ping), ("1 KB tools/call of a session", call)):

            def at(client: Client, body: Any = body) -> Callable[[], Awaitable[object]]:
                return lambda: client.send("/mcp/notes", body, session)

            found[name] = (await best_us(at(owner)), await best_us(at(other)))
        asked, headers = modern("tools/call", {"name": "get_current_time", "arguments": {"timezone": "Europe/Vienna"}})
        holders = [Client(worker, clock) for worker in workers]
        first = [await best_us(lambda c=c: c.send("/mcp/time", asked, headers)) for c in holders]  # type: ignore[misc]
        found["tools/call of a local program"] = (min(first), max(first))
        return found
    finally:
        for worker in workers:
            await worker.stop()


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as directory, example("demo_mcp_server.py", "--control-port", "0") as notes:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found = runner.run(measure(Path(directory) / "state", notes))
    print(f"{'':32}{'here':>8}{'handed':>9}{'more':>8}   ratio")
    for name, (here, handed) in found.items():
        print(f"{name:32}{here:8.0f}{handed:9.0f}{handed - here:8.0f} µs {handed / here:5.2f}")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
