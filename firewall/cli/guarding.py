"""What `run` and `connect` know of local MCP servers: a name for one, where its runs keep state, what its program needs.

Nothing here looks into the working directory: a program is found on the absolute entries of PATH, or named.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from firewall.core.errors import ConfigFault

# Programs that fetch a package and run it → the variables that say where from. What one of them names is open to
# the program; nothing else is, and no index is known to us by heart.
FETCHERS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("npx", "npm", "pnpm", "pnpx", "bunx", "yarn"), ("npm_config_registry", "NPM_CONFIG_REGISTRY")),
    **dict.fromkeys(("uvx", "uv", "pipx"), ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")),
}
_LAUNCHERS: Final = frozenset(
    {*FETCHERS, "node", "bun", "deno", "python", "python3", "docker", "podman", "env", "sh", "bash"}
)
_INTERPRETERS: Final = frozenset({"python", "node", "bun", "deno", "sh", "bash", "ruby", "perl", "php", "java"})
_MANIFESTS: Final = ("package.json", "deno.json")  # beside them lies what a script imports
_WORDS: Final = frozenset({"run", "exec", "dlx", "tool", "x", "-m", "-y", "--yes", "-i", "--rm", "--from"})
_AFFIXES: Final = ("modelcontextprotocol-", "mcp-server-", "server-", "mcp-")
NAME_CHARS: Final = 40


def is_url(text: str) -> bool:
    """Return whether a target is an address rather than a program."""
    return text.startswith(("http://", "https://"))


def name_for(target: Sequence[str]) -> str:
    """Return a name for a server: ``npx -y @modelcontextprotocol/server-everything`` is ``everything``.

    target: a URL alone, or a program and its arguments. The result is lower-case letters, digits and
    single hyphens, starts with a letter, and has at most 40 characters; ``server`` where nothing is left.
    """
    if len(target) == 1 and is_url(target[0]):
        labels = (urlsplit(target[0]).hostname or "").split(".")
        plain = [label for label in labels if label not in ("mcp", "api", "www", "") and not label.isdigit()]
        return _tidy(plain[0] if plain else "server")
    for word in target:
        base = os.path.basename(word.rstrip("/"))
        stem = base.rpartition(".")[0] if base.endswith((".py", ".js", ".mjs", ".cjs", ".ts")) else base
        versioned = stem[:1] + stem[1:].partition("@")[0]
        told = versioned.rstrip("0123456789.") if versioned.startswith("python") else versioned
        if word in _WORDS or word.startswith("-") or told in _LAUNCHERS or "=" in word:
            continue
        if stem in ("index", "main", "server", "__main__", "cli") and "/" in word:
            parts = [part for part in Path(word).parts[:-1] if part not in ("dist", "build", "src", "bin", "lib")]
            versioned = parts[-1] if parts else stem
        return _tidy(versioned)
    return "server"


def _tidy(text: str) -> str:
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in text.lower())
    name = "-".join(part for part in kept.split("-") if part)
    for affix in _AFFIXES:
        name = name.removeprefix(affix)
    name = name.removesuffix("-mcp").removesuffix("-server").removesuffix("-mcp")
    name = name[:NAME_CHARS].strip("-").lstrip("0123456789-")
    return name or "server"


def run_root(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where every run's state stands: ``bartizan/run`` in the user's state directory (XDG Base Directory).

    A relative XDG_STATE_HOME is ignored, as that specification says. Raises ConfigFault("no_home").
    """
    base = environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(base):
        return Path(base) / "bartizan" / "run"
    home = environ.get("HOME", "")
    if not os.path.isabs(home):
        raise ConfigFault("no_home", "neither HOME nor XDG_STATE_HOME is set", fix="say --state-dir")
    return Path(home) / ".local" / "state" / "bartizan" / "run"


def run_state(name: str) -> Path:
    """Return the state directory of the runs of one name."""
    return run_root() / name


def find_program(word: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return the absolute path of a program. Raises ConfigFault("command_missing").

    A bare word is looked up on PATH, of which entries that are not absolute do not count: a program that lies
    in the working directory is run when it is named as ``./program``, and never by accident.
    """
    if os.sep in word:
        path = os.path.abspath(word)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
        why = "there is no such file" if not os.path.exists(path) else "it is not a program that you may run"
        raise ConfigFault("command_missing", f"{path}: {why}", fix="name the program by its absolute path")
    entries = [entry for entry in environ.get("PATH", "").split(os.pathsep) if os.path.isabs(entry)]
    found = shutil.which(word, path=os.pathsep.join(entries)) if entries else None
    if found is None:
        hint = {"npx": "install Node.js", "uvx": "install uv"}.get(word, "install it")
        raise ConfigFault(
            "command_missing", f"{word}: not found on PATH", fix=f"{hint}, or name the program by its absolute path"
        )
    return found


def fetched_from(program: str, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables, with their values, that tell a fetching program its package index."""
    names = FETCHERS.get(os.path.basename(program), ())
    return {name: environ[name] for name in names if is_url(environ.get(name, ""))}


def with_script(command: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the command with its script made absolute, and what that script needs to read.

    A script is the first plain argument of an interpreter, where it is a file. It was named by whoever started us;
    with it come its project (the nearest folder above that has a manifest), else its folder, never a home.
    """
    program, *arguments = command
    base = os.path.basename(program)
    told = base.rstrip("0123456789.") if base.startswith("python") else base
    if told not in _INTERPRETERS:
        return tuple(command), ()
    for at, word in enumerate(arguments):
        if word in ("-m", "-c", "-e", "--eval", "-p", "--print", "-"):
            break
        if word.startswith("-") or word == "run":
            continue
        path = os.path.abspath(word)
        if not os.path.isfile(path):
            break
        return (program, *arguments[:at], path, *arguments[at + 1 :]), (_project_of(path),)
    return tuple(command), ()


def closed_paths(arguments: Sequence[str], opened: Sequence[str]) -> tuple[str, ...]:
    """Return what a command's arguments name on this machine and its cage does not open: absolute paths, also ``--x=/path``."""
    found: list[str] = []
    for word in arguments:
        path = word.partition("=")[2] if word.startswith("-") else word
        if not os.path.isabs(path) or not os.path.exists(path):
            continue
        real = os.path.realpath(path)
        if not _is_system(real) and not any(real == tree or real.startswith(f"{tree}/") for tree in opened):
            found.append(path)
    return tuple(dict.fromkeys(found))


def closed_words(paths: Sequence[str]) -> str:
    """Return what to say about such paths, "" where there is none."""
    if not paths:
        return ""
    options = " ".join(f"--read {path}" for path in paths)
    return f"its arguments name {', '.join(paths)}, which it cannot see: {options}, or --write"


def _project_of(path: str) -> str:
    folder = os.path.dirname(os.path.realpath(path))
    outside, modules, _ = folder.partition(f"{os.sep}node_modules{os.sep}")
    if modules:  # a package's dependencies may lie beside it
        return os.path.join(outside, "node_modules")
    for candidate in (folder, *(str(above) for above in list(Path(folder).parents)[:3])):
        if any(os.path.exists(os.path.join(candidate, name)) for name in _MANIFESTS) and not _is_broad(candidate):
            return candidate
    return os.path.realpath(path) if _is_broad(folder) else folder


def program_paths(program: str) -> tuple[str, ...]:
    """Return the trees that a program needs to read of its own installation, beside system directories.

    A virtual environment and the interpreter that it names, a Node.js or Python prefix, and the same of the
    interpreter in a script's first line. Never a whole home directory.
    """
    found: set[str] = set()
    _own_trees(program, found, depth=0)
    return tuple(sorted(found))


def _own_trees(program: str, found: set[str], depth: int) -> None:
    if depth > 3:
        return
    for path in {program, os.path.realpath(program)}:
        folder = os.path.dirname(path)
        prefix = os.path.dirname(folder)
        if not _is_system(folder):
            found.add(folder)
        if os.path.basename(folder) != "bin" or _is_broad(prefix):
            continue
        if os.path.exists(os.path.join(prefix, "pyvenv.cfg")):
            found.add(prefix)
            python = os.path.realpath(os.path.join(prefix, "bin", "python"))
            base = os.path.dirname(os.path.dirname(python))
            if not _is_broad(base):
                found.add(base)
        elif _has_runtime(prefix):
            found.add(prefix)
    interpreter = _interpreter(program)
    if interpreter:
        _own_trees(interpreter, found, depth + 1)


def _has_runtime(prefix: str) -> bool:
    library = os.path.join(prefix, "lib")
    try:
        inside = os.listdir(library)
    except OSError:
        return False
    return any(entry == "node_modules" or entry.startswith("python3") for entry in inside)


def _interpreter(program: str) -> str:
    try:
        with open(program, "rb") as file:
            first = file.readline(512)
    except OSError:
        return ""
    if not first.startswith(b"#!"):
        return ""
    path = os.fsdecode(first[2:].strip().split(b" ")[0])
    return path if os.path.isabs(path) else ""


def _is_system(folder: str) -> bool:
    return any(folder == root or folder.startswith(f"{root}/") for root in ("/usr", "/bin", "/sbin", "/lib", "/opt"))


def _is_broad(prefix: str) -> bool:
    """Return whether a tree is the system's, holds the user's home, or is where programs of all kinds lie."""
    home = os.path.realpath(os.path.expanduser("~"))
    real = os.path.realpath(prefix)
    return _is_system(real) or real == "/" or home == real or home.startswith(f"{real}/") or real == f"{home}/.local"
