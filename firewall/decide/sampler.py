"""Live differential check: while compiled code decides, some decisions are asked again of the interpreter.

Off the path: `offer` only puts a decision into a small queue; `drain` evaluates it later, on the
same thread, from a supervised task (``run``). Any difference switches the engine to the strict
interpreter for good and raises an alarm (DESIGN §6 Policy): whatever the self-test missed is then
wrong for at most one sampling interval.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import orjson

from firewall.core.errors import PolicyFault
from firewall.core.jsonvalue import JSON
from firewall.core.points import Point
from firewall.core.policy_input import PolicyInput, document_of
from firewall.decide.bundle import Bundle
from firewall.decide.program import Strict
from firewall.decide.regorus import RegorusEngine

QUEUE: Final = 32
INPUT_BYTES: Final = 64 * 1024  # larger inputs would cost the interpreter milliseconds; they are rare


@dataclass(frozen=True, slots=True)
class Difference:
    """What an alarm tells: the point, both effects ("" for no decision) and the revision; no content."""

    point: Point
    compiled: str
    interpreted: str
    revision: str


class SampledEngine:
    """A compiled engine that is watched (core.ports.PolicyEngine). One per thread, like what it wraps.

    every: one decision in so many is asked again; at least 1. alarm: called once, with the difference.
    """

    def __init__(
        self, engine: RegorusEngine, bundle: Bundle, *, every: int, alarm: Callable[[Difference], None]
    ) -> None:
        self._engine = engine
        self._every = max(1, every)
        self._alarm = alarm
        self._queue: deque[tuple[Point, bytes, bytes]] = deque(maxlen=QUEUE)
        self._strict = Strict(bundle.modules, bundle.data_json)
        self._wake = asyncio.Event()
        self.revision = engine.revision
        self.name = engine.name  # of what decides right now
        self.sampled = 0
        engine.watch(self._keep)  # the very first decision is a sample
        # Returns the engine's decision; now and then it is kept for `drain`. Raises PolicyFault.
        self.decide = engine.decide

    @property
    def mode(self) -> str:
        """``compiled`` or ``interpreter``."""
        return self._engine.mode

    def _keep(self, point: Point, question: PolicyInput | bytes, answer: bytes) -> int:
        """Keep a decision for `drain`; return in how many the next is wanted: at once, if this one was none to keep."""
        document = document_of(question)
        if self._engine.mode != "compiled" or len(document) > INPUT_BYTES:
            return 1
        self._queue.append((point, document, answer))
        self._wake.set()
        return self._every

    def drain(self, most: int = QUEUE) -> int:
        """Ask the interpreter about up to so many kept decisions; return how many. Never raises."""
        done = 0
        while self._queue and done < most:
            point, input_json, answer = self._queue.popleft()
            done += 1
            self.sampled += 1
            try:
                reference: bytes | None = self._strict.decide(point, input_json)
            except PolicyFault:
                reference = None
            if not same_document(answer, reference):
                self._engine.use_interpreter("a sampled decision differed from the interpreter's")
                self.name = self._engine.name
                self._queue.clear()
                self._alarm(Difference(point, _effect(answer), _effect(reference), self.revision))
        return done

    async def run(self) -> None:
        """Drain for ever, one decision at a time; to be spawned and cancelled by its owner."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            for _ in range(QUEUE):
                if not self.drain(1):
                    break
                await asyncio.sleep(0)  # let waiting requests go first


def same_document(answer: bytes, reference: bytes | None) -> bool:
    """Whether two decision documents say the same; lists from sets have no order that counts."""
    if reference is None:
        return False
    return answer == reference or _ordered(answer) == _ordered(reference)


def _ordered(answer: bytes) -> JSON:
    value = orjson.loads(answer)
    if not isinstance(value, dict):
        return None
    return {k: sorted(v, key=_text) if isinstance(v, list) else v for k, v in value.items()}


def _text(value: JSON) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _effect(answer: bytes | None) -> str:
    value = orjson.loads(answer) if answer is not None else None
    return str(value.get("effect", "")) if isinstance(value, dict) else ""
