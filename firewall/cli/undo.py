"""What ``bartizan connect --remove`` makes of a client's file: as it was where that is known, else the smallest edit.

The backups beside the file say what it was. Nothing is remembered elsewhere: where setting the one entry in a backup
gives exactly the bytes that stand in the file now, nobody has edited it since, and the backup is what it was. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from firewall.cli import json_edit
from firewall.core.errors import Malformed

How = Literal["file", "entry", "content"]


@dataclass(frozen=True, slots=True)
class Undone:
    """after: the file's text, None: no file. how: what is as it was to the byte.

    ``file``: the whole file; ``entry``: the entry as it was written, in a file that was edited since; ``content``:
    what the entry says, in our spelling, or without it.
    """

    after: str | None
    how: How


def unwrap(
    text: str,
    path: tuple[str, str],
    entry: Any,
    plain: Any,
    fits: Callable[[Any], bool],
    backups: Sequence[str],
) -> Undone:
    """Return the file with an entry that is guarded as it was before.

    path: of the entry. entry: as it stands. plain: what it says without us. fits: whether an entry is one that,
    guarded, says what this one says. backups: newest first.
    """
    for backup in backups:
        if fits(_entry(backup, path)) and _set(backup, path, entry) == text:
            return Undone(backup, "file")
    for backup in backups:
        if fits(_entry(backup, path)):
            raw = json_edit.member_text(backup, path)
            if raw is not None:
                return Undone(json_edit.set_member_text(text, path, raw), "entry")
    return Undone(json_edit.set_member(text, path, plain), "content")


def remove(text: str, path: tuple[str, str], entry: Any, backups: Sequence[str]) -> Undone:
    """Return the file without an entry that was added; None for a file that was begun with it."""
    for backup in backups:
        if _entry(backup, path) is None and _set(backup, path, entry) == text:
            return Undone(backup, "file")
    if _set("", path, entry) == text:
        return Undone(None, "file")
    return Undone(json_edit.remove_member(text, path), "content")


def _entry(text: str, path: tuple[str, str]) -> Any:
    try:
        servers = json_edit.read(text).get(path[0])
    except Malformed:
        return None
    return servers.get(path[1]) if isinstance(servers, dict) else None


def _set(text: str, path: tuple[str, str], entry: Any) -> str | None:
    try:
        return json_edit.set_member(text, path, entry)
    except Malformed:
        return None
