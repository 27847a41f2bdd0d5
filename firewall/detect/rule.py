"""Rule: one pattern with its judge; Seen: what a pattern saw and its surroundings.

Patterns are bytes over UTF-8, in the syntax that hyperscan and RE2 share, without flags outside an
inline ``(?i)``. Two properties hold for every rule and are tested in tests/detect/test_patterns.py:

- It cannot match more than `REACH` bytes, so that a stream knows when a start is settled
  (`stream.py`); what may be longer than that continues in ``tail``.
- It looks at no text beyond `BEFORE` bytes left of its start and `REACH` bytes right of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import re2

from firewall.core.finding import Category

REACH: Final = 250  # bytes a match may span, and a judge may look at, counted from its start
BEFORE: Final = 64  # bytes of context left of a match

Family = Literal["hygiene", "secret", "field", "pii", "injection", "review", "egress", "path", "markup", "decode"]


class Verdict(NamedTuple):
    """A judge's word: which rule it is, and how severe (0–100)."""

    rule: str
    severity: int
    category: Category | None = None  # None: the rule's own
    control: str = ""  # "": the rule's own


@dataclass(slots=True)
class Seen:
    """A match inside one string: ``data[start:end]`` is the value, in UTF-8.

    low, high: bounds of the string in ``data``. key: the object member that holds the string
    (lower case), "" in a stream. is_key: the string is itself an object key.
    """

    data: bytes
    start: int
    end: int
    low: int
    high: int
    origin: int  # start of the whole match; the value may begin later
    key: str = ""
    is_key: bool = False

    @property
    def value(self) -> bytes:
        """Return the matched value."""
        return self.data[self.start : self.end]

    @property
    def text(self) -> str:
        """Return the matched value as text."""
        return self.data[self.start : self.end].decode("utf-8", "replace")

    def before(self, n: int = BEFORE) -> str:
        """Return up to n ≤ BEFORE bytes of the same string left of the match, as text."""
        return self.data[max(self.low, self.origin - n) : self.start].decode("utf-8", "ignore")

    def after(self, n: int = BEFORE) -> str:
        """Return up to n bytes right of the value, none further than REACH from the start."""
        return self.data[self.end : min(self.high, self.end + n, self.origin + REACH)].decode("utf-8", "ignore")

    @property
    def whole(self) -> bool:
        """Return whether the match is all of its string but for spaces."""
        return not self.data[self.low : self.start].strip() and not self.data[self.end : self.high].strip()


# Probes that many rules share; where one is nominated, a database of its own tells which of those rules it is.
# Six digits with at most three separators or capital letters between them, or four numbers with dots:
DIGITS: Final = (
    b"[0-9][ .()/A-Z-]{0,3}" * 5 + b"[0-9]"
    rb"|[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]",
)
# A run of a token's bytes, of rules that have no literal of three bytes and more:
RUN: Final = (rb"[A-Za-z0-9+/_-]{24}",)

Confirm = Callable[[Seen], bool]
Judge = Callable[[Seen], Sequence[Verdict]]


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """One pattern.

    pattern: group 1, where there is one, is the value; else the whole match is.
    confirm: a cheap check that must hold. judge: in its place, names the findings itself.
    tail: bytes that belong to the value when they follow it directly (unbounded run).
    weak: dropped where a finding of the same control that is not weak covers its start.
    probe: cheaper expressions for the database, one of which matches wherever this rule finds something; a pattern
        that begins with a wide class has no literal to look for and would slow every scan.
    """

    id: str
    control: str
    category: Category
    severity: int
    family: Family
    pattern: bytes
    confirm: Confirm | None = None
    judge: Judge | None = None
    tail: frozenset[int] = frozenset()
    weak: bool = False
    probe: tuple[bytes, ...] = ()

    def verdicts(self, seen: Seen) -> Sequence[Verdict]:
        """Return the findings of this match: none, one, or several."""
        if self.judge is not None:
            return self.judge(seen)
        if self.confirm is not None and not self.confirm(seen):
            return ()
        return (Verdict(self.id, self.severity),)


WORD: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")
TOKEN: Final = WORD | frozenset(b"-.=+/~%")


def byte_expression(pattern: bytes) -> Any:
    """Return google-re2's expression of a pattern over bytes (RE2 would read it as UTF-8 otherwise)."""
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    return re2.compile(pattern, options=options)
