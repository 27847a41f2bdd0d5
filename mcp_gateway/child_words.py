"""What local programs say on stderr: untrusted text, kept for the operator who asks why one does not start.

The first `LINES` of an upstream's last child, each cut at `LINE_CHARS`, in printable ASCII; whatever looks like
a secret, or is a value that we gave the child, is replaced. They stand in the node's store, so that every worker
and every command can show them, and go after `KEPT_S`. Nothing of it is logged, recorded, decided on, or shown to
a client; whoever shows it says whose words they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from firewall.core.errors import StateUnavailable
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.ports import Clock, Collection
from firewall.wire import strict_json

COLLECTION: Final = "mcp_child_words"
LINES: Final = 20
LINE_CHARS: Final = 200
KEPT_S: Final = 24 * 3600
WRITE_EVERY_S: Final = 1.0
REMOVED: Final = "[removed]"
_SHORTEST: Final = 6  # a value of a variable that is shorter is no secret, and stands in every other word

Mask = Callable[[str, tuple[str, ...]], tuple[str, ...]]
"""(tenant, lines) → the lines without what looks like a secret."""


@dataclass(frozen=True, slots=True)
class Words:
    """lines: as they may be shown. opened: the child got as far as its session. at_us: when they were noted."""

    lines: tuple[str, ...]
    opened: bool
    at_us: int


class ChildWords:
    """Keeps and finds them. rows: `COLLECTION` of the node's store. mask: see `Mask`."""

    def __init__(self, rows: Collection, clock: Clock, mask: Mask = lambda _tenant, lines: lines) -> None:
        self._rows = rows
        self._clock = clock
        self._mask = mask

    def of(self, tenant: str, upstream: str, given: Iterable[str] = ()) -> Ear:
        """Return what hears one child. given: values that we gave it and nobody else is to read."""
        return Ear(self, tenant, upstream, tuple(sorted({v for v in given if len(v) >= _SHORTEST}, key=len)[::-1]))

    def said(self, tenant: str, upstream: str) -> Words | None:
        """Return the first words of an upstream's last child, None without any. Raises StateUnavailable."""
        return read(self._rows, tenant, upstream)

    def note(self, tenant: str, upstream: str, text: bytes, given: tuple[str, ...], *, opened: bool) -> None:
        """Keep what a child has said so far. A store that cannot be written keeps nothing."""
        told = text.decode("utf-8", "replace")
        for one in given:
            told = told.replace(one, REMOVED)
        told = _without_end(told, given)
        lines = self._mask(tenant, tuple(told.splitlines()[:LINES]))
        now_us = self._clock.now_us()
        value: JSONObject = {"lines": [escaped(line) for line in lines], "opened": opened, "at_us": now_us}
        try:
            self._rows.put(tenant, upstream, strict_json.dumps(value), expires_us=now_us + KEPT_S * 1_000_000)
        except StateUnavailable:
            return

    def now_s(self) -> float:
        """Return the monotonic time, seconds."""
        return self._clock.monotonic_ns() / 1e9


class Ear:
    """Hears one child."""

    __slots__ = ("_book", "_due_s", "_first", "_given", "_tenant", "_unwritten", "_upstream", "opened")

    def __init__(self, book: ChildWords, tenant: str, upstream: str, given: tuple[str, ...]) -> None:
        self._book = book
        self._tenant = tenant
        self._upstream = upstream
        self._given = given
        self._first = bytearray()
        self._due_s = float("-inf")
        self._unwritten = True  # a child that says nothing replaces what the one before said
        self.opened = False

    def hear(self, data: bytes) -> None:
        """Take what a child said; written now and then, and at the end."""
        room = LINES * LINE_CHARS - len(self._first)
        if room > 0:
            self._first += data[:room]
            self._unwritten = True
            if self._book.now_s() >= self._due_s:
                self.write()

    def open(self) -> None:
        """Note that its session is open."""
        self.opened = self._unwritten = True

    def write(self) -> None:
        """Keep what was heard so far."""
        if self._unwritten:
            self._unwritten = False
            self._due_s = self._book.now_s() + WRITE_EVERY_S
            self._book.note(self._tenant, self._upstream, bytes(self._first), self._given, opened=self.opened)


def read(rows: Collection, tenant: str, upstream: str) -> Words | None:
    """Return what stands in a store, None without any. Raises StateUnavailable."""
    row = rows.get(tenant, upstream)
    if row is None:
        return None
    value = strict_json.loads(row.value)
    lines: JSON = value.get("lines") if isinstance(value, dict) else None
    at_us: JSON = value.get("at_us") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(lines, list) or not isinstance(at_us, int):
        return None
    return Words(tuple(line for line in lines if isinstance(line, str)), value.get("opened") is True, at_us)


def _without_end(told: str, given: tuple[str, ...]) -> str:
    """Return a text without the beginning of a value of ours at its end: there what was heard is cut."""
    for one in given:
        for size in range(min(len(one) - 1, len(told)), _SHORTEST - 1, -1):
            if told.endswith(one[:size]):
                return told[: len(told) - size] + REMOVED
    return told


def escaped(line: str) -> str:
    """Return a line of untrusted text as printable ASCII, cut."""
    told = "".join(c if " " <= c <= "~" else c.encode("unicode_escape").decode("ascii") for c in line)
    return told if len(told) <= LINE_CHARS else told[: LINE_CHARS - 3] + "..."
