"""The options of `bartizan run` → what a run is told. Paths are made absolute here; nothing of the working directory is read."""

from __future__ import annotations

import argparse
import os
import pwd
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlsplit

from firewall.cli.arguments import Usage
from firewall.cli.guarding import fetched_from, find_program, is_url, name_for, program_paths, run_state, with_script
from firewall.core.errors import ConfigFault

if TYPE_CHECKING:
    from firewall.guarded import GuardedSettings
    from firewall.identity.upstream.credentials import CredentialSettings
    from mcp_gateway.settings import UpstreamSpec

QUESTIONS: Final = ("sampling", "elicitation", "roots")


def settings_of(given: argparse.Namespace) -> GuardedSettings:
    """Return the settings of a run. Raises Usage, ConfigFault."""
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
            # Nothing is looked up and no network is guessed: which one a host stands in is for the operator to say.
            raise ConfigFault(
                "plain_http",
                f"{url} would go in clear over a network that nobody called private",
                fix="use https; or say --network private, where it is",
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
        env={**fetched_from(program), **_environment(given.env)},
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
    indexes = [urlsplit(url) for url in fetched_from(command[0]).values()] if command else []
    found = {(index.hostname, index.port or 0) for index in indexes if index.hostname}
    for text in given.allow_host:
        host, colon, port = text.rpartition(":")
        if not colon or text.endswith("]"):
            host, port = text, "0"
        if not host or not port.isascii() or not port.isdigit() or int(port) > 65535 or "/" in host:
            raise Usage("run_hosts", "a host is given as HOST or HOST:PORT", fix="such as --allow-host api.github.com")
        found.add((host.strip("[]").lower().rstrip("."), int(port)))
    return frozenset(found)


def _network(url: str) -> Literal["public", "loopback"]:
    host = urlsplit(url).hostname or ""
    return "loopback" if host in ("localhost", "::1") or host.startswith("127.") else "public"


def _credential(given: argparse.Namespace) -> CredentialSettings:
    from firewall.identity.upstream.credentials import CredentialSettings

    if not given.credential_env:
        return CredentialSettings()
    if not is_url(given.target[0]):
        raise Usage("run_credential", "a credential is presented to a URL", fix="for a command: --env NAME")
    if not os.environ.get(given.credential_env):
        raise ConfigFault("env_missing", f"{given.credential_env} is not set here", fix="set it")
    prefix = "Bearer " if given.credential_header.lower() == "authorization" else ""
    return CredentialSettings("env", given.credential_env, given.credential_header, prefix)


def token_of(path: Path | None) -> str:
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
