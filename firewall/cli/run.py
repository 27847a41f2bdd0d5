"""``bartizan run``: guard one MCP server for a local client: put ``bartizan run --`` before its command, or give its URL."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson

from firewall.cli.arguments import Usage
from firewall.cli.run_options import settings_of, token_of
from firewall.cli.speaker import Speaker
from firewall.core.errors import AuditUnavailable, BartizanError, ConfigFault

if TYPE_CHECKING:
    from firewall.guarded import Guarded, GuardedSettings, Met
    from firewall.run_ends import RunEnds

DESK_AFTER_S: Final = 1.0  # the operator's socket waits until the client has its first answers
MEET_S: Final = 0.5  # for the first reading of a server whose client left before it was over
STOP_S: Final = 1.8
STUCK_S: Final = 10.0
RECORD_S: Final = 1.0  # for the record of a standstill, of the watchdog's `LAST_WORDS_S`
EXAMPLES: Final = """\
examples (options of ours stand before `--`):
  bartizan run --write ~/notes -- npx -y @modelcontextprotocol/server-filesystem ~/notes
  bartizan run --env GITHUB_TOKEN --allow-host api.github.com -- github-mcp-server stdio
  bartizan run https://mcp.example.com/mcp --credential-env EXAMPLE_TOKEN
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("target", nargs="+", metavar="URL | -- CMD ARGS", help="the server: its URL, or its command")
    parser.add_argument("--name", help="of the server and its state; made from the target without it")
    face = parser.add_argument_group("the face towards the client (stdio without either)")
    face.add_argument(
        "--http", nargs="?", type=int, const=0, metavar="PORT", help="Streamable HTTP on loopback, with a token"
    )
    face.add_argument("--unix", metavar="PATH", help="Streamable HTTP on a unix socket of yours, with a token")
    face.add_argument("--token-file", metavar="FILE", type=Path, help="keep the token there (0600), for the next run")
    server = parser.add_argument_group("the server")
    server.add_argument(
        "--trust", choices=("trusted", "untrusted"), default="untrusted", help="of its texts (untrusted)"
    )
    server.add_argument(
        "--effects", action="append", default=[], metavar="TOOL=CLASS", help="a tool's effect class (write); repeatable"
    )
    server.add_argument(
        "--pins", choices=("tofu", "strict"), default="tofu", help="strict: every definition waits for you"
    )
    server.add_argument(
        "--era", choices=("auto", "modern", "legacy"), default="auto", help="revision it is spoken to with"
    )
    server.add_argument(
        "--asks", default="", metavar="KINDS", help="what it may ask the client: sampling,elicitation,roots"
    )
    server.add_argument("--deadline", type=float, default=60.0, metavar="SECONDS", help="of one call (60)")
    server.add_argument(
        "--stuck-after",
        type=float,
        default=STUCK_S,
        metavar="SECONDS",
        help=f"end this guard, and the server with it, when it stands still itself for so long ({STUCK_S:.0f}; at least 1)",
    )
    server.add_argument("--network", choices=("public", "private", "loopback"), help="the class of address it may use")
    server.add_argument("--credential-env", metavar="VARIABLE", help="present this variable's value to a URL")
    server.add_argument("--credential-header", default="Authorization", metavar="NAME", help="header for it, as Bearer")
    cage = parser.add_argument_group("the cage of a command")
    cage.add_argument(
        "--env", action="append", default=[], metavar="NAME[=VALUE]", help="give it a variable; repeatable"
    )
    cage.add_argument("--read", action="append", default=[], metavar="PATH", help="let it read this; repeatable")
    cage.add_argument(
        "--write", action="append", default=[], metavar="PATH", help="let it read and write this; repeatable"
    )
    cage.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="HOST[:PORT]",
        help="let it connect there; * for any public one",
    )
    cage.add_argument("--require-sandbox", action="store_true", help="do not start it unless every wall stands")
    cage.add_argument("--partial-sandbox", action="store_true", help="start it even where the kernel has no seccomp")
    cage.add_argument("--no-sandbox", action="store_true", help="start it with no wall at all: it can do what you can")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES


def run(given: argparse.Namespace) -> int:
    """Serve until the client closes our stdin, or Ctrl-C.

    0 ended well, 1 the server never answered, 2 usage, 4 start, 5 this guard itself stood still.
    """
    if given.config is not None:
        raise Usage("run_config", "run reads no configuration file", fix="say it with options, or use `bartizan up`")
    if given.http is not None and given.unix:
        raise Usage("run_face", "one face at a time", fix="--http or --unix")
    if not given.stuck_after >= 1:
        raise Usage("run_stuck", "a guard may stand still for a second at least", fix="--stuck-after 10")
    settings = settings_of(given)
    speaker = Speaker(as_json=given.json)
    stdio = given.http is None and not given.unix
    protocol = _keep_stdout() if stdio else -1
    token = token_of(given.token_file)
    _remember(settings, speaker)
    import uvloop

    from firewall import guarded
    from firewall.net.watchdog import Watchdog

    made = guarded.build(
        settings,
        token,
        on_fault=lambda code, detail: speaker.say("fault", f"fault {code} {detail}", code=code, detail=detail),
        on_refused=lambda host, port, kind: speaker.refused(settings, host, port, kind),
    )
    code = [0]
    ends = _ends(made, speaker)

    def stuck(silent_s: float) -> None:
        # On a thread of its own: whoever stands still may hold the log, and then the next run records it.
        recording = threading.Thread(target=ends.stands_still, args=(silent_s,), name="watchdog-log", daemon=True)
        recording.start()
        recording.join(RECORD_S)
        speaker.stuck(silent_s)

    async def serve() -> None:
        watchdog = Watchdog(given.stuck_after, stuck, pidfile=ends.pidfile)
        watchdog.start()
        try:
            code[0] = await _serve(made, speaker, protocol, token)
        finally:
            watchdog.stop()
            ends.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
    # A thread that waits in a read of stdin cannot be ended, and the interpreter would wait for a writer's.
    sys.stderr.flush()
    os._exit(code[0])


def _ends(made: Guarded, speaker: Speaker) -> RunEnds:
    """Return where this run notes its end, after telling of those before it that ended otherwise."""
    from firewall.run_ends import RunEnds

    try:
        ends = RunEnds(made.core, made.settings.paths, made.settings.spec.name)
    except OSError as error:
        raise ConfigFault("state_dir", f"{made.settings.paths.state}: {error.strerror}") from None
    try:
        for left in ends.of_others():
            speaker.ended(left)
    except AuditUnavailable as error:
        speaker.say("fault", f"fault {error.code}: how the run before ended is not recorded yet", code=error.code)
    return ends


async def _serve(made: Guarded, speaker: Speaker, protocol: int, token: str) -> int:
    from firewall.net.heartbeat import until_told
    from firewall.net.pipes import LineReader, LineWriter

    settings, tasks = made.settings, made.core.tasks
    met: list[Met] = []
    try:
        await made.start()
        told = tasks.spawn(until_told(), "run.signals")
        ends: list[asyncio.Task[None]] = [told]
        if protocol >= 0:
            writer = LineWriter(protocol)
            face = made.face(aiter(LineReader(0)), writer.write)
            ends.append(tasks.spawn(face.run(), "run.face"))
        else:
            _show_endpoint(settings, token, speaker)
        greeting = tasks.spawn(_greet(made, speaker, met), "run.greet")
        tasks.spawn(_open_desk(made, speaker), "run.desk")
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not told.done():
            await asyncio.wait((greeting,), timeout=MEET_S)
        # Our own end of the child would look like a fault of its own.
        greeting.cancel()
        for task in ends:
            if task.done() and not task.cancelled() and task.exception() is not None:
                speaker.say("fault", f"fault {type(task.exception()).__name__}", code="internal")
                return 1
    finally:
        try:
            async with asyncio.timeout(STOP_S):
                await made.stop()
        except (TimeoutError, BartizanError) as error:
            speaker.say("fault", f"fault while stopping: {type(error).__name__}", code="stop")
    return 1 if met and met[0].code else 0


async def _greet(made: Guarded, speaker: Speaker, met: list[Met]) -> None:
    """Read the server beside the client's first words, and say what is pinned."""
    met.append(await made.meet())
    speaker.met(made.settings, met[0])


async def _open_desk(made: Guarded, speaker: Speaker) -> None:
    """Open the operator's socket, a moment after the client's first words."""
    await asyncio.sleep(DESK_AFTER_S)
    try:
        await made.open_desk()
    except BartizanError as error:
        speaker.say("fault", f"`bartizan pins` cannot reach this run: {error.code}: {error.detail}", code=error.code)


def _remember(settings: GuardedSettings, speaker: Speaker) -> None:
    """Note what runs under this name; say so when it was something else before, since its pins count for both."""
    spec = settings.spec
    settings.paths.make()
    path = settings.paths.state / "run.json"
    told = {
        "target": spec.url or spec.command[0],
        "digest": hashlib.sha256("\0".join([spec.url, *spec.command]).encode()).hexdigest(),
    }
    try:
        before = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        before = None
    if isinstance(before, dict) and before.get("digest") != told["digest"]:
        speaker.say(
            "changed",
            f"{spec.name}: another command or URL ran under this name before; what it defines now is held against those pins",
            "if it is another server: --name",
            name=spec.name,
        )
    aside = path.with_name(f".run.{os.getpid()}")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
        out.write(orjson.dumps(told))
    aside.rename(path)


def _keep_stdout() -> int:
    """Return a private descriptor of stdout and point stdout at stderr: whatever prints, the protocol stays clean."""
    if sys.stdin is None or sys.stdout is None:
        raise Usage("run_face", "stdin and stdout are closed", fix="start it from an MCP client, or use --http")
    if sys.stdin.isatty():
        sys.stderr.write(
            "bartizan: this waits for an MCP client on stdin (Ctrl-D ends it); --http serves a URL instead\n"
        )
    sys.stdout.flush()
    kept = os.dup(sys.stdout.fileno())
    os.set_inheritable(kept, False)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return kept


def _show_endpoint(settings: GuardedSettings, token: str, speaker: Speaker) -> None:
    """Print where the endpoint is and its token: on stdout, for whoever started us."""
    facts = {"url": settings.url, "token": token, **({"unix": settings.unix} if settings.unix else {})}
    if speaker.as_json:
        print(orjson.dumps(facts).decode(), flush=True)
        return
    where = f"URL     {settings.url}" + (f"\nSocket  {settings.unix}" if settings.unix else "")
    print(f"{where}\nHeader  Authorization: Bearer {token}", flush=True)
