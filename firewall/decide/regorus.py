"""The embedded engine: Rego inside this process, compiled where the bundle earned it, else interpreted.

The interpreter is strict. The compiled machine is four times as fast and is not, so a bundle runs
on it only with the profile and the self-test behind it: `bundle.load` decided that and says why.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal

from firewall.core.errors import PolicyFault
from firewall.core.points import INFO, Point
from firewall.core.policy_input import PolicyInput, document_of
from firewall.decide.bundle import Bundle
from firewall.decide.memo import Memo, is_blind, is_steady
from firewall.decide.program import Compiled, Strict

Mode = Literal["auto", "compiled", "interpreter"]
Sample = Callable[[Point, PolicyInput | bytes, bytes], int]
"""Takes a question and its answer; returns after how many decisions it wants the next."""


class RegorusEngine:
    """The embedded policy engine (core.ports.PolicyEngine). One per thread.

    mode: "auto" follows the bundle; "compiled" raises PolicyFault("policy_unavailable") for a bundle
        that may not run compiled; "interpreter" is always possible.
    ``mode`` and ``why`` say what runs and for what reason; ``fallbacks`` counts decisions where the
    compiled machine gave no answer and the interpreter was asked.
    """

    def __init__(self, bundle: Bundle, mode: Mode = "auto") -> None:
        if mode == "compiled" and bundle.mode != "compiled":
            raise PolicyFault("policy_unavailable", f"the bundle may not run compiled: {bundle.why}")
        self.revision = bundle.revision
        self.mode: Literal["compiled", "interpreter"] = bundle.mode if mode == "auto" else mode
        self.why = bundle.why if mode != "interpreter" else "asked for"
        self.fallbacks = 0
        self._bundle = bundle
        self._owner = threading.get_ident()
        self._strict: Strict | None = None
        self._sample: Sample | None = None
        self._until = 1
        self._machines: dict[Point, Compiled] = {}
        self._memos: dict[Point, Memo | None] = {}
        if self.mode == "compiled":
            for point, program in bundle.programs.items():
                self._machines[point] = Compiled(point, program, bundle.data_json)
        else:
            self._strict = Strict(bundle.modules, bundle.data_json)
        self.name = Compiled.name if self.mode == "compiled" else Strict.name

    def decide(self, point: Point, question: PolicyInput | bytes) -> bytes:
        """Return the decision document as JSON. Raises PolicyFault("engine_error").

        question: the answer of one that `question.ask` made may be remembered, that of a mere document is not.

        When the compiled machine gives no answer (its limit of instructions, a panic), the strict
        interpreter is asked once: it is the reference, only slower.
        """
        if threading.get_ident() != self._owner:
            raise PolicyFault("engine_error", "an engine belongs to the thread that made it")
        answer = None
        compiled = self._machines.get(point)
        if compiled is not None:
            memo, key = None, b""
            if not isinstance(question, bytes):
                memo = self._memos[point] if point in self._memos else self._memo(point)
                if memo is not None:
                    key = question.frame if memo.blind else memo.key(question)
                    if key:
                        answer = memo.young.get(key) or memo.get(key)
            if answer is None:
                try:
                    answer = compiled.decide(document_of(question))
                    if memo is not None and key:
                        memo.put(key, answer)
                except PolicyFault:
                    self.fallbacks += 1
                    # A machine that failed is not used again: a panic may have left it in any state.
                    self._machines[point] = Compiled(point, self._bundle.programs[point], self._bundle.data_json)
        if answer is None:
            if self._strict is None:
                self._strict = Strict(self._bundle.modules, self._bundle.data_json)
            answer = self._strict.decide(point, document_of(question))
        self._until -= 1
        if self._until <= 0 and self._sample is not None:
            self._until = self._sample(point, question, answer)
        return answer

    def watch(self, sample: Sample) -> None:
        """Show some decisions to a sampler, the next one first; it returns in how many it wants another."""
        self._sample, self._until = sample, 1

    def _memo(self, point: Point) -> Memo | None:
        """Make the memo of a point at its first decision, if its program allows one."""
        sources = list(self._bundle.specialised(point).values())
        blind = is_blind(sources)
        # A request whose arguments count is one of its own: it would fill the memo and never come again.
        worth = is_steady(sources) and (blind or INFO[point].direction == "response")
        memo = self._memos[point] = Memo(blind=blind) if worth else None
        return memo

    def use_interpreter(self, why: str) -> None:
        """From the next decision on, use the strict interpreter; there is no way back but a new engine."""
        self._machines = {}
        self.mode = "interpreter"
        self.name = Strict.name
        self.why = why
