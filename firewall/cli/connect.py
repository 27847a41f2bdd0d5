"""``bartizan connect``: write an MCP client's own configuration: shown as a diff first, asked for, kept as a backup."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import glob
import json
import os
import shutil
import stat
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from firewall.cli import json_edit, undo
from firewall.cli.arguments import Usage
from firewall.cli.clients import CLIENTS, Client, Entry
from firewall.cli.context import load_config
from firewall.cli.guarding import closed_paths, closed_words, find_program, is_url, name_for, program_paths, with_script
from firewall.cli.output import emit, note, table
from firewall.core.errors import ConfigFault, Malformed

TOKEN_VARIABLE: Final = "BARTIZAN_UPSTREAM_TOKEN"  # noqa: S105  the name of a variable
BACKUPS: Final = 100  # of one file, the newest, that an undoing looks into
NOT_TRIED: Final = "not tried: written from its documentation"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("client", nargs="?", choices=tuple(CLIENTS), help="the client to connect")
    parser.add_argument("url", nargs="?", help="an endpoint of a running node; its /mcp without it")
    parser.add_argument("--list", action="store_true", help="show every client, its files and its servers")
    parser.add_argument("--wrap", metavar="NAME", help="guard a server that the client starts or calls already")
    parser.add_argument("--remove", metavar="NAME", help="undo: put a wrapped server back, or remove a connected one")
    parser.add_argument("--name", help="of the entry in the client (bartizan, or the endpoint's)")
    parser.add_argument("--scope", choices=("user", "project"), default="user", help="whose configuration (user)")
    parser.add_argument(
        "--project", type=Path, default=Path(), metavar="DIR", help="the project, for --scope project (here)"
    )
    parser.add_argument("--file", type=Path, help="the client's file, where it is not in its usual place")
    for option, what in (("--read", "PATH"), ("--write", "PATH"), ("--allow-host", "HOST")):
        parser.add_argument(
            option, action="append", default=[], metavar=what, help="for the wrapped command; see `run`"
        )
    parser.add_argument("--no-sandbox", action="store_true", help="for the wrapped command; see `run`")
    parser.add_argument("--dry-run", action="store_true", help="show the change and write nothing")
    parser.add_argument("--yes", action="store_true", help="write without being asked")


@dataclass(frozen=True, slots=True)
class Change:
    """An edit of one file: what it was (None: there is none), what it will be, and what that means.

    restored: of an undoing, what is as it was to the byte (`undo.How`).
    """

    path: Path
    before: str | None
    after: str | None
    says: str
    restored: str = ""


def run(given: argparse.Namespace) -> int:
    """Show the change, ask, keep a backup, write; exit 1 when it was not wanted."""
    if given.list:
        return _list(given)
    if given.client is None:
        raise Usage("connect_client", "name a client", fix=f"one of {', '.join(CLIENTS)}; or --list")
    if sum(bool(one) for one in (given.url, given.wrap, given.remove)) > 1:
        raise Usage("connect_what", "one thing at a time", fix="a URL, --wrap NAME or --remove NAME")
    client = CLIENTS[given.client]
    path = given.file or client.file(given.scope, Path.home(), given.project.absolute())
    if path is None:
        raise Usage(
            "connect_scope", f"{client.title} has no {given.scope} configuration", fix="--scope user, or --file"
        )
    change = _change(given, client, path)
    facts = {"client": given.client, "file": str(change.path), "tried": client.tried}
    if change.restored:
        facts["restored"] = change.restored
    if change.before == change.after:
        emit(given, {**facts, "changed": False}, f"{change.path}: nothing to change. {change.says}")
        return 0
    for line in _diff(change):
        note(line)
    note("")
    for line in change.says.splitlines():
        note(line)
    note(f"{client.title}: {'tried by hand with ' + client.tried if client.tried else NOT_TRIED}")
    if given.dry_run:
        emit(given, {**facts, "changed": False, "after": change.after}, "Nothing was written (--dry-run).")
        return 0
    if not given.yes and not _agreed():
        emit(given, {**facts, "changed": False}, "Nothing was written.")
        return 1
    backup = _write(change)
    told = [
        f"{change.path} is {'gone' if change.after is None else 'written'}." + (f" Before: {backup}" if backup else "")
    ]
    if client.note:
        told.append(f"{client.title}: {client.note}.")
    emit(given, {**facts, "changed": True, "backup": str(backup) if backup else None}, told)
    return 0


# -- what to change ----------------------------------------------------------------------------------------


def _change(given: argparse.Namespace, client: Client, path: Path) -> Change:
    if client.toml:
        raise _paste(client, path, _toml(given, client), "it is TOML, which we do not rewrite")
    before, document = _load(client, path, given)
    servers = document.get(client.key, {})
    if not isinstance(servers, dict):
        raise ConfigFault("client_file", f"{path}: {client.key} is no object", fix="mend it by hand")
    if given.wrap or given.remove:
        name = given.wrap or given.remove
        entry = servers.get(name)
        if not isinstance(entry, dict):
            there = ", ".join(sorted(servers)[:20]) or "none"
            raise Usage("connect_name", f"{path} has no server {name}", fix=f"there are: {there}")
        if given.wrap:
            after = json_edit.set_member(
                before or "", (client.key, name), wrapped(name, entry, _program(given), _cage(given))
            )
            says = f"{name} will be started by `bartizan run`; its state: --run {run_name(name)}"
            if closed := closed_words(_closed(given, entry)):
                says += f"\n{name}: {closed}"
            return Change(path, before, after, says)
        plain, where, kept = unwrapped(entry, client), (client.key, name), _backups(path)
        if plain is None:
            undone = undo.remove(before or "", where, entry, kept)
            return Change(path, before, undone.after, f"{name} will be gone{_RESTORED[undone.how]}", undone.how)
        undone = undo.unwrap(before or "", where, entry, plain, lambda old: _was(name, old, plain, client), kept)
        says = f"{name} will run without Bartizan again{_RESTORED[undone.how]}"
        return Change(path, before, undone.after, says, undone.how)
    url = _url(given)
    if client.http is None:
        raise Usage(
            "connect_http",
            f"{client.title}'s file takes commands, not URLs",
            fix="--wrap a server that stands there; or add the URL in its settings",
        )
    name = given.name or _name_of(url)
    entry = {**client.http(url)}
    after = json_edit.set_member(before or "", (client.key, name), entry)
    return Change(path, before, after, f"{name} will call {url}, and sign in with the browser at first use")


def run_name(name: str) -> str:
    """Return the name that a client's server has as a run."""
    return name_for([name])


def wrapped(name: str, entry: Entry, program: str, cage: list[str]) -> Entry:
    """Return a client's entry that starts ``bartizan run`` in front of what it started or called.

    The names of its variables go on to the child; their values stay where they stood. Members that we do not
    know are kept. Raises Usage("connect_wrapped") where it is guarded already, ConfigFault("client_entry")
    for one that cannot be guarded as it stands.
    """
    if _is_ours(entry):
        raise Usage("connect_wrapped", f"{name} is guarded already", fix="--remove it first to change it")
    options = ["run", "--name", run_name(name), *cage]
    url = next((entry[key] for key in ("url", "serverUrl", "httpUrl") if isinstance(entry.get(key), str)), "")
    if url:
        return _wrapped_url(name, entry, program, options, url)
    command, arguments = entry.get("command"), entry.get("args", [])
    if (
        not isinstance(command, str)
        or not isinstance(arguments, list)
        or not all(isinstance(a, str) for a in arguments)
    ):
        raise ConfigFault("client_entry", f"{name} has no command that we understand", fix="edit it by hand")
    variables = entry.get("env") or {}
    if not isinstance(variables, dict):
        raise ConfigFault("client_entry", f"{name}: env is no object", fix="mend it by hand")
    for variable in variables:
        options += ["--env", variable]
    made: Entry = {}
    for key, value in entry.items():
        made[key] = program if key == "command" else [*options, "--", command, *arguments] if key == "args" else value
    made.setdefault("args", [*options, "--", command])
    return made


def _wrapped_url(name: str, entry: Entry, program: str, options: list[str], url: str) -> Entry:
    headers = entry.get("headers") or {}
    bearer = headers.get("Authorization", "") if isinstance(headers, dict) else ""
    if headers and (not isinstance(headers, dict) or len(headers) > 1 or not str(bearer).startswith("Bearer ")):
        raise ConfigFault(
            "client_entry",
            f"{name} sends headers of its own",
            fix="put the server into bartizan.yaml, with a credential",
        )
    if not is_url(url):
        raise ConfigFault("client_entry", f"{name}: its URL is made by the client", fix="write it out, then wrap it")
    kept = {key: value for key, value in entry.items() if key not in ("url", "serverUrl", "httpUrl", "headers", "type")}
    made: Entry = {"type": "stdio"} if "type" in entry else {}
    if bearer:
        options = [*options, "--credential-env", TOKEN_VARIABLE]
        kept["env"] = {**(kept.get("env") or {}), TOKEN_VARIABLE: str(bearer).removeprefix("Bearer ")}
    return {**made, "command": program, "args": [*options, url], **kept}


def unwrapped(entry: Entry, client: Client) -> Entry | None:
    """Return what a wrapped entry was before, None where it is not one."""
    if not _is_ours(entry):
        return None
    arguments = entry["args"]
    if "--" in arguments:
        command, *rest = arguments[arguments.index("--") + 1 :]
        made: Entry = {}
        for key, value in entry.items():
            made[key] = command if key == "command" else rest if key == "args" else value
        return made
    if not is_url(arguments[-1]) or client.http is None:
        return None
    kept = {key: value for key, value in entry.items() if key not in ("command", "args", "type", "env")}
    variables = dict(entry.get("env") or {})
    token = variables.pop(TOKEN_VARIABLE, None)
    made = {**client.http(arguments[-1]), **kept}
    if token is not None:
        made["headers"] = {"Authorization": f"Bearer {token}"}
    if variables:
        made["env"] = variables
    return made


_RESTORED: Final[dict[undo.How, str]] = {
    "file": "; the whole file as it was, to the byte",
    "entry": "; it stands as you wrote it, in the file as it is now",
    "content": "; the rest of the file stays as it is",
}


def _was(name: str, old: object, plain: Entry, client: Client) -> bool:
    """Return whether an entry of a backup is the one that was guarded: undone, it says the same."""
    if not isinstance(old, dict) or _is_ours(old):
        return False
    try:
        return unwrapped(wrapped(name, old, "bartizan", []), client) == plain
    except (ConfigFault, Usage):
        return False


def _is_ours(entry: Entry) -> bool:
    command, arguments = entry.get("command"), entry.get("args")
    return (
        isinstance(command, str)
        and os.path.basename(command) in ("bartizan", "bartizan.exe")
        and isinstance(arguments, list)
        and len(arguments) > 1
        and arguments[0] == "run"
        and all(isinstance(a, str) for a in arguments)
    )


def _program(given: argparse.Namespace) -> str:
    """Return our own command: absolute for a user, whose desktop may know another PATH; bare in a shared project."""
    if given.scope == "project":
        return "bartizan"
    own = Path(sys.argv[0])
    if own.name == "bartizan" and own.is_file():
        return str(own.absolute())
    beside = Path(sys.executable).parent / "bartizan"
    return str(beside) if beside.is_file() else shutil.which("bartizan") or "bartizan"


def _cage(given: argparse.Namespace) -> list[str]:
    made = []
    for option, values in (("--read", given.read), ("--write", given.write)):
        for value in values:
            made += [option, os.path.abspath(os.path.expanduser(value))]
    for host in given.allow_host:
        made += ["--allow-host", host]
    return [*made, *(["--no-sandbox"] if given.no_sandbox else [])]


def _closed(given: argparse.Namespace, entry: Entry) -> tuple[str, ...]:
    """Return the paths among a wrapped command's arguments that its cage will not open."""
    command, arguments = entry.get("command"), entry.get("args", [])
    if given.no_sandbox or not isinstance(command, str):
        return ()
    try:
        told, script = with_script((find_program(command), *arguments))
    except ConfigFault:
        return ()  # it is not here; `run` says so
    granted = [os.path.realpath(os.path.expanduser(path)) for path in (*given.read, *given.write)]
    return closed_paths(told[1:], (*program_paths(told[0]), *script, *granted))


def _url(given: argparse.Namespace) -> str:
    if given.url:
        if not is_url(given.url):
            raise Usage("connect_url", "an endpoint is a URL", fix="such as http://127.0.0.1:8700/mcp")
        return str(given.url)
    return f"{load_config(given).public_url}/mcp"


def _name_of(url: str) -> str:
    last = url.rstrip("/").rpartition("/")[2]
    return f"bartizan-{last}" if last and last != "mcp" else "bartizan"


def _toml(given: argparse.Namespace, client: Client) -> str:
    url = _url(given)
    return f"[{client.key}.{given.name or _name_of(url)}]\nurl = {json.dumps(url)}"


# -- files -------------------------------------------------------------------------------------------------


def _load(client: Client, path: Path, given: argparse.Namespace) -> tuple[str | None, dict[str, Any]]:
    """Return a file's text and its object. Raises ConfigFault with a snippet for what we must not rewrite."""
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        return None, {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigFault(
            "client_file", f"{path}: {type(error).__name__}", fix="see whether it is yours and UTF-8"
        ) from None
    try:
        return text, json_edit.read(text)
    except Malformed as error:
        if error.code == "json_duplicate_key":
            raise ConfigFault("client_file", f"{path}: a key is written twice", fix="mend it by hand") from None
    why = "it has comments or is not plain JSON, and rewriting it would lose them"
    if given.wrap or given.remove:
        snippet = f"command {_program(given)}, args run --name {run_name(given.wrap or given.remove)} -- and what stands there now"
    else:
        url = _url(given)
        entry = client.http(url) if client.http else {}
        snippet = json_edit.render({client.key: {given.name or _name_of(url): entry}})
    raise _paste(client, path, snippet, why)


def _paste(client: Client, path: Path, snippet: str, why: str) -> ConfigFault:
    return ConfigFault("client_by_hand", f"{path}: {why}. Add this by hand:\n{snippet}", fix=f"edit {path}")


def _backups(path: Path) -> list[str]:
    """Return what `_write` kept beside a file, newest first; what cannot be read is none."""
    target = Path(os.path.realpath(path))
    texts = []
    for backup in sorted(target.parent.glob(f"{glob.escape(target.name)}.bartizan-*.bak"), reverse=True)[:BACKUPS]:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if backup.is_file() and not backup.is_symlink():
                texts.append(backup.read_bytes().decode())
    return texts


def _diff(change: Change) -> list[str]:
    before, after = ((text or "").splitlines() for text in (change.before, change.after))
    old = str(change.path) if change.before is not None else "(new file)"
    new = str(change.path) if change.after is not None else "(no file)"
    return list(difflib.unified_diff(before, after, old, new, lineterm="", n=3))


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise Usage("connect_ask", "nobody is here to agree", fix="look at it with --dry-run, then say --yes")
    note("Write this? [y/N] ")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _write(change: Change) -> Path | None:
    """Write the file whole or not at all, through a link to its target, with its rights; return the backup."""
    target = Path(os.path.realpath(change.path))
    backup = None
    mode = 0o600
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if change.before is not None:
            facts = target.stat()
            mode = stat.S_IMODE(facts.st_mode)
            if target.read_bytes().decode() != change.before:
                raise ConfigFault("client_file", f"{target} changed meanwhile", fix="do it again")
            stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
            backup = target.with_name(f"{target.name}.bartizan-{stamp}.bak")
            if backup.exists():
                backup = target.with_name(f"{target.name}.bartizan-{stamp}-{os.getpid()}.bak")
            _create(backup, change.before, mode)
        if change.after is None:
            target.unlink()
            return backup
        aside = target.with_name(f".{target.name}.bartizan-{os.getpid()}")
        aside.unlink(missing_ok=True)
        _create(aside, change.after, mode)
        aside.rename(target)
    except OSError as error:
        raise ConfigFault("client_file", f"{target}: {error.strerror}", fix="see whether you may write there") from None
    return backup


def _create(path: Path, text: str, mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(handle, "wb") as out:
        os.fchmod(handle, mode)
        out.write(text.encode())
        out.flush()
        os.fsync(handle)


def _list(given: argparse.Namespace) -> int:
    home, project = Path.home(), given.project.absolute()
    rows, facts = [], []
    for name, client in CLIENTS.items():
        for scope in ("user", "project"):
            path = client.file(scope, home, project)
            if path is None:
                continue
            servers = _servers(client, path)
            shown = ", ".join(f"{s} (guarded)" if guarded else s for s, guarded in servers.items())
            there = path.is_file()
            rows.append((name, client.title, scope, str(path), shown or ("no server" if there else "no file")))
            facts.append(
                {
                    "client": name,
                    "scope": scope,
                    "file": str(path),
                    "exists": there,
                    "servers": servers,
                    "tried": client.tried,
                }
            )
    lines = table(("CLIENT", "", "SCOPE", "FILE", "SERVERS"), rows, empty="")
    emit(
        given,
        {"clients": facts},
        [
            *lines,
            "",
            *_tried(),
            f"Every other one: {NOT_TRIED}. What is tested is the edit, and the command it writes.",
        ],
    )
    return 0


def _tried() -> list[str]:
    return [f"{client.title}: tried by hand with {client.tried}." for client in CLIENTS.values() if client.tried]


def _servers(client: Client, path: Path) -> dict[str, bool]:
    """Return the servers of a file and whether each is guarded; nothing of one that cannot be read."""
    if client.toml:
        return {}
    try:
        servers = json_edit.read(path.read_text()).get(client.key)
    except (OSError, UnicodeDecodeError, Malformed):
        return {}
    return (
        {name: isinstance(e, dict) and _is_ours(e) for name, e in servers.items()} if isinstance(servers, dict) else {}
    )
