"""The whole firewall for tests: `composed` in this process, or `started` as a real ``bartizan up``.

Both listen on free loopback ports, keep their state in a directory of the test, and sign in a
service client as a real one does (client_credentials with private_key_jwt). In process, `mint` also
signs tokens of any shape with the firewall's own key, for attacks that no honest client could send.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import yaml
from joserfc.jwk import ECKey

from firewall import app as composition
from firewall import config as configuration
from firewall.identity.rfc9068.tokens import SigningKeys
from firewall.net.channel import Seat
from firewall.nucleus import Paths
from firewall.record.log import iter_bundles
from firewall.record.tiles import WIDTH
from firewall.wire import jwt
from firewall.worker import Worker

ROOT = Path(__file__).resolve().parents[2]
WARM = ROOT / "build" / "composed-cache"
SERVICE_KEY = ECKey.generate_key("P-256", {"kid": "svc"}, private=True)
VERSION = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": VERSION,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
}
BOTH = "application/json, text/event-stream"
Pairs = Sequence[tuple[str, str]]


_GIVEN: set[int] = set()
_LOCKS = Path(tempfile.gettempdir()) / "bartizan-test-ports"
_HELD: list[int] = []  # the descriptor of that file; locks on its bytes last as long as it is open


def free_port() -> int:
    """Return a port that is free, below those that the system gives to clients by itself, and given to nobody else.

    Between this and its binding time passes, and several workers on one port do not mind those of another run: each
    would be given a part of the other's connections. So a port is this process's own, on the whole machine, for as long
    as it lives: it holds a lock on the byte of that number.
    """
    if not _HELD:
        _HELD.append(os.open(_LOCKS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    while True:
        port = 10_000 + secrets.randbelow(22_000)
        if port in _GIVEN:
            continue
        try:
            fcntl.lockf(_HELD[0], fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        _GIVEN.add(port)
        return port


def settings(state: Path, **changes: Any) -> dict[str, Any]:
    """Return a configuration document: two service clients that may use everything, on free ports."""
    port = free_port()
    public = SERVICE_KEY.as_dict(private=False)
    client = {"grants": ["client_credentials"], "scopes": ["*"], "jwks": {"keys": [dict(public)]}}
    given: dict[str, Any] = {
        "version": 1,
        "public_url": f"http://127.0.0.1:{port}",
        "state_dir": str(state),
        "listeners": {
            "data": {"host": "127.0.0.1", "port": port},
            "admin": {"host": "127.0.0.1", "port": free_port()},
        },
        "limits": {"calls_per_minute": 10_000_000, "tokens_per_day": 100_000_000, "usd_per_day": 10_000},
        "identity": {"clients": {"svc": client, "other": client, "third": client}},
    }
    return {**given, **changes}


# -- a careful client ------------------------------------------------------------------------------------


@dataclass
class Answer:
    """One HTTP answer as it came off the wire."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        """Return the first value of a header, or ""."""
        return next((value for key, value in self.headers if key == name.lower()), "")

    @property
    def events(self) -> list[Any]:
        """The parsed ``data`` of an event stream, without ``[DONE]``."""
        lines = [line[5:].strip() for line in self.body.decode().split("\n") if line.startswith("data:")]
        return [json.loads(line) for line in lines if line and line != "[DONE]"]

    @property
    def json(self) -> Any:
        """The JSON value; of a stream, its last event."""
        if self.header("content-type").startswith("text/event-stream"):
            return self.events[-1]
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The whole answer, head included: what a leak would be looked for in."""
        head = "\n".join(f"{name}: {value}" for name, value in self.headers)
        return head + "\n\n" + self.body.decode("utf-8", "replace")


async def raw_exchange(port: int, request: bytes, *, deadline_s: float = 20.0, ssl: Any = None) -> Answer:
    """Send bytes as they are on a connection of their own and return the one answer."""
    async with asyncio.timeout(deadline_s):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=ssl, limit=1 << 26)
        try:
            writer.write(request)
            with contextlib.suppress(ConnectionError):  # an answer may be out before a large body is in
                await writer.drain()
            return await read_answer(reader)
        finally:
            writer.close()


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """Read one HTTP/1.1 answer; one without a length or chunks ends with the connection."""
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = [(k.strip().lower(), v.strip()) for k, _, v in (line.partition(":") for line in lines if line)]
    answer = Answer(int(first.split(" ")[1]), pairs, b"")
    if answer.header("transfer-encoding") == "chunked":
        while size := int((await reader.readline()).split(b";")[0], 16):
            answer.body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    elif answer.header("content-length"):
        answer.body = await reader.readexactly(int(answer.header("content-length")))
    elif answer.status not in (204, 304):
        answer.body = await reader.read()
    return answer


def request_bytes(target: str, host: str, headers: Pairs, body: bytes, *, verb: str = "POST") -> bytes:
    """Return one request as it goes over the wire; header pairs stay as given, repeated ones included."""
    named = {name.lower() for name, _ in headers}
    fields = list(headers)
    if "host" not in named:
        fields.insert(0, ("host", host))
    if body or verb == "POST":
        fields += (
            [] if "content-length" in named or "transfer-encoding" in named else [("content-length", str(len(body)))]
        )
    head = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"{verb} {target} HTTP/1.1\r\n{head}\r\n".encode("utf-8", "surrogateescape") + body


def modern(
    method: str, params: Mapping[str, Any] | None = None, *, rpc_id: Any = 1
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the body and headers of a correct modern MCP request."""
    given = dict(params or {})
    given["_meta"] = {**META, **given.get("_meta", {})}
    headers = {
        "content-type": "application/json",
        "accept": BOTH,
        "mcp-protocol-version": VERSION,
        "mcp-method": method,
    }
    if isinstance(given.get("name"), str):
        headers["mcp-name"] = given["name"]
    return {"jsonrpc": "2.0", "id": rpc_id, "method": method, "params": given}, headers


class Face:
    """What both forms share: where it listens, signing in, calling, and its audit records."""

    url: str
    port: int
    audit: Path

    async def post(self, path: str, body: Any, *, token: str = "", headers: Mapping[str, str] | None = None) -> Answer:
        """POST JSON (or bytes) with a token."""
        pairs = {"content-type": "application/json", "accept": BOTH, **(headers or {})}
        if token:
            pairs["authorization"] = f"Bearer {token}"
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = request_bytes(path, f"127.0.0.1:{self.port}", list(pairs.items()), data)
        return await raw_exchange(self.port, sent)

    async def call(self, server: str, tool: str, arguments: Mapping[str, Any], *, token: str, **more: str) -> Answer:
        """Call a tool as a careful modern client."""
        body, headers = modern("tools/call", {"name": tool, "arguments": dict(arguments)})
        return await self.post(f"/mcp/{server}", body, token=token, headers={**headers, **more})

    async def sign_in(self, resource: str, *scopes: str, client: str = "svc") -> str:
        """Return an access token for a resource, as a service gets one."""
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": client,
            "sub": client,
            "aud": self.url,
            "iat": now,
            "exp": now + 60,
            "jti": base64.urlsafe_b64encode(os.urandom(12)).decode(),
        }
        form = {
            "grant_type": "client_credentials",
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": jwt.sign(claims, SERVICE_KEY, alg="ES256", typ="JWT", kid="svc"),
            "resource": f"{self.url}{resource}",
            "scope": " ".join(scopes),
        }
        async with httpx2.AsyncClient(timeout=20) as http:
            answer = await http.post(
                f"http://127.0.0.1:{self.port}/token", data=form, headers={"host": self.url.split("//")[1]}
            )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    async def revoke(self, token: str, *, client: str = "svc") -> None:
        """End a token's grant, as its client may (RFC 7009)."""
        now = int(time.time())
        claims: dict[str, Any] = {"iss": client, "sub": client, "aud": self.url, "iat": now, "exp": now + 60}
        claims["jti"] = base64.urlsafe_b64encode(os.urandom(12)).decode()
        form = {
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": jwt.sign(claims, SERVICE_KEY, alg="ES256", typ="JWT", kid="svc"),
            "token": token,
        }
        async with httpx2.AsyncClient(timeout=20) as http:
            answer = await http.post(f"http://127.0.0.1:{self.port}/revoke", data=form)
        assert answer.status_code == 200, answer.text

    def records(self, kind: str = "") -> list[dict[str, Any]]:
        """Return every record of every log in the audit directory, in the order of each log."""
        return [r for r in audit_records(self.audit) if not kind or r.get("kind") == kind]


def audit_records(directory: Path) -> list[dict[str, Any]]:
    """Read all records of an audit directory; what stands in full bundles is parsed once."""
    found: list[dict[str, Any]] = []
    for log in sorted(directory.glob("log_*")):
        for number, bundle, _ in iter_bundles(log):
            known = _PARSED.get((str(log), number))
            records = known or [json.loads(entry) for entry in bundle]
            if len(bundle) == WIDTH:
                _PARSED[str(log), number] = records
            found.extend(records)
    return found


_PARSED: dict[tuple[str, int], list[dict[str, Any]]] = {}


# -- in this process ---------------------------------------------------------------------------------------


@dataclass
class Composed(Face):
    """A running `firewall.worker.Worker`."""

    worker: Worker
    port: int
    url: str
    audit: Path
    faults: list[tuple[str, str]] = field(default_factory=list)
    everyone: tuple[Worker, ...] = ()

    def mint(self, resource: str, *scopes: str, **claims: Any) -> str:
        """Sign a token with the firewall's own key. A claim given as None is left out.

        ``key``, ``alg``, ``typ`` and ``kid`` change how it is signed.
        """
        own = SigningKeys(self.worker.parts["keys"].ec_signing_key("as"))
        how = {"key": own.active, "alg": "ES256", "typ": "at+jwt", "kid": own.kid}
        how.update({name: claims.pop(name) for name in tuple(how) if name in claims})
        now = int(time.time())
        subject = claims.pop("sub", "u_test")
        given: dict[str, Any] = {
            "iss": self.url,
            "aud": f"{self.url}{resource}",
            "sub": subject,
            "client_id": "app",
            "scope": " ".join(scopes),
            "iat": now,
            "exp": now + 300,
            "jti": base64.urlsafe_b64encode(os.urandom(9)).decode(),
            "gid": f"g_{subject}",
            "tenant": self.worker.config.tenant,
            "sub_type": "user",
            **claims,
        }
        return jwt.sign({k: v for k, v in given.items() if v is not None}, **how)  # type: ignore[arg-type]

    def register(self, name: str, url: str, *, approve: bool = True, **spec: Any) -> None:
        """Register an MCP server while running, as the registry's API does."""
        registry, tenant = self.worker.registry, self.worker.config.tenant
        registry.register(tenant, "mcp", name, {"url": url, "network": "loopback", **spec}, by="test")
        if approve:
            registry.approve(tenant, "mcp", name, by="test")
        self.worker.refresh()

    def exchange_records(self, since: int) -> list[dict[str, Any]]:
        """Return the decisions recorded after the first ``since`` records."""
        return [r for r in self.records()[since:] if r.get("kind") == "decision"]


@contextlib.asynccontextmanager
async def composed(config: dict[str, Any], *, workers: int = 0) -> AsyncIterator[Composed]:
    """Run a worker on a configuration document (see `settings`).

    workers: so many of one node, all in this process and on the same ports; the kernel spreads connections.
    """
    if workers:
        config = {**config, "workers": workers}
    made = configuration.build(config)
    faults: list[tuple[str, str]] = []
    everyone: list[Worker] = []
    with warm_cache(made.state):
        for index in range(workers or 1):
            seat = Seat(index, workers, Paths(made.state).run, b"c" * 32) if workers else None
            worker = composition.build(made, on_fault=lambda code, detail: faults.append((code, detail)), seat=seat)
            everyone.append(worker)
    try:
        ports = [await worker.start() for worker in everyone]
        yield Composed(everyone[0], ports[0]["data"], made.public_url, made.audit_dir, faults, tuple(everyone))
    finally:
        for worker in everyone:
            await worker.stop()
            # Compiled programs may be dropped by the thread that made them only: not by a collection in some other one.
            worker.guard._engine = None  # type: ignore[assignment]
            worker.parts.clear()


@contextlib.contextmanager
def warm_cache(state: Path) -> Iterator[None]:
    """Start with the compiled policy and patterns of an earlier test; keep what this one makes.

    The entries are keyed by content, so an old one is never used for a new bundle.
    """
    cache = state / "cache"
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    cache.mkdir(mode=0o700, exist_ok=True)
    WARM.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (WARM / "lock").open("w") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)  # two test processes do not both do the first compilation
        _copy(WARM, cache)
        if any(path.name != "lock" for path in WARM.iterdir()):
            fcntl.flock(gate, fcntl.LOCK_UN)
        yield
        _copy(cache, WARM)


def _copy(source: Path, target: Path) -> None:
    for path in source.iterdir():
        if path.name != "lock" and path.is_file() and not (target / path.name).exists():
            aside = target / f".{path.name}.{os.getpid()}"
            shutil.copyfile(path, aside)
            aside.chmod(0o600)
            aside.rename(target / path.name)


# -- as a process --------------------------------------------------------------------------------------------


@dataclass
class Started(Face):
    """A running ``bartizan up --config FILE``; its log is beside the file."""

    process: subprocess.Popen[bytes]
    port: int
    url: str
    audit: Path
    state: Path
    log: Path

    def children(self) -> list[int]:
        """Return every process below it, at any depth."""
        found, fresh = [], [self.process.pid]
        while fresh:
            below = [pid for parent in fresh for pid in _children(parent)]
            found += below
            fresh = below
        return found

    def interrupt(self, *, within_s: float = 10.0) -> float:
        """Send SIGINT; return how long it took to be gone, seconds."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=within_s)
        return time.monotonic() - began

    def kill(self) -> None:
        """SIGKILL the process, and whatever it leaves behind."""
        below = self.children()
        self.process.kill()
        self.process.wait(timeout=10)
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []


@contextlib.contextmanager
def started(config: dict[str, Any], directory: Path, *, environ: Mapping[str, str] | None = None) -> Iterator[Started]:
    """Start the command on a configuration; wait until it answers; end it afterwards, killed if need be."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "bartizan.yaml"
    path.write_text(yaml.safe_dump(config))
    made = configuration.build(config)
    log = directory / "up.log"
    since = log.stat().st_size if log.exists() else 0
    with warm_cache(made.state):
        with log.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "firewall.cli.main", "--config", str(path), "up"],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environ or {})},
                start_new_session=True,
            )
        port = made.listeners.data.port
        run = Started(process, port, made.public_url, made.audit_dir, made.state, log)
        try:
            _wait(run, since)
        except BaseException:
            run.kill()
            raise
    try:
        yield run
    finally:
        if process.poll() is None:
            try:
                run.interrupt(within_s=5)
            except subprocess.TimeoutExpired:
                run.kill()


def _wait(run: Started, since: int) -> None:
    until = time.monotonic() + 50
    while time.monotonic() < until:
        if run.process.poll() is not None:
            break
        if b"Bartizan is up" in run.log.read_bytes()[since:]:  # said when every worker listens
            return
        time.sleep(0.02)
    raise AssertionError(f"bartizan up did not start: {run.log.read_text()[-2000:]}")
