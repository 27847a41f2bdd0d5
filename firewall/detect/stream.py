"""PatternStream: the ScanStream port. What is found never depends on how the text was cut.

Why that holds: no rule can match, nor its judge look, further than `REACH` bytes right of a start.
So once `STREAM_HOLD_CHARS` (more than REACH) code points have followed a place, everything that
starts there is settled. A rule's search resumes where its last match ended, as in one whole text;
matches that start in the unsettled end of the window wait. What may be longer than a match (the
body of a key block, the rest of a token) is reported in pieces of `PIECE` bytes at places that
depend on the text alone. Merged, the spans equal those of one whole scan (tested by splitting).

Cost: one block scan of the window (hold, context and the new text) per feed; nothing else unless a
rule is nominated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from firewall.core.bounds import STREAM_HOLD_CHARS
from firewall.core.errors import Malformed
from firewall.core.finding import Finding
from firewall.detect.match import expression, run_end, value_span
from firewall.detect.patterns import RULES
from firewall.detect.rule import BEFORE, REACH, Rule, Seen, Verdict

PIECE: Final = 64  # bytes of an open tail that are reported at a time
MAX_FINDINGS: Final = 400  # of one stream; beyond it every further text is an overflow

assert STREAM_HOLD_CHARS > REACH + 1


@dataclass(slots=True)
class _Tail:
    """A value that may still run on: reported up to ``at`` (absolute bytes)."""

    rule: Rule
    verdict: Verdict
    at: int


@dataclass(slots=True)
class _Waiting:
    rule: Rule
    verdict: Verdict
    start: int
    end: int


class PatternStream:
    """One stream. Offsets inside are absolute bytes of its UTF-8; outside they are code points."""

    def __init__(
        self,
        nominate: Callable[[bytes, bool], list[int]],
        enabled: frozenset[int],
        digest: Callable[[str, bytes], str] | None,
        tenant: str,
    ) -> None:
        self._nominate = nominate
        self._enabled = enabled
        self._digest = digest
        self._tenant = tenant
        self._window = ""  # text from code point _chars / byte _bytes on
        self._chars = 0
        self._bytes = 0
        self._fed = 0  # code points
        self._done = 0  # absolute byte before which every start has been judged
        self._resume: dict[int, int] = {}  # rule index → absolute byte where its search goes on
        self._tails: dict[int, _Tail] = {}
        self._waiting: list[_Waiting] = []  # matched, but their value starts in the unsettled end
        self._strong: list[tuple[int, int]] = []  # spans of secrets that are no guess
        self._count = 0
        self._closed = False

    def feed(self, text: str) -> list[Finding]:
        """Take more text; return the findings that are settled by it. Raises Malformed("stream_closed")."""
        if self._closed:
            raise Malformed("stream_closed")
        if not text:
            return []
        self._window += text
        self._fed += len(text)
        return self._advance(closing=False)

    def calm(self, text: str) -> bool:
        """Take more text in which nothing can be found, or take nothing (see `core.ports.ScanStream`).

        No rule is nominated for the window and all of the text; what is found in any cut of it starts in there,
        with all that its rule may look at.
        """
        if self._closed:
            raise Malformed("stream_closed")
        if self._tails or self._waiting:
            return False
        window = self._window + text
        data = window.encode("utf-8", "replace")
        if not self._enabled.isdisjoint(self._nominate(data, False)):
            return False
        self._window = window
        self._fed += len(text)
        self._pass(data)
        return True

    def safe(self) -> int:
        """Return how many code points from the start are settled (see `core.ports.ScanStream`)."""
        if self._closed:
            return self._fed
        settled = max(0, self._fed - STREAM_HOLD_CHARS)
        if self._tails:
            data = self._window.encode("utf-8", "replace")
            settled = min(settled, *(self._point(data, tail.at) for tail in self._tails.values()))
        return settled

    def close(self) -> list[Finding]:
        """Take the end of the text; return the last findings."""
        if self._closed:
            return []
        out = self._advance(closing=True)
        self._closed = True
        return out

    # -- inside -----------------------------------------------------------------------------------

    def _point(self, data: bytes, at: int) -> int:
        """Return the code point offset of an absolute byte offset inside the window."""
        if len(data) == len(self._window):
            return self._chars + at - self._bytes
        return self._chars + len(data[: max(0, at - self._bytes)].decode("utf-8", "ignore"))

    def _advance(self, *, closing: bool) -> list[Finding]:
        data = self._window.encode("utf-8", "replace")
        base, end = self._bytes, self._bytes + len(data)
        nominated = self._enabled.intersection(self._nominate(data, False))
        if not nominated and not self._tails and not self._waiting:
            self._pass(data)
            return []
        settled = self._settled(data, closing)
        out: list[Finding] = []
        for index in list(self._tails):
            self._extend(index, data, base, end, closing, out)
        for index in sorted(nominated):
            self._search(index, data, base, end, settled, closing, out)
        self._waiting.sort(key=lambda w: (w.start, w.end, w.rule.id))
        ready = [w for w in self._waiting if w.start < settled]
        self._waiting = [w for w in self._waiting if w.start >= settled]
        self._strong += [(w.start, w.end) for w in ready if w.rule.category == "secret" and not w.rule.weak]
        for w in ready:
            if w.rule.weak and any(start <= w.start < stop for start, stop in self._strong):
                continue
            self._report(w.rule, w.verdict, w.start, w.end, data, base, out)
        self._strong = [span for span in self._strong if span[1] > settled]
        self._done = max(self._done, settled)
        self._trim(data, settled)
        return sorted(out, key=lambda f: (f.span or (0, 0), f.rule))

    def _pass(self, data: bytes) -> None:
        """Go on in text where nothing was nominated; what is settled is forgotten now and then."""
        if len(self._window) > 2 * STREAM_HOLD_CHARS:
            self._done = self._settled(data, closing=False)
            self._trim(data, self._done)

    def _settled(self, data: bytes, closing: bool) -> int:
        """Return the absolute byte before which every start is settled."""
        if closing:
            return self._bytes + len(data) + 1
        keep = len(self._window) - STREAM_HOLD_CHARS
        if keep <= 0:
            return self._bytes
        return self._bytes + (
            keep if len(data) == len(self._window) else len(self._window[:keep].encode("utf-8", "replace"))
        )

    def _trim(self, data: bytes, settled: int) -> None:
        """Forget settled text except `BEFORE` code points of context (and what a tail still needs)."""
        keep_from = min([settled, *(w.start for w in self._waiting)])
        drop = self._point(data, min(keep_from, self._bytes + len(data))) - self._chars - BEFORE
        if drop > 0:
            self._bytes += (
                drop if len(data) == len(self._window) else len(self._window[:drop].encode("utf-8", "replace"))
            )
            self._window = self._window[drop:]
            self._chars += drop

    def _search(
        self, index: int, data: bytes, base: int, end: int, settled: int, closing: bool, out: list[Finding]
    ) -> None:
        rule = RULES[index]
        search = expression(index).search
        # Never from before what is done: at the window's edge a match could lack its left neighbour.
        at = max(self._resume.get(index, 0), self._done, base) - base
        while at <= len(data):
            found = search(data, at)
            if found is None or (found.start() + base >= settled and not closing):
                break
            start, stop = value_span(found)
            after = max(found.end(), found.start() + 1)
            seen = Seen(data, start, stop, 0, len(data), found.start())
            verdicts = rule.verdicts(seen)
            for verdict in verdicts:
                self._waiting.append(_Waiting(rule, verdict, start + base, stop + base))
            if rule.tail:
                run = run_end(data, stop, len(data), rule.tail)
                if verdicts:
                    self._tails[index] = _Tail(rule, verdicts[0], stop + base)
                    self._extend(index, data, base, end, closing, out)
                after = max(after, run)
            at = after
            self._resume[index] = at + base

    def _extend(self, index: int, data: bytes, base: int, end: int, closing: bool, out: list[Finding]) -> None:
        """Report what has come of an open tail, in whole pieces; its end closes it."""
        tail = self._tails[index]
        stop = base + run_end(data, max(0, tail.at - base), len(data), tail.rule.tail)
        while stop - tail.at >= PIECE:
            self._report(tail.rule, tail.verdict, tail.at, tail.at + PIECE, data, base, out)
            tail.at += PIECE
        if stop < end or closing:
            if stop > tail.at:
                self._report(tail.rule, tail.verdict, tail.at, stop, data, base, out)
            del self._tails[index]
        self._resume[index] = max(self._resume.get(index, 0), stop)

    def _report(
        self, rule: Rule, verdict: Verdict, start: int, end: int, data: bytes, base: int, out: list[Finding]
    ) -> None:
        self._count += 1
        if self._count > MAX_FINDINGS:
            if self._count == MAX_FINDINGS + 1:
                out.append(Finding("SCAN-01", "scan.overflow", "hygiene", 100, "", "pattern.stream"))
            return
        value = data[start - base : end - base]
        out.append(
            Finding(
                control=verdict.control or rule.control,
                rule=verdict.rule,
                category=verdict.category or rule.category,
                severity=verdict.severity,
                pointer="",
                detector="pattern.stream",
                value_hmac=self._digest(self._tenant, value) if self._digest is not None else "",
                span=(self._point(data, start), self._point(data, end)),
            )
        )
