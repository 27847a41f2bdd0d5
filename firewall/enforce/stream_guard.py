"""Stream guard: text that arrives in pieces leaves only when it can no longer be part of a finding.

Pieces (wire events) wait in order; the stream's inspector says how much of the text is safe; what
is safe leaves. A finding asks policy once more, at the stream's own point:

    allow      → go on
    transform  → spans of the finding are cut out of the waiting pieces, then they go on
    approve, deny → Stop: nothing that waits is released, the caller ends the stream and the upstream

A hidden character that held two words apart leaves `GAP` behind: without it the cut itself could put
a key together that the inspector, which read the text as it came, never saw. The kill switch is asked
before anything is released.

What is released never depends on how the network cut the text (DESIGN §8); how much waits is
bounded by `bounds.STREAM_HOLD_CHARS` of text and `MAX_WAITING` pieces.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from firewall.core.action import Action
from firewall.core.decision import Effect, Obligation
from firewall.core.errors import FAULTS, AuditUnavailable, PolicyFault
from firewall.core.exchange import Exchange
from firewall.core.finding import Finding
from firewall.core.jsonvalue import JSON, Path, get, replaced
from firewall.core.permit import Cleared, Permit, Refusal
from firewall.enforce.guard import Guard
from firewall.enforce.obligations import marker
from firewall.wire import strict_json

MAX_WAITING: Final = 4096
SHAPES: Final = 64  # of events around their text, that are inspected once in a stream
GAP: Final = "\ufffd"


@dataclass(slots=True)
class _Piece:
    body: JSON
    text_at: Path
    start: int
    end: int


class StreamGuard:
    """One stream. Make it with `open_stream`; feed every event in order; finish it."""

    def __init__(self, guard: Guard, action: Action, exchange: Exchange, opening: Permit) -> None:
        self._guard = guard
        self._action = action
        self._exchange = exchange
        self._opening = opening
        self._decision_id = opening.decision_id
        self._inspector = guard.scanner.open_stream(action.point, action.principal.tenant)
        self._waiting: deque[_Piece] = deque()
        self._fed = 0
        self._released = 0
        self._last = ""  # the character before the first waiting piece, as it came
        self._cuts: list[tuple[int, int, str]] = []
        self._stopped: Refusal | None = None
        self._plain: set[bytes] = set()  # what stood around a text, and was inspected without a finding
        self._blank: JSON = {**action.body, "text": ""} if isinstance(action.body, dict) else {"text": ""}

    async def feed(self, body: JSON, text_at: Path = (), text: str = "") -> list[Cleared] | Refusal:
        """Take one event; return the events that may leave now, in order, or the refusal.

        body: the whole wire event, rebuilt by the gateway from the members it knows.
        text_at: where its streamed text stands in ``body``; () for an event without any.
        After a refusal every call returns that refusal.
        """
        if self._stopped is not None:
            return self._stopped
        killed = self._guard.stopped(self._action, self._exchange)
        if killed is not None:
            return self._stop(killed)
        if len(self._waiting) >= MAX_WAITING:
            return self._stop(Refusal(FAULTS["upstream_too_large"], self._decision_id))
        rest = replaced(body, text_at, "") if text_at else body
        shape = strict_json.dumps(rest)
        findings = [] if shape in self._plain else self._scan(rest)
        if not findings:
            if len(self._plain) < SHAPES:
                self._plain.add(shape)
        else:
            action = replace(self._action, body=rest)
            permit = await self._guard.check_remote(action, self._exchange, findings)
            verdict = permit if isinstance(permit, Refusal) else self._guard.commit(permit, self._exchange)
            if isinstance(verdict, Refusal):
                return self._stop(verdict)
            try:
                await self._guard.settle(verdict)
            except AuditUnavailable:
                return self._stop(Refusal(FAULTS["audit_unavailable"], verdict.decision_id))
            if verdict.body is not rest:
                body = replaced(verdict.body, text_at, text) if text_at else verdict.body
        start = self._fed
        if text_at and text:
            self._fed += len(text)
            refusal = await self._judge(self._inspector.feed(text))
            if refusal is not None:
                return refusal
        self._waiting.append(_Piece(body, text_at, start, self._fed))
        return self._release(self._inspector.safe())

    def feed_calm(self, pieces: Sequence[tuple[JSON, Path, str]]) -> list[Cleared] | None:
        """Take events that are there together, as `feed` would one by one, or take none of them and return None.

        pieces: body, place and text of each, as for `feed`. None: something may be found in them, around a text
        stands what was not inspected yet, or the stream is stopped; `feed` says which.
        """
        if self._stopped is not None or len(self._waiting) + len(pieces) > MAX_WAITING:
            return None
        killed = self._guard.stopped(self._action, self._exchange)
        if killed is not None:
            self._stop(killed)
            return None
        for body, text_at, _ in pieces:
            if strict_json.dumps(replaced(body, text_at, "") if text_at else body) not in self._plain:
                return None
        if not self._inspector.calm("".join([text for _, text_at, text in pieces if text_at])):
            return None
        for body, text_at, text in pieces:
            start = self._fed
            if text_at:
                self._fed += len(text)
            self._waiting.append(_Piece(body, text_at, start, self._fed))
        return self._release(self._inspector.safe())

    async def finish(self) -> list[Cleared] | Refusal:
        """Take the end of the stream; return everything that still waited, or the refusal."""
        if self._stopped is not None:
            return self._stopped
        refusal = await self._judge(self._inspector.close())
        return refusal if refusal is not None else self._release(self._fed)

    def follow(self) -> StreamGuard:
        """Return the guard of a further text of the same stream, under the same opening decision.

        To be called when this one is finished: what a place holds apart (a model's thinking and its
        answer) is not read as one text. A stream that was stopped stays stopped.
        """
        made = StreamGuard(self._guard, self._action, self._exchange, self._opening)
        made._stopped = self._stopped
        return made

    def _scan(self, body: JSON) -> list[Finding]:
        return self._guard.scanner.scan(body, self._action.point, self._action.principal.tenant)

    async def _judge(self, findings: list[Finding]) -> Refusal | None:
        if not findings:
            return None
        action = replace(self._action, body=self._blank)
        placed = [replace(f, pointer="/text") for f in findings]
        verdict = await self._guard.decide_stream(action, self._exchange, placed)
        if isinstance(verdict, Refusal):
            return self._stop(verdict)
        if verdict.effect is Effect.TRANSFORM:
            self._cut(placed, verdict.obligations)
        return None

    def _cut(self, findings: list[Finding], obligations: tuple[Obligation, ...]) -> None:
        kinds = {o.type for o in obligations if o.params.get("pointer") == "/text"}
        for found in findings:
            if found.span is None:
                continue
            if found.category == "hygiene" and "clean" in kinds:
                self._cuts.append((*found.span, GAP))
            elif found.category != "hygiene" and "redact" in kinds:
                self._cuts.append((*found.span, marker(found.rule)))
        self._cuts.sort()

    def _release(self, safe: int) -> list[Cleared]:
        out: list[Cleared] = []
        while self._waiting and self._waiting[0].end <= safe:
            piece = self._waiting.popleft()
            body = piece.body
            if piece.end > piece.start:
                text = _text(piece)
                if self._cuts:
                    body = replaced(body, piece.text_at, self._rewritten(text, piece.start))
                self._last = text[-1:]
            self._released = piece.end
            out.append(self._guard._clear_piece(body, self._exchange, self._decision_id))
        return out

    def _rewritten(self, text: str, start: int) -> str:
        """Return a piece's text with the cuts applied; a marker stands where its cut begins."""
        out: list[str] = []
        at, end = start, start + len(text)
        for cut_start, cut_end, mark in self._cuts:
            if cut_end <= at or cut_start >= end:
                continue
            begin = max(cut_start, at)
            out.append(text[at - start : begin - start])
            if cut_start >= start and (mark != GAP or self._holds_apart(text, start, cut_start, cut_end)):
                out.append(mark)
            at = min(cut_end, end)
        out.append(text[at - start :])
        return "".join(out)

    def _holds_apart(self, text: str, start: int, cut_start: int, cut_end: int) -> bool:
        """Return whether what stands on both sides of a cut, as it came, is neither space nor an end."""
        before = text[cut_start - start - 1] if cut_start > start else self._last
        after = text[cut_end - start : cut_end - start + 1]
        for piece in self._waiting if not after else ():
            if piece.start <= cut_end < piece.end:
                after = _text(piece)[cut_end - piece.start]
                break
        # Python's own idea of white space holds control characters, which are cut themselves.
        return bool(before.strip(" \t\r\n") and after.strip(" \t\r\n"))

    def _stop(self, refusal: Refusal) -> Refusal:
        self._stopped = refusal
        self._waiting.clear()
        return refusal


def _text(piece: _Piece) -> str:
    text = get(piece.body, piece.text_at)
    if not isinstance(text, str):
        raise PolicyFault("obligation_failed", "streamed text is not a string")
    return text


async def open_stream(guard: Guard, action: Action, exchange: Exchange) -> StreamGuard | Refusal:
    """Decide whether a stream may begin, record it, and return its guard.

    action: at the stream's point; ``body`` describes the stream ({} or its opening object).
    """
    verdict = await guard.check_remote(action, exchange)
    if isinstance(verdict, Refusal):
        return verdict
    cleared = guard.commit(verdict, exchange)
    if isinstance(cleared, Refusal):
        return cleared
    try:
        await guard.settle(cleared)
    except AuditUnavailable:
        return Refusal(FAULTS["audit_unavailable"], cleared.decision_id)
    return StreamGuard(guard, action, exchange, verdict)
