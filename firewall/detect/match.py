"""Where a nominated rule matches, string by string: leftmost matches of google-re2, judged.

Strings of one body lie in one buffer, a newline apart (`Buffer`). A match that crosses the border
of a string is looked for again inside each; the only rules that may see two strings are those of
family ``field``, and only an object's name with its value.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from firewall.detect.patterns import RULES
from firewall.detect.rule import Rule, Seen, Verdict, byte_expression

MAX_CANDIDATES: Final = 20_000  # judged matches of one scan; beyond it the scan says overflow
MAX_WORK_BYTES: Final = 64 << 20  # bytes that google-re2 reads in one scan
MAX_FOLDED: Final = 24 << 20  # code points read and made in folded views of one scan (`views.fold`)
_RUN_STEP: Final = 64 << 10


class Overflow(Exception):
    """A bound of inspection was reached: what was found so far is not all."""


@dataclass(slots=True)
class Budget:
    """What one scan may still spend."""

    candidates: int = MAX_CANDIDATES
    work: int = MAX_WORK_BYTES
    folded: int = MAX_FOLDED

    def read(self, n: int) -> None:
        """Take n bytes of matching; raises Overflow."""
        self.work -= n
        if self.work < 0:
            raise Overflow

    def fold(self, n: int) -> None:
        """Take n code points of folding; raises Overflow."""
        self.folded -= n
        if self.folded < 0:
            raise Overflow

    def judge(self) -> None:
        """Take one candidate; raises Overflow."""
        self.candidates -= 1
        if self.candidates < 0:
            raise Overflow


@dataclass(frozen=True, slots=True)
class Match:
    """One judged match: byte offsets of the value in the buffer, and which string holds it."""

    rule: Rule
    verdict: Verdict
    leaf: int
    start: int
    end: int


@dataclass(slots=True)
class Buffer:
    """Strings joined by a newline. key_of: the member name above each string, and whether it is one."""

    data: bytes
    starts: Sequence[int]
    ends: Sequence[int]
    key_of: Callable[[int], tuple[str, bool]] = field(default=lambda _leaf: ("", False))


@cache
def expression(index: int) -> Any:
    """Return the google-re2 expression of a rule, compiled on first use."""
    return byte_expression(RULES[index].pattern)


def value_span(match: Any) -> tuple[int, int]:
    """Return the span of group 1 where the expression has one that took part, else of the match."""
    if match.re.groups:
        span: tuple[int, int] = match.span(1)
        if span[0] >= 0:
            return span
    whole: tuple[int, int] = match.span()
    return whole


@cache
def _stops(tail: frozenset[int]) -> bytes:
    return bytes(0 if byte in tail else 1 for byte in range(256))


def run_end(data: bytes, at: int, limit: int, tail: frozenset[int]) -> int:
    """Return where the run of tail bytes that starts at ``at`` ends."""
    stops, step = _stops(tail), 64
    while at < limit:
        piece = data[at : min(at + step, limit)]
        stop = piece.translate(stops).find(1)
        if stop >= 0:
            return at + stop
        at += len(piece)
        step = min(4 * step, _RUN_STEP)
    return at


def matches(index: int, buffer: Buffer, budget: Budget) -> Iterator[Match]:
    """Yield a rule's judged matches in order. Raises Overflow."""
    rule = RULES[index]
    search = expression(index).search
    data, starts, ends = buffer.data, buffer.starts, buffer.ends
    at, size = 0, len(data)
    budget.read(size)
    while at <= size:
        found = search(data, at)
        if found is None:
            return
        start, end = found.span()
        leaf = bisect_right(starts, start) - 1
        low, high = starts[leaf], ends[leaf]
        if rule.family == "field":
            if not (
                end > high
                and buffer.key_of(leaf)[1]
                and leaf + 1 < len(starts)
                and end <= ends[leaf + 1]
                and start == low
            ):
                at = max(high, at) + 1
                continue
            key = buffer.key_of(leaf)[0]
            if buffer.key_of(leaf + 1) != (key, False):
                at = high + 1
                continue
            leaf, low, high = leaf + 1, starts[leaf + 1], ends[leaf + 1]
        elif start >= high and end > high:
            at = high + 1
            continue
        elif end > high:
            budget.read(high - start)
            found = search(data, start, high)
            if found is None:
                at = high + 1
                continue
            start, end = found.span()
        value_start, value_end = value_span(found)
        budget.judge()
        name, is_key = buffer.key_of(leaf)
        seen = Seen(
            data, value_start, value_end, min(low, start) if rule.family == "field" else low, high, start, name, is_key
        )
        if rule.tail:  # judged without it, as in a stream that has not seen it yet
            value_end = run_end(data, value_end, high, rule.tail)
        for verdict in rule.verdicts(seen):
            yield Match(rule, verdict, leaf, value_start, value_end)
        at = max(end, value_end, start + 1)
