"""``bartizan run``: guard one MCP server for a local client: put ``bartizan run --`` before its command, or give its URL."""

from __future__ import annotations

import argparse
import asyncio
import os
import pwd
import secrets
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from firewall.cli.arguments import Usage
from firewall.cli.guarding import FETCHERS, find_program, is_url, name_for, program_paths, run_state, with_script
from firewall.cli.output import safe
from firewall.core.errors import BartizanError, ConfigFault
from firewall.core.upstream_words import upstream_words

if TYPE_CHECKING:
    from firewall.guarded import Guarded, GuardedSettings, Met
    from firewall.identity.upstream_credentials import CredentialSettings
    from mcp_gateway.settings import UpstreamSpec

QUESTIONS: Final = ("sampling", "elicitation", "roots")
DESK_AFTER_S: Final = 1.0  # the operator's socket waits until the client has its first answers
STOP_S: Final = 1.8
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
    """Serve until the client closes our stdin, or Ctrl-C. 0 ended well, 1 the server never answered, 2 usage, 4 start."""
    if given.config is not None:
        raise Usage("run_config", "run reads no configuration file", fix="say it with options, or use `bartizan up`")
    if given.http is not None and given.unix:
        raise Usage("run_face", "one face at a time", fix="--http or --unix")
    settings = _settings(given)
    speaker = Speaker(as_json=given.json)
    stdio = given.http is None and not given.unix
    protocol = _keep_stdout() if stdio else -1
    token = _token(given.token_file)
    _remember(settings, speaker)
    import uvloop

    from firewall import guarded

    made = guarded.build(
        settings,
        token,
        on_fault=lambda code, detail: speaker.say("fault", f"fault {code} {detail}", code=code, detail=detail),
        on_refused=lambda host, port: speaker.refused(settings, host, port),
    )
    code = [0]

    async def serve() -> None:
        code[0] = await _serve(made, speaker, protocol, token)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
    # A thread that waits in a read of stdin cannot be ended, and the interpreter would wait for a writer's.
    sys.stderr.flush()
    os._exit(code[0])


async def _serve(made: Guarded, speaker: Speaker, protocol: int, token: str) -> int:
    from firewall.net.pipes import LineReader, LineWriter
    from firewall.net.workers import until_told

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
        tasks.spawn(_meet(made, speaker, met), "run.meet")
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
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


async def _meet(made: Guarded, speaker: Speaker, met: list[Met]) -> None:
    """Read the server beside the client's first words, say what is pinned, then open the operator's socket."""
    if not made.settings.spec.asks:  # a server that may ask belongs to one client: it starts with that one's session
        met.append(await made.meet())
        speaker.met(made.settings, met[0])
    await asyncio.sleep(DESK_AFTER_S)
    try:
        await made.open_desk()
    except BartizanError as error:
        speaker.say("fault", f"`bartizan pins` cannot reach this run: {error.code}: {error.detail}", code=error.code)


class Speaker:
    """What a run says to people, on stderr: a few lines, or JSON lines. Never a word of the server's own."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def say(self, event: str, *lines: str, **facts: Any) -> None:
        """Say one thing; the first line is the sentence."""
        try:
            if self._as_json:
                import orjson

                sys.stderr.write(orjson.dumps({"event": event, **facts}).decode() + "\n")
            else:
                first, *rest = [safe(line) for line in lines]
                sys.stderr.write("\n".join([f"bartizan: {first}", *(f"  {line}" for line in rest)]) + "\n")
            sys.stderr.flush()
        except OSError:
            pass  # nobody listens; the protocol goes on

    def met(self, settings: GuardedSettings, met: Met) -> None:
        """Say what the server turned out to be: at first contact what was pinned, later what waits."""
        spec, name = settings.spec, settings.spec.name
        counts: dict[str, int] = {}
        for pin in met.pins:
            counts[pin.kind] = counts.get(pin.kind, 0) + 1
        waiting = [pin for pin in met.pins if pin.status != "approved"]
        facts = {
            "name": name, "fresh": met.fresh, "pins": counts, "waiting": len(waiting), "fault": met.code,
            "state": str(settings.paths.state), "missing_walls": list(met.missing),
        }  # fmt: skip
        if met.code:
            what, mend = upstream_words(met.code)
            self.say("met", f"{name}: {what} ({met.code})", f"mend: {mend}", **facts)
            return
        told = _counted(counts)
        own = (
            f"bartizan --run {name}"
            if settings.paths.state == run_state(name)
            else f"bartizan --state-dir {settings.paths.state}"
        )
        if met.fresh:
            lines = [
                f"{name}: first contact; pinned as they are now: {told or 'nothing yet'}. A change is stopped until you agree.",
                f"{own} pins status     what is pinned, what waits",
                f"{own} audit show      what was called, what was decided",
                f"{own} explain ID      why (the id stands in every refusal)",
                _cage_words(settings),
            ]
        else:
            lines = [f"{name}: guarded; {told or 'nothing is pinned'}"]
        if waiting:
            names = ", ".join(f"{pin.kind} {pin.name}".strip() for pin in waiting[:5])
            lines.append(f"{len(waiting)} wait for you and are not served: {names}{' …' if len(waiting) > 5 else ''}")
            lines.append(f"look and agree: {own} pins diff {name}, then: {own} pins approve {name}")
        if met.missing and spec.sandbox != "off":
            lines.append(f"this kernel lacks: {', '.join(met.missing)}; the server runs without")
        self.say("met", *(line for line in lines if line), **facts)

    def refused(self, settings: GuardedSettings, host: str, port: int) -> None:
        """Say that the child wanted to connect somewhere, and what would allow it."""
        shown = host[:120]
        self.say(
            "egress_refused",
            f"{settings.spec.name}: it wanted {shown}:{port}, which was refused",
            f"if that is right: --allow-host {shown}" + ("" if port in (80, 443) else f":{port}"),
            name=settings.spec.name, host=shown, port=port,
        )  # fmt: skip


def _counted(counts: dict[str, int]) -> str:
    """Return "2 tools, its instructions"."""
    single = {"instructions": "its instructions", "set": "the set of them", "server": "what it says of itself"}
    return ", ".join(
        single.get(kind) or f"{n} {kind}{'' if n == 1 else 's'}" for kind, n in sorted(counts.items(), reverse=True)
    )


def _settings(given: argparse.Namespace) -> GuardedSettings:
    from firewall.guarded import GuardedSettings
    from firewall.nucleus import Paths

    spec = _spec(given)
    state = Path(given.state_dir).expanduser().absolute() if given.state_dir else run_state(spec.name)
    cache = None if given.state_dir else state.parent.parent / "cache"
    hosts = _hosts(given, spec.command)
    port = 0
    if given.http is not None:
        if not 0 <= given.http <= 65535:
            raise Usage("run_face", "a port is 0 to 65535", fix="0 takes a free one")
        port = given.http or _free_port()
    unix = os.path.abspath(os.path.expanduser(given.unix)) if given.unix else ""
    return GuardedSettings(spec, Paths(state, cache), _user(), port, unix, hosts, _credential(given))


def _spec(given: argparse.Namespace) -> UpstreamSpec:
    from mcp_gateway.settings import UpstreamSpec

    asks = frozenset(part.strip() for part in given.asks.split(",") if part.strip())
    if not asks <= set(QUESTIONS):
        raise Usage("run_asks", "a server may ask for sampling, elicitation or roots", fix="--asks sampling,roots")
    shared: dict[str, Any] = {
        "name": given.name or name_for(given.target),
        "trust": given.trust,
        "effects": _effects(given.effects),
        "pins": given.pins,
        "era": given.era,
        "asks": asks,
        "deadline_s": given.deadline,
    }
    if is_url(given.target[0]):
        if len(given.target) > 1:
            raise Usage("run_target", "a URL stands alone", fix="bartizan run [options] URL")
        caged = (given.env, given.read, given.write, given.allow_host)
        if any(caged) or given.no_sandbox or given.partial_sandbox or given.require_sandbox:
            raise Usage(
                "run_target", "a URL has no cage", fix="leave out --env, --read, --write, --allow-host and --…sandbox"
            )
        url = given.target[0]
        network = given.network or _network(url)
        if network == "public" and url.startswith("http:"):
            raise ConfigFault(
                "plain_http", f"{url} goes over a public network in clear", fix="use https, or say --network private"
            )
        return UpstreamSpec(url=url, network=network, **shared)
    program = find_program(given.target[0])
    command, script = with_script((program, *given.target[1:]))
    walls: Literal["auto", "required", "off"] = (
        "off" if given.no_sandbox else "required" if given.require_sandbox else "auto"
    )
    return UpstreamSpec(
        transport="stdio",
        command=command,
        env=_environment(given.env),
        read=tuple(dict.fromkeys([*program_paths(program), *script, *_paths(given.read)])),
        write=_paths(given.write),
        network=given.network or "public",
        sandbox=walls,
        unsandboxed=given.no_sandbox or given.partial_sandbox,
        **shared,
    )


def _effects(given: list[str]) -> dict[str, str]:
    found = {}
    for text in given:
        tool, equals, effect = text.rpartition("=")
        if not equals or not tool:
            raise Usage("run_effects", "an effect is given as TOOL=CLASS", fix="such as --effects send_mail=send")
        found[tool] = effect
    return found


def _environment(given: list[str]) -> dict[str, str]:
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or "\0" in text:
            raise Usage("run_env", "a variable is given as NAME or NAME=VALUE", fix="such as --env GITHUB_TOKEN")
        if not equals and name not in os.environ:
            raise ConfigFault("env_missing", f"{name} is not set here", fix=f"set it, or say --env {name}=VALUE")
        found[name] = value if equals else os.environ[name]
    return found


def _paths(given: list[str]) -> tuple[str, ...]:
    found = []
    for text in given:
        path = os.path.abspath(os.path.expanduser(text))
        if not os.path.exists(path):
            raise ConfigFault(
                "path_missing", f"{path}: there is no such file or directory", fix="make it, or correct it"
            )
        found.append(os.path.realpath(path))
    return tuple(found)


def _hosts(given: argparse.Namespace, command: tuple[str, ...]) -> frozenset[tuple[str, int]] | None:
    if "*" in given.allow_host:
        return None
    found = {(host, 443) for host in FETCHERS.get(os.path.basename(command[0]), ())} if command else set()
    for text in given.allow_host:
        host, colon, port = text.rpartition(":")
        if not colon or text.endswith("]"):
            host, port = text, "0"
        if not host or not port.isascii() or not port.isdigit() or int(port) > 65535 or "/" in host:
            raise Usage("run_hosts", "a host is given as HOST or HOST:PORT", fix="such as --allow-host api.github.com")
        found.add((host.strip("[]").lower().rstrip("."), int(port)))
    return frozenset(found)


def _network(url: str) -> Literal["public", "loopback"]:
    from urllib.parse import urlsplit

    host = urlsplit(url).hostname or ""
    return "loopback" if host in ("localhost", "::1") or host.startswith("127.") else "public"


def _credential(given: argparse.Namespace) -> CredentialSettings:
    from firewall.identity.upstream_credentials import CredentialSettings

    if not given.credential_env:
        return CredentialSettings()
    if not is_url(given.target[0]):
        raise Usage("run_credential", "a credential is presented to a URL", fix="for a command: --env NAME")
    if not os.environ.get(given.credential_env):
        raise ConfigFault("env_missing", f"{given.credential_env} is not set here", fix="set it")
    prefix = "Bearer " if given.credential_header.lower() == "authorization" else ""
    return CredentialSettings("env", given.credential_env, given.credential_header, prefix)


def _token(path: Path | None) -> str:
    """Return the token: a new one, or the file's; a file that others can read is refused."""
    if path is None:
        return secrets.token_urlsafe(32)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(handle) as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode) or facts.st_mode & 0o077 or facts.st_uid != os.geteuid():
                raise ConfigFault("token_file", f"{path} is not yours alone", fix=f"rm {path}, and run again") from None
            kept = file.read(512).strip()
        if len(kept) < 32 or not kept.isascii() or not kept.isprintable():
            raise ConfigFault("token_file", f"{path} holds no token", fix=f"rm {path}, and run again") from None
        return kept
    except OSError as error:
        raise ConfigFault("token_file", f"{path}: {error.strerror}") from None
    with os.fdopen(handle, "w") as file:
        made = secrets.token_urlsafe(32)
        file.write(made + "\n")
    return made


def _remember(settings: GuardedSettings, speaker: Speaker) -> None:
    """Note what runs under this name; say so when it was something else before, since its pins count for both."""
    import hashlib

    import orjson

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
    import orjson

    facts = {"url": settings.url, "token": token, **({"unix": settings.unix} if settings.unix else {})}
    if speaker._as_json:
        print(orjson.dumps(facts).decode(), flush=True)
        return
    where = f"URL     {settings.url}" + (f"\nSocket  {settings.unix}" if settings.unix else "")
    print(f"{where}\nHeader  Authorization: Bearer {token}", flush=True)


def _cage_words(settings: GuardedSettings) -> str:
    spec = settings.spec
    if not spec.command:
        return f"it is reached at {spec.url}, on a {spec.network} address only"
    if spec.sandbox == "off":
        return "it runs WITHOUT a sandbox: it can do what you can"
    hosts = (
        "any public host" if settings.hosts is None else ", ".join(sorted(h for h, _ in settings.hosts)) or "no host"
    )
    writes = ", ".join(spec.write) or "nothing of yours"
    return f"it may write {writes}, connect to {hosts}, and reads its own installation" + (
        f" and {', '.join(path for path in spec.read if path not in program_paths(spec.command[0]))}"
        if set(spec.read) - set(program_paths(spec.command[0]))
        else ""
    )


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid-{os.geteuid()}"


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
