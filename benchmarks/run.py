"""``make bench``: what one enforced MCP tool call costs, beside direct and nginx, in one run.

    python -m benchmarks.run [--seconds S] [--rounds N] [--quick] [--out FILE]

Targets are driven in turn (A, B, C, A, B, C …); a figure is the median over rounds. The load and the
upstream have a core of their own (`benchmarks.cores`); CPU µs per request of the proxy's process tree
is what to compare. The load average is written beside the figures; a noisy run is marked.
Writes ``benchmarks/results/latest.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import importlib.metadata
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlencode

import orjson
import uvloop
import yaml
from joserfc import jwt
from joserfc.jwk import ECKey

from benchmarks import auth, cores, mcp, stages
from benchmarks.load import Run, rss_mb, wrk
from firewall import app
from firewall import config as configuration
from firewall.net.upstream import Target

ROOT = Path(__file__).resolve().parents[1]
VERSION = "2026-07-28"
TOOLS = 1000
FORM = b"application/x-www-form-urlencoded"
SIZES = {"1k": 1024, "20k": 20 * 1024}
PROSE = "The quick brown fox jumps over the lazy dog while the benchmark counts its steps. "


@dataclass
class Figures:
    """What goes into the file."""

    values: dict[str, dict[str, object]] = field(default_factory=dict)

    def put(self, name: str, value: float, unit: str, note: str = "") -> None:
        self.values[name] = {"value": round(value, 3), "unit": unit, "note": note}
        print(f"  {name:<44} {value:>10.2f} {unit}  {note}", flush=True)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait_port(port: int, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process.poll() is not None:
            raise SystemExit(f"a process ended early with {process.returncode}")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=0.2):
                return
        except OSError:
            time.sleep(0.01)
    raise SystemExit("a process did not open its port")


def call_body(size: int) -> bytes:
    """Return a tools/call whose whole body is about ``size`` bytes of prose."""
    message = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {
            "name": "tool_0",
            "arguments": {"text": ""},
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": VERSION,
                "io.modelcontextprotocol/clientCapabilities": {},
                "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
            },
        },
    }
    room = size - len(orjson.dumps(message)) - 9
    text = (PROSE * (room // len(PROSE) + 1))[:room]
    message["params"]["arguments"]["text"] = f"{{serial}} {text}"  # type: ignore[index]  # `load.wrk` numbers it
    return orjson.dumps(message)


def headers(token: str) -> dict[str, str]:
    return {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": VERSION,
        "Mcp-Method": "tools/call",
        "Mcp-Name": "tool_0",
        "Authorization": f"Bearer {token}",
    }


class Setting:
    """A configuration with everything on, and a service client that may sign in."""

    def __init__(
        self,
        directory: Path,
        upstream: int,
        *,
        cache: Path | None = None,
        change: Callable[[dict[str, Any]], dict[str, Any]] = lambda base: base,
    ) -> None:
        """cache: another one's compiled patterns and policy, so that only the first start pays for them."""
        self.port, self.admin = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.upstream = f"http://127.0.0.1:{upstream}/mcp"
        self.state = directory / "state"
        self.key = ECKey.generate_key("P-256", {"kid": "bench"})
        self.path = directory / "bartizan.yaml"
        self.path.write_text(yaml.safe_dump(change(self._document())))
        if cache is not None:
            self.state.mkdir(mode=0o700)
            shutil.copytree(cache, self.state / "cache")

    def _document(self) -> dict[str, object]:
        listeners = {"data": {"port": self.port}, "admin": {"port": self.admin}}
        client = {
            "grants": ["client_credentials"],
            "scopes": ["bench:read", "bench:write"],
            "jwks": {"keys": [dict(self.key.as_dict(private=False))]},
        }
        server = {
            "url": self.upstream,
            "network": "loopback",
            "trust": "trusted",
            "era": "modern",
            "tools": {f"tool_{n}": "read" for n in range(TOOLS)},
        }
        return {
            "version": 1,
            "public_url": self.url,
            "state_dir": str(self.state),
            "listeners": listeners,
            "limits": {"calls_per_minute": 100_000_000},
            "identity": {"access_token_s": 3600, "clients": {"bench": client}},
            "mcp": {"bench": server},
        }

    def form(self) -> bytes:
        """Return the body of a token request with private_key_jwt (RFC 7523) for the benchmark's resource."""
        now = int(time.time())
        claims = {
            "iss": "bench",
            "sub": "bench",
            "aud": self.url,
            "iat": now,
            "exp": now + 60,
            "jti": base64.urlsafe_b64encode(os.urandom(12)).decode(),
        }
        return urlencode(
            {
                "grant_type": "client_credentials",
                "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                "client_assertion": jwt.encode({"alg": "ES256", "kid": "bench"}, claims, self.key),
                "resource": f"{self.url}/mcp/bench",
                "scope": "bench:read bench:write",
            }
        ).encode()


class Firewall:
    """A real ``bartizan up``."""

    def __init__(self, setting: Setting) -> None:
        self.url, self._setting = setting.url, setting
        self.started = time.monotonic()
        self._log = setting.path.with_name("up.log").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "firewall.cli.main", "--config", str(setting.path), "up"],
            cwd=ROOT,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def token(self) -> str:
        """Sign in and return an access token for the benchmark's resource."""
        request = urllib.request.Request(
            f"{self.url}/token", self._setting.form(), {"Content-Type": "application/x-www-form-urlencoded"}
        )
        with urllib.request.urlopen(request, timeout=5) as answer:
            return str(orjson.loads(answer.read())["access_token"])

    def first_answer_ms(self, body: bytes) -> float:
        """Return the time from exec to the first enforced answer, ms."""
        wait_port(self._setting.port, self.process)
        until = time.monotonic() + 20
        while True:
            try:
                token = self.token()
                request = urllib.request.Request(f"{self.url}/mcp/bench", data=body, headers=headers(token))
                with urllib.request.urlopen(request, timeout=5) as answer:
                    if b'"result"' in answer.read():
                        return (time.monotonic() - self.started) * 1000
            except (urllib.error.URLError, OSError) as error:
                if time.monotonic() > until:
                    raise SystemExit(f"no enforced answer: {error}") from None
                time.sleep(0.01)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._log.close()


def middle(runs: list[Run], name: str) -> float:
    return float(median(getattr(run, name) for run in runs))


def main() -> int:
    """Run the benchmark and write its file."""
    options = argparse.ArgumentParser(prog="make bench")
    options.add_argument("--seconds", type=float, default=3.0, help="length of one run")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--quick", action="store_true", help="one short round, for a look; writes no file")
    options.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "latest.json")
    given = options.parse_args()
    if given.quick:
        given.seconds, given.rounds = 1.0, 1
    missing = [tool for tool in ("wrk", "nginx") if shutil.which(tool) is None]
    if missing:
        told = {"wrk": "nothing is driven over the network", "nginx": "there is no forward-only peer to compare with"}
        for tool in missing:
            print(f"SKIPPED: {tool} is missing, so {told[tool]} (apt-get install {tool})", file=sys.stderr)
    load_before = os.getloadavg()[0]
    figures = Figures()
    children: list[subprocess.Popen[bytes]] = []
    firewalls: list[Firewall] = []
    with tempfile.TemporaryDirectory(prefix="bartizan-bench-") as tmp:
        directory = Path(tmp)
        try:
            upstream = start_upstream(children, 20)
            nginx = start_nginx(children, directory, upstream) if "nginx" not in missing else None
            (directory / "a").mkdir()
            setting = Setting(directory / "a", upstream)
            wall = Firewall(setting)
            firewalls.append(wall)
            cold = wall.first_answer_ms(call_body(1024))
            wall.stop()
            wall = Firewall(setting)
            firewalls.append(wall)
            warm = wall.first_answer_ms(call_body(1024))
            figures.put("start_ms", warm, "ms", f"exec to the first enforced answer, caches warm; cold {cold:.0f} ms")
            figures.put(
                "rss_mb", rss_mb(wall.process.pid), "MB", "parent and one worker at rest, shared pages in parts (PSS)"
            )
            cores.keep(os.getpid(), cores.LOAD)  # and all that it started, but for these
            cores.keep(wall.process.pid, cores.MEASURED)
            if nginx:
                cores.keep(nginx[1], cores.MEASURED)
            if "wrk" not in missing:
                measure(figures, given, wall, upstream, children[0].pid, nginx)
                figures.put("rss_mb.after_load", rss_mb(wall.process.pid), "MB", "the same processes after the load")
            wall.stop()  # what follows has the machine for itself
            cores.keep(os.getpid(), cores.MEASURED)
            cores.keep(children[0].pid, cores.LOAD)
            stage_costs(figures, directory, upstream, setting)
            auth_costs(figures, directory)
            cores.keep(os.getpid(), cores.LOAD)
            mcp.measure(figures, given, directory, children, firewalls, setting)
            if "wrk" not in missing:
                growth(figures, given, directory, children, firewalls, setting)
        finally:
            for firewall in firewalls:
                firewall.stop()
            for child in children:
                child.terminate()
                child.wait(timeout=10)
    load_after = os.getloadavg()[0]
    count = os.cpu_count() or 1
    report = {
        "machine": {
            "cpu": cpu_model(),
            "cores": count,
            "python": platform.python_version(),
            "python_build": " ".join((*platform.python_build(), platform.python_compiler())),
            "load_before": round(load_before, 2),
            "load_after": round(load_after, 2),
            "noisy": load_before > 0.5 * count,
        },
        "versions": {
            name: importlib.metadata.version(name)
            for name in (
                "bartizan",
                "uvloop",
                "httptools",
                "aiohttp",
                "orjson",
                "gordon-to-regorus",
                "hyperscan",
            )
        },
        "figures": figures.values,
    }
    if given.quick:
        return 0
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2) + b"\n")
    print(f"written: {given.out}" + ("  (noisy machine)" if report["machine"]["noisy"] else ""))  # type: ignore[index]
    return 0


def start_upstream(children: list[subprocess.Popen[bytes]], tools: int) -> int:
    port = free_port()
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.upstream", "--port", str(port), "--tools", str(tools)], cwd=ROOT
    )
    children.append(child)
    wait_port(port, child)
    return port


def start_nginx(children: list[subprocess.Popen[bytes]], directory: Path, upstream: int) -> tuple[int, int]:
    port = free_port()
    text = (ROOT / "benchmarks" / "peers" / "nginx.conf").read_text()
    for key, value in (("DIR", str(directory)), ("PORT", str(port)), ("UPSTREAM", str(upstream))):
        text = text.replace(f"@{key}@", value)
    path = directory / "nginx.conf"
    path.write_text(text)
    child = subprocess.Popen(["nginx", "-c", str(path), "-p", str(directory)], stderr=subprocess.DEVNULL)
    children.append(child)
    wait_port(port, child)
    return port, child.pid


def measure(
    figures: Figures,
    given: argparse.Namespace,
    wall: Firewall,
    upstream: int,
    upstream_pid: int,
    nginx: tuple[int, int] | None,
) -> None:
    """Drive direct, nginx and ours in turn, per size and concurrency."""
    token = wall.token()
    for size_name, size in SIZES.items():
        body, sent = call_body(size), headers(token)
        for connections in (1, 16, 64):
            direct: list[Run] = []
            forward: list[Run] = []
            ours: list[Run] = []
            for _ in range(given.rounds):
                common = {"connections": connections, "seconds": given.seconds}
                direct.append(wrk(f"http://127.0.0.1:{upstream}/mcp", body, sent, pid=upstream_pid, **common))
                if nginx:
                    forward.append(wrk(f"http://127.0.0.1:{nginx[0]}/mcp", body, sent, pid=nginx[1], **common))
                ours.append(wrk(f"{wall.url}/mcp/bench", body, sent, pid=wall.process.pid, **common))
            errors = sum(run.errors for run in (*direct, *forward, *ours))
            if errors:
                raise SystemExit(f"{errors} answers were not a result: the figures would mean nothing")
            tail = f"{size_name}.c{connections}"
            figures.put(f"direct.{tail}.cpu_us", middle(direct, "cpu_us"), "us", "CPU of the upstream itself")
            if forward:
                figures.put(f"nginx.{tail}.cpu_us", middle(forward, "cpu_us"), "us", "forward only")
            figures.put(f"tools_call.{tail}.cpu_us", middle(ours, "cpu_us"), "us", "full enforcement, audit on")
            figures.put(f"tools_call.{tail}.per_s", middle(ours, "per_s"), "1/s")
            figures.put(f"tools_call.{tail}.p50_ms", middle(ours, "p50_us") / 1000, "ms")
            figures.put(f"tools_call.{tail}.p99_ms", middle(ours, "p99_us") / 1000, "ms")
            if connections == 1:
                added = middle(ours, "p50_us") - middle(direct, "p50_us")
                figures.put(f"tools_call.{tail}.added_p50_ms", added / 1000, "ms", "ours minus direct")
            if forward:
                ratio = middle(ours, "cpu_us") / max(1.0, middle(forward, "cpu_us"))
                figures.put(f"tools_call.{tail}.to_nginx", ratio, "ratio")


def growth(
    figures: Figures,
    given: argparse.Namespace,
    directory: Path,
    children: list[subprocess.Popen[bytes]],
    firewalls: list[Firewall],
    first: Setting,
) -> None:
    """Compare an upstream of 20 tools with one of 1,000, in alternating runs."""
    walls: list[tuple[Firewall, dict[str, str], list[Run]]] = []
    for count in (20, 1000):
        upstream = start_upstream(children, count)
        place = directory / f"tools{count}"
        place.mkdir()
        wall = Firewall(Setting(place, upstream, cache=first.state / "cache"))
        firewalls.append(wall)
        wall.first_answer_ms(call_body(1024))
        cores.keep(wall.process.pid, cores.MEASURED)
        walls.append((wall, headers(wall.token()), []))
    body = call_body(1024)
    for _ in range(1 if given.quick else max(5, given.rounds)):
        for wall, sent, runs in walls:
            runs.append(
                wrk(f"{wall.url}/mcp/bench", body, sent, connections=16, seconds=given.seconds, pid=wall.process.pid)
            )
    few, many = ([run.cpu_us for run in runs] for _, _, runs in walls)
    # Neighbours come and go: each pair of runs is a comparison of its own, and the middle one counts.
    ratio = median(b / a for a, b in zip(few, many, strict=True))
    note = f"median of {len(few)} pairs of runs; {median(few):.0f} and {median(many):.0f} us"
    figures.put("growth.tools_20_to_1000.ratio", ratio, "ratio", note)


def stage_costs(figures: Figures, directory: Path, upstream: int, first: Setting) -> None:
    """Put the stage table, measured on a composition inside this process."""
    place = directory / "stages"
    place.mkdir()
    setting = Setting(place, upstream, cache=first.state / "cache")
    worker = app.build(configuration.load(setting.path))

    ratios: list[stages.Row] = []

    async def run() -> list[stages.Row]:
        form = [(b"host", setting.url.removeprefix("http://").encode()), (b"content-type", FORM)]
        _, answer = await stages.Request("/token", form, setting.form()).through(worker.data_plane)
        token = orjson.loads(answer)["access_token"]
        pairs = [(name.lower().encode(), value.encode()) for name, value in headers(token).items()]
        bearer = {b"authorization": f"Bearer {token}".encode()}
        principal = worker.identity.resource_server.authenticate(bearer, f"{setting.url}/mcp/bench", default_scope="")
        requests = {name: stages.Request("/mcp/bench", pairs, call_body(size)) for name, size in SIZES.items()}
        try:
            rows = await stages.table(worker, requests, Target(setting.upstream, "loopback"), principal)
            for callers in (False, True):
                ratios.append(await auth.request_growth(worker, principal, requests["1k"], callers=callers))
            return rows
        finally:
            await worker.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rows = runner.run(run())
    for name, value, note in rows:
        figures.put(name, value, "us", note)
    for name, value, note in ratios:
        figures.put(name, value, "x", note)
    costs = {name: value for name, value, _ in rows}
    for size in SIZES:
        whole = costs[f"decide.{size}.request"]
        figures.put(f"decide.{size}.cpu_us", whole, "us", "guard.check of a request, on its own in a warm loop")


def auth_costs(figures: Figures, directory: Path) -> None:
    """Put what it costs to know who is asking, measured on a front door inside this process."""
    place = directory / "auth"
    place.mkdir()
    for name, value, note in auth.table(place):
        figures.put(name, value, name.rpartition(".")[2].replace("ratio", "x"), note)


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    raise SystemExit(main())
