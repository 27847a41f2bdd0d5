"""Decision: what the PDP answered, and the closed set of obligations (policy reference §10).

``allow < transform < approve < deny``; the most severe live finding wins; a permit needs a
positive grant. AuthZEN's boolean is true for the first two only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from firewall.core.jsonvalue import JSON
from firewall.core.value import value

CONTRACT: Final = "1"


class Effect(IntEnum):
    """The lattice; joined by ``max``."""

    ALLOW = 0
    TRANSFORM = 1
    APPROVE = 2
    DENY = 3


EFFECTS: Final[dict[str, Effect]] = {
    "allow": Effect.ALLOW,
    "transform": Effect.TRANSFORM,
    "approve": Effect.APPROVE,
    "deny": Effect.DENY,
}
EFFECT_NAMES: Final = {effect: name for name, effect in EFFECTS.items()}

# Obligation type → the parameters it must have (exactly these, all strings unless noted).
OBLIGATIONS: Final[dict[str, tuple[str, ...]]] = {
    "redact": ("pointer",),  # replace the found spans at pointer by a marker naming the rule
    "clean": ("pointer",),  # strip invisible and control characters from the string at pointer
    "replace": ("pointer", "value"),
    "drop_item": ("id",),  # remove a list entry (tool, skill, model) by its name
    "taint": ("label",),  # raise a mark on the caller's context before anything is released
    "step_up": ("scope",),  # a scope that would cure this deny
    "mask_log": ("pointer",),
    "notify": ("channel",),
}


@dataclass(frozen=True, slots=True)
class Obligation:
    """A duty of the PEP. Unknown or failing means deny."""

    type: str
    params: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reason:
    """One policy rule's finding: its id, OWASP ids, severity 0–100 and operator code."""

    rule: str
    effect: Effect
    code: str
    owasp: tuple[str, ...]
    severity: int


@value
class Decision:
    """The PDP's answer after strict validation; ``raw`` is kept for replay and diff."""

    effect: Effect
    risk: int
    reasons: tuple[Reason, ...]
    obligations: tuple[Obligation, ...]
    shadow: tuple[Reason, ...]
    revision: str
    engine: str
    raw: JSON = None

    @property
    def permits(self) -> bool:
        """AuthZEN's boolean: allow and transform, nothing else."""
        return self.effect <= Effect.TRANSFORM

    @property
    def step_up_scopes(self) -> tuple[str, ...]:
        """Scopes that would cure the deny; empty unless *every* deny reason is about scope."""
        if self.effect is not Effect.DENY:
            return ()
        denies = [r for r in self.reasons if r.effect is Effect.DENY]
        if not denies or any(r.code != "scope_missing" for r in denies):
            return ()
        return tuple(o.params["scope"] for o in self.obligations if o.type == "step_up")
