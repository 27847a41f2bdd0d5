"""Stdio upstreams: children as opponents (ISO-02), one pipe each, many requests in flight.

- The command comes from configuration, starts without a shell in a session of its own, with a minimal
  environment and a scratch directory, inside the cage of `sandbox`.
- One JSON message per line, bounded and strictly parsed; a line that is none ends the child, since
  what follows cannot be trusted to be framed.
- stderr is untrusted text: it is drained and counted, never logged. Its first lines are kept for an operator
  who asks why a child does not start (`child_words`).
- `mux` says which message belongs to which request. A child that may ask its callers is started per
  caller, in a scratch directory of that caller: on a pipe nothing else says whom a question is for.
- A child that died is started again after a back-off; its end is SIGTERM, then SIGKILL, within a
  second, to the whole process group, and it is always reaped.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import sys
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Final

from firewall.core.action import Headers
from firewall.core.bounds import MIB, STREAM_TOTAL_S, UPSTREAM_BODY_BYTES
from firewall.core.errors import ConfigFault, Malformed, UpstreamFault
from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import Cleared
from firewall.core.points import Point
from firewall.core.ports import Clock
from firewall.net.runtime import Tasks
from firewall.state.memory import MemoryStore
from firewall.wire import jsonrpc
from mcp_gateway import bridge, sandbox
from mcp_gateway.bridge import Opened
from mcp_gateway.child_words import COLLECTION, ChildWords, Ear
from mcp_gateway.exchanges import Messages, lasts, parsed
from mcp_gateway.house import House, Refused
from mcp_gateway.mux import Mux, MuxExchange
from mcp_gateway.sandbox import SYSTEM_READ, Cage, Support
from mcp_gateway.settings import Settings, UpstreamSpec
from mcp_gateway.upstream import Patience, answer_server
from mcp_gateway.versions import LEGACY, MODERN, NEWEST_HANDSHAKE, NEWEST_MODERN

TERM_S: Final = 0.7
KEEPER_S: Final = 0.3
KILL_S: Final = 0.9
DRAIN_S: Final = 0.1
PROBE_S: Final = 5.0
BACKOFF_FIRST_S: Final = 0.2
BACKOFF_MAX_S: Final = 30.0
HEALTHY_S: Final = 30.0
STARTS: Final = 4096  # remembered starts, for the back-off
PATIENCE_S: Final = 1.0  # how long a caller waits for a back-off to end
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"


class Launcher:
    """Starts children by configuration; remembers failures per child for the back-off."""

    def __init__(
        self,
        settings: Settings,
        support: Support,
        house: House,
        tasks: Tasks,
        clock: Clock,
        words: ChildWords | None = None,
    ) -> None:
        """words: keeps what children say on stderr; nobody does without it."""
        self._words = words if words is not None else ChildWords(MemoryStore(clock).collection(COLLECTION), clock)
        self._settings = settings
        self._support = support
        self._house = house
        self._tasks = tasks
        self._clock = clock
        self._starts: dict[tuple[str, str, str], tuple[int, int]] = {}

    def check(self, spec: UpstreamSpec) -> tuple[str, ...]:
        """Return the walls that this child will lack. Raises ConfigFault as `lacking_walls`."""
        return lacking_walls(spec, self._settings, self._support)

    async def open(
        self, tenant: str, spec: UpstreamSpec, *, declared: JSONObject | None = None, caller: str = ""
    ) -> StdioLink:
        """Start the child and open its session. Raises UpstreamFault, Refused.

        declared: client capabilities of the one caller that the child is for; caller: who that is.
        """
        place = hashlib.sha256(caller.encode()).hexdigest()[:32] if caller else ""
        slot = (tenant, spec.name, place)
        failures, until_ns = self._starts.get(slot, (0, 0))
        wait_s = (until_ns - self._clock.monotonic_ns()) / 1e9
        if wait_s > PATIENCE_S:
            raise UpstreamFault("unreachable", "the child keeps dying and is started again later")
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        now = self._clock.monotonic_ns()
        # A child that was started a moment ago and is needed again has died: count it.
        recent = bool(until_ns) and now - until_ns < HEALTHY_S * 1e9
        failures = min(failures + 1, 16) if recent else 0
        backoff_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2**failures)
        while len(self._starts) >= STARTS:
            del self._starts[next(iter(self._starts))]
        self._starts[slot] = (failures, now + int(backoff_s * 1e9))
        ear = self._words.of(tenant, spec.name, spec.env.values())
        link = StdioLink(self._house, tenant, spec, self._tasks, declared=declared, ear=ear)
        try:
            await link.start(self._cage(tenant, spec, place))
            ear.open()
        except BaseException:
            await link.close()
            raise
        finally:
            ear.write()
        return link

    def _cage(self, tenant: str, spec: UpstreamSpec, place: str) -> Cage:
        cwd = os.path.join(self._settings.scratch, _slug(tenant), spec.name)
        if place:
            # Beside the shared child's directory, not below it: one caller's child must not read another's.
            cwd = os.path.join(self._settings.scratch, _slug(tenant), f"{spec.name}.{place}")
        os.makedirs(cwd, mode=0o700, exist_ok=True)
        env = {"PATH": _path(spec.command[0]), "HOME": cwd, "TMPDIR": cwd, "LANG": "C.UTF-8", **spec.env}
        walls = spec.sandbox != "off"
        socket_path = self._settings.egress_socket.replace("{name}", spec.name)
        return Cage(
            argv=spec.command,
            env=env,
            cwd=cwd,
            read=(*_program_roots(spec.command[0]), *spec.read),
            write=spec.write,
            landlock=walls and self._support.landlock > 0,
            seccomp=walls and self._support.seccomp,
            network=walls and self._support.network,
            egress_socket=socket_path,
            parent=os.getpid(),
        )


class StdioLink:
    """One running child; see `mcp_gateway.upstream.Link`."""

    transport = "stdio"

    def __init__(
        self,
        house: House,
        tenant: str,
        spec: UpstreamSpec,
        tasks: Tasks,
        *,
        declared: JSONObject | None = None,
        ear: Ear | None = None,
    ) -> None:
        self._house = house
        self._tenant = tenant
        self._spec = spec
        self._tasks = tasks
        self._process: asyncio.subprocess.Process | None = None
        self._readers: list[asyncio.Task[None]] = []
        self._ear = ear
        self._writing = asyncio.Lock()
        self._ids = 0
        self._dead = False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._heard_s = 0.0
        self._patience = Patience()
        self.stderr_bytes = 0
        self.declared = dict(declared or {})
        self._mux = Mux(self.declared, self._answer)
        self.opened = Opened(NEWEST_MODERN, MODERN)

    @property
    def alive(self) -> bool:
        """Whether the child runs and its pipe is sound."""
        return not self._dead and self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """The child's process id, which is also its process group."""
        return self._process.pid if self._process else 0

    def next_id(self) -> int:
        """Return the next id; never repeated within a child."""
        self._ids += 1
        return self._ids

    async def start(self, cage: Cage) -> None:
        """Start the child, find its era, open its session. Raises UpstreamFault, Refused."""
        argv, cage_fd = sandbox.command(cage)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *argv,
                pass_fds=(cage_fd,),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=UPSTREAM_BODY_BYTES,
                start_new_session=True,
                env={},
                cwd="/",
            )
        except OSError:
            raise UpstreamFault("unreachable", "the program could not be started") from None
        finally:
            os.close(cage_fd)
        self._readers = [
            self._tasks.spawn(self._read(), f"mcp.stdio.{self._spec.name}.out"),
            self._tasks.spawn(self._drain(), f"mcp.stdio.{self._spec.name}.err"),
        ]
        modern = False if self.declared or self._spec.era == LEGACY else await self._discover()
        if not modern:
            if self._spec.era == MODERN:
                raise UpstreamFault("malformed", "the program does not speak a modern revision")
            # One that was slow to start has read the probe first, and may be a modern one that refuses this.
            if not await self._initialize() and not (modern is None and await self._discover()):
                raise UpstreamFault("malformed", "the program refused to open a session")

    def exchange(self, rpc_id: int, cleared: Cleared, credentials: Headers) -> MuxExchange:
        """See Link.exchange. Leaving early does not cancel by itself: cancellation here is a notification."""
        del credentials
        more_s = self._spec.answer_s if self.declared else 0.0
        deadline_s = self._spec.deadline_s + more_s
        if lasts(cleared):  # silence is no sign of a child that hangs
            return MuxExchange(self._mux, rpc_id, cleared, STREAM_TOTAL_S, self._write)
        return MuxExchange(self._mux, rpc_id, cleared, deadline_s, self._write, self._late)

    def listen(self, credentials: Headers) -> AbstractAsyncContextManager[Messages]:
        """See Link.listen."""
        del credentials
        return self._mux.listen()

    async def notify(self, cleared: Cleared, credentials: Headers) -> None:
        """See Link.notify."""
        await self._write(cleared)

    async def close(self) -> None:
        """End the child: stdin closed and SIGTERM, then SIGKILL to its group; reaped in any case. Idempotent."""
        self._fail()
        process = self._process
        if process is not None:
            if process.stdin is not None:
                process.stdin.close()
            if process.returncode is None:
                _signal(process.pid, signal.SIGTERM)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TERM_S):
                        await process.wait()
            await self._kill(process)
        me = asyncio.current_task()
        readers = [task for task in self._readers if task is not me]
        if readers:
            await asyncio.wait(readers, timeout=DRAIN_S)  # the last words of a child often say why it ended
        for task in readers:
            task.cancel()

    # -- opening ---------------------------------------------------------------------------------------

    async def _discover(self) -> bool | None:
        """Ask as a modern client does. None: no answer in time, where there is another way to ask."""
        body = bridge.discover(self.next_id(), NEWEST_MODERN)
        try:
            async with asyncio.timeout(None if self._spec.era == MODERN else PROBE_S):
                message = await self._ask("server/discover", body, NEWEST_MODERN)
        except TimeoutError:
            return None
        if not isinstance(message, jsonrpc.Response):
            return False
        try:
            self.opened = bridge.opened(message.result, MODERN)
        except Malformed:
            return False
        return True

    async def _initialize(self) -> bool:
        """Open a session as a client of the handshake does; False when it is refused."""
        body = bridge.initialize(self.next_id(), NEWEST_HANDSHAKE, self.declared)
        message = await self._ask("initialize", body, NEWEST_HANDSHAKE)
        if not isinstance(message, jsonrpc.Response):
            return False
        try:
            self.opened = bridge.opened(message.result, LEGACY)
        except Malformed:
            raise UpstreamFault("malformed", "the program opened a session in a way that no revision knows") from None
        note = jsonrpc.build_notification("notifications/initialized")
        await self._write(await self._clear("notifications/initialized", note, Point.MCP_NOTIFY_CLIENT))
        return True

    async def _ask(self, method: str, body: JSONObject, version: str) -> jsonrpc.Message:
        cleared = await self._house.clear(
            self._tenant, self._spec, method, body, version=version, point=Point.MCP_SESSION_OPEN
        )
        rpc_id = body["id"]
        assert isinstance(rpc_id, int)
        async with self.exchange(rpc_id, cleared, ()) as messages:
            async for value in messages:
                if "method" not in value:
                    try:
                        return jsonrpc.parse(value)
                    except Malformed:
                        raise UpstreamFault("malformed", "the answer is no JSON-RPC response") from None
        raise UpstreamFault("cut_stream", "the program ended without an answer")

    async def _clear(self, method: str, body: JSONObject, point: Point) -> Cleared:
        return await self._house.clear(self._tenant, self._spec, method, body, version=self.opened.version, point=point)

    # -- the pipe ----------------------------------------------------------------------------------------

    async def _write(self, cleared: Cleared) -> None:
        if not isinstance(cleared, Cleared):
            raise TypeError("only what the guard cleared may leave")
        stdin = self._process.stdin if self._process else None
        if stdin is None or not self.alive:
            raise UpstreamFault("unreachable", "the child is not running")
        # A JSON text made by our encoder holds no raw line end, so a payload is exactly one line.
        async with self._writing:
            try:
                stdin.write(cleared.payload + b"\n")
                await stdin.drain()
            except (OSError, RuntimeError):
                self._fail()
                raise UpstreamFault("cut_stream", "the child closed its input") from None

    async def _read(self) -> None:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        try:
            while line := await process.stdout.readline():
                self._heard_s = asyncio.get_running_loop().time()
                await self._mux.route(parsed(line))
        except (UpstreamFault, ValueError):  # ValueError: a line beyond the bound
            pass
        except Refused:
            pass
        finally:
            self._fail()
            await _to_its_end(self._kill(process))
            await process.wait()

    async def _answer(self, asked: JSONObject) -> None:
        """Answer a server's request that no caller of ours can be asked."""
        reply = answer_server(asked)
        if reply is not None and self._patience.left():
            point = Point.MCP_PONG if "result" in reply else Point.MCP_NOTIFY_CLIENT
            await self._write(await self._clear("ping" if "result" in reply else "error", reply, point))

    async def _drain(self) -> None:
        process = self._process
        assert process is not None
        assert process.stderr is not None
        try:
            while data := await process.stderr.read(64 * 1024):
                self.stderr_bytes = min(self.stderr_bytes + len(data), 1024 * MIB)
                if self._ear is not None:
                    self._ear.hear(data)
        finally:
            if self._ear is not None:
                self._ear.write()

    def _late(self, began_s: float) -> None:
        """Look at a child that let a deadline pass."""
        if self._heard_s < began_s:
            self._abandon()

    def _abandon(self) -> None:
        """End a child that said nothing at all within a whole deadline: one that hangs would hang every later call."""
        self._fail()
        if self._process is not None:
            with contextlib.suppress(RuntimeError):  # the worker is ending, and `close` does it
                self._tasks.spawn(self._kill(self._process), f"mcp.stdio.{self._spec.name}.kill")

    @staticmethod
    async def _kill(process: asyncio.subprocess.Process) -> None:
        """End a child and all that it ever started: by its keeper, which finds them, then by force."""
        if process.returncode is None:
            with contextlib.suppress(TimeoutError, ProcessLookupError):
                process.send_signal(sandbox.END_ALL)
                async with asyncio.timeout(KEEPER_S):
                    await process.wait()
        _signal(process.pid, signal.SIGKILL)  # what is left of its group: a keeper that was killed finds nobody
        if process.returncode is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(KILL_S):
                    await process.wait()

    def _fail(self) -> None:
        """Mark the child dead and wake everyone who waits for it."""
        self._dead = True
        if not self.ended.done():
            self.ended.set_result(None)
        self._mux.end(UpstreamFault("cut_stream", "the child ended"))


async def _to_its_end(work: Coroutine[object, object, None]) -> None:
    """Await what is bounded by itself and may not stop half-way: a worker that stops cancels its tasks once."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def lacking_walls(spec: UpstreamSpec, settings: Settings, support: Support) -> tuple[str, ...]:
    """Return the walls that the child of an upstream will lack.

    Raises ConfigFault: sandbox_missing (no seccomp, or less than ``required``), sandbox_private (a granted path, the
    program's own directory or what every child may read reaches keys, state or policy), scratch_missing.
    """
    if not settings.scratch:
        raise ConfigFault("scratch_missing", f"mcp upstream {spec.name}", fix="set a scratch directory")
    # What is granted without being asked for counts as well; without a cage, nothing is granted and all is reached.
    unasked = _program_roots(spec.command[0]) if spec.sandbox != "off" else ()
    for granted in (*spec.read, *spec.write, settings.scratch, *unasked):
        held = next((private for private in settings.private if _overlap(granted, private)), "")
        if held:
            raise ConfigFault(
                "sandbox_private",
                f"{spec.name} may not be given {granted}: {held} is Bartizan's own",
                fix="give it a narrower path, and a program a directory of its own; keys, state and policy stay out of "
                "every child's reach",
            )
    if spec.sandbox == "off":
        return ("landlock", "seccomp", "network namespace")
    held = next((private for private in settings.private if _is_system(private)), "")
    if held:
        raise ConfigFault(
            "sandbox_private",
            f"{held} is Bartizan's own, and lies where every local program may read",
            fix="keep state, and the secret that keys are sealed under, out of /usr and /opt",
        )
    missing = support.missing
    if missing and spec.sandbox == "required":
        raise ConfigFault(
            "sandbox_missing",
            f"{spec.name}: no {', '.join(missing)} here",
            fix="use another kernel, or sandbox: auto",
        )
    if "seccomp" in missing and not spec.unsandboxed:
        raise ConfigFault(
            "sandbox_missing",
            f"{spec.name}: this kernel has no seccomp, so a child could reach the operator's socket",
            fix="write unsandboxed: true to accept that",
        )
    return missing


def _is_system(path: str) -> bool:
    """Return whether a path lies below what every child may read."""
    path = os.path.realpath(path)
    return any(os.path.commonpath((path, root)) == root for root in map(os.path.realpath, SYSTEM_READ))


def _overlap(a: str, b: str) -> bool:
    a, b = os.path.realpath(a), os.path.realpath(b)
    return os.path.commonpath((a, b)) in (a, b)


def _slug(tenant: str) -> str:
    """Return a directory name for a tenant: its own name where that is plain, else its hex."""
    plain = tenant.isascii() and tenant.replace("-", "").replace("_", "").isalnum() and len(tenant) <= 64
    return tenant if plain else "x" + tenant.encode().hex()[:120]


def _path(program: str) -> str:
    """Return the child's PATH: the program's own directory first where it was named by path."""
    folder = os.path.dirname(program)
    return f"{folder}:{_PATH}" if os.path.isabs(folder) else _PATH


def _program_roots(program: str) -> tuple[str, ...]:
    """Return what a program needs to read of itself: its directory, its virtual environment, its interpreter."""
    if not os.path.isabs(program):
        return ()
    roots = {os.path.dirname(os.path.realpath(program)), os.path.dirname(program)}
    venv = os.path.dirname(os.path.dirname(program))
    if os.path.exists(os.path.join(venv, "pyvenv.cfg")):
        # A Python program in a virtual environment: the environment and the base installation it names.
        roots.add(venv)
        interpreter = os.path.realpath(os.path.join(venv, "bin", "python"))
        roots.add(os.path.dirname(os.path.dirname(interpreter)))
    if venv == os.path.realpath(sys.prefix):
        roots.add(os.path.realpath(sys.base_prefix))
    return tuple(sorted(roots))
