"""The lock file: approved definitions as a file that is reviewed and kept beside the configuration.

``bartizan pins export`` writes it; ``lock:`` in the configuration makes it the only word on what is
approved, whatever a first contact trusted. JSON, keys sorted, everything but ASCII escaped: the same
approvals always give the same bytes, and a review sees every character.

    {"lock": 1, "upstreams": {UPSTREAM: {KIND: {NAME: {"digest", "title", "approved_by", "approved_at"}}}}}
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from firewall.core.errors import ConfigFault, Malformed
from firewall.core.jsonvalue import JSON
from firewall.wire import strict_json

VERSION: Final = 1
LOCK_BYTES: Final = 8 * 1024 * 1024
NAME: Final = "bartizan.lock"
TITLE_CHARS: Final = 120
_MEMBERS: Final = frozenset({"digest", "title", "approved_by", "approved_at"})
_HEX: Final = frozenset("0123456789abcdef")
_FIX: Final = "write it anew with `bartizan pins export`, or remove `lock` from the configuration"

Key = tuple[str, str, str]
"""(upstream, kind, name)."""


@dataclass(frozen=True, slots=True)
class Locked:
    """One approved definition. approved_at: RFC 3339, UTC; title and approved_by are for readers."""

    digest: str
    title: str = ""
    approved_by: str = ""
    approved_at: str = ""


@dataclass(frozen=True, slots=True)
class Lock:
    """What a lock file says."""

    entries: Mapping[Key, Locked] = field(default_factory=dict)

    def digest(self, upstream: str, kind: str, name: str) -> str:
        """Return the digest that is approved, "" when none is."""
        found = self.entries.get((upstream, kind, name))
        return found.digest if found is not None else ""


def render(entries: Iterable[tuple[Key, Locked]]) -> str:
    """Return the file's text: one member a line, sorted, ASCII."""
    upstreams: dict[str, dict[str, dict[str, JSON]]] = {}
    for (upstream, kind, name), locked in entries:
        upstreams.setdefault(upstream, {}).setdefault(kind, {})[name] = {
            "digest": locked.digest,
            "title": locked.title[:TITLE_CHARS],
            "approved_by": locked.approved_by,
            "approved_at": locked.approved_at,
        }
    document = {"lock": VERSION, "upstreams": upstreams}
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=True) + "\n"


def parse(data: bytes) -> Lock:
    """Return the lock in a file's bytes. Raises ConfigFault("lock_invalid"): one odd entry refuses all."""
    if len(data) > LOCK_BYTES:
        raise ConfigFault("lock_invalid", "it is too large", fix=_FIX)
    try:
        document = strict_json.loads(data)
    except Malformed as error:
        raise ConfigFault("lock_invalid", error.code, fix=_FIX) from None
    if not isinstance(document, dict) or document.keys() != {"lock", "upstreams"} or document["lock"] != VERSION:
        raise ConfigFault("lock_invalid", "it is not a lock of this version", fix=_FIX)
    entries: dict[Key, Locked] = {}
    for upstream, kinds in _object(document["upstreams"], "upstreams"):
        for kind, names in _object(kinds, upstream):
            for name, item in _object(names, f"{upstream}/{kind}"):
                entries[upstream, kind, name] = _locked(item, f"{upstream}/{kind}")
    return Lock(entries)


def read(path: Path) -> Lock:
    """Return the lock in a file. Raises ConfigFault: lock_missing, lock_invalid, lock_writable.

    Whoever can write the file approves definitions: a link, and a file that everybody may write, are refused.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigFault("lock_missing", f"{path}: {error.strerror}", fix=_FIX) from None
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o002:
            raise ConfigFault("lock_writable", str(path), fix=f"chmod o-w {path}")
        return parse(file.read(LOCK_BYTES + 1))


def _object(value: JSON, where: str) -> Iterable[tuple[str, JSON]]:
    if not isinstance(value, dict):
        raise ConfigFault("lock_invalid", f"{where[:80]}: an object is expected", fix=_FIX)
    return value.items()


def _locked(item: JSON, where: str) -> Locked:
    if not isinstance(item, dict) or item.keys() != _MEMBERS or not all(isinstance(v, str) for v in item.values()):
        raise ConfigFault("lock_invalid", f"{where[:80]}: an entry has other members", fix=_FIX)
    digest = str(item["digest"])
    algorithm, _, digits = digest.partition(":")
    if algorithm != "sha256" or len(digits) != 64 or not set(digits) <= _HEX:
        raise ConfigFault("lock_invalid", f"{where[:80]}: not a SHA-256 digest", fix=_FIX)
    return Locked(digest, str(item["title"]), str(item["approved_by"]), str(item["approved_at"]))
