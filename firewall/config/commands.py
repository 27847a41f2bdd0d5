"""What in a local program's command deserves a second look (MCP security best practices, LO-3). Pure.

Commands come from configuration, so an operator wrote or copied each of them; this names the shapes in
which copied ones hide something: a shell, another user, deletion, a download that is run, code from the
network by version range, and the places where keys lie. A remark, never a refusal: what a program may
do is held by its walls.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Final

_SHELLS: Final = frozenset(
    {"sh", "bash", "dash", "zsh", "ksh", "fish", "ash", "busybox", "cmd.exe", "powershell", "pwsh"}
)
_OTHER_USER: Final = frozenset({"sudo", "su", "doas", "pkexec", "runuser", "setpriv", "nsenter", "unshare", "chroot"})
_NETWORK: Final = frozenset({"curl", "wget", "nc", "ncat", "netcat", "socat", "ssh", "scp", "rsync", "telnet"})
_RUNNERS: Final = frozenset({"npx", "bunx", "pnpx", "uvx", "pipx"})
_PRIVATE: Final = (
    ".ssh",
    ".aws",
    ".gnupg",
    ".kube",
    ".docker",
    ".netrc",
    ".npmrc",
    ".pypirc",
    ".env",
    ".git-credentials",
)
_BROAD: Final = frozenset({"/", "~", "$HOME", "/home", "/root", "/etc", "/var", "/proc", "/sys", "/dev"})
_INLINE: Final = frozenset({"-c", "-e", "--eval", "-Command", "-EncodedCommand"})


def remarks(command: Sequence[str], paths: Sequence[str] = ()) -> tuple[str, ...]:
    """Return what is doubtful, each in a few words of ours; nothing of the command is repeated.

    paths: what the program may read and write by configuration.
    """
    found: list[str] = []
    words = [word for argument in command for word in argument.replace("|", " | ").replace(";", " ; ").split()]
    names = [PurePosixPath(word).name for word in words]
    program = PurePosixPath(command[0]).name if command else ""
    if program in _SHELLS and not _INLINE.isdisjoint(command):
        found.append("it runs a line of shell")
    elif not _INLINE.isdisjoint(command[1:]) and len(max(command, key=len)) > 80:
        found.append("it carries its code in an argument")
    if not _OTHER_USER.isdisjoint(names):
        found.append("it changes its user or its namespaces")
    if "rm" in names and any(word.startswith("-") and "r" in word.lower() for word in words):
        found.append("it deletes directories")
    if not _NETWORK.isdisjoint(names):
        found.append("it talks to the network by a tool of its own")
    if "|" in words and not (_SHELLS | {"python", "python3", "node", "perl"}).isdisjoint(names[1:]):
        found.append("it runs what it has just received")
    if program in _RUNNERS and not any(_pinned(word) for word in command[1:]):
        found.append("it fetches a program without a fixed version")
    if any(part in _PRIVATE for word in (*words, *paths) for part in PurePosixPath(word).parts):
        found.append("it names a place where keys lie")
    if any(place.rstrip("/") in _BROAD or place == "/" for place in (*command[1:], *paths)):
        found.append("it is given a whole home or system directory")
    return tuple(found)


def _pinned(word: str) -> bool:
    """Return whether a package name carries a whole version (``name@1.2.3``, ``name==1.2.3``)."""
    version = word.rpartition("@")[2] if "@" in word[1:] else word.rpartition("==")[2] if "==" in word else ""
    parts = version.split(".")
    return len(parts) >= 3 and all(part[:1].isdigit() for part in parts[:3])
