"""How strong and how fresh a sign-in must be for a scope, and whether one is (RFC 9470). Pure.

Our own levels are ordered: ``mfa`` is more than ``pwd``. A value that an identity provider gave is only ever
equal to itself: nobody but an operator knows which of two foreign names is the stronger one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PASSWORD: Final = "pwd"  # noqa: S105 - an authentication context
SECOND_FACTOR: Final = "mfa"
LEVELS: Final = (PASSWORD, SECOND_FACTOR)
FRESH: Final = "fresh"
PREFIX: Final = "stepup:"
_QUOTABLE: Final = frozenset(chr(c) for c in range(0x21, 0x7F)) - {'"', "\\"}


@dataclass(frozen=True, slots=True)
class StepUp:
    """What one resource asks of a sign-in.

    scope: for operations that need this scope, "" for all. acr: the level, "" for any. max_age_s: seconds
    since the sign-in, inclusive; −1 for any age.
    """

    scope: str = ""
    acr: str = ""
    max_age_s: int = -1

    def applies(self, scope: str) -> bool:
        """Return whether an operation that needs ``scope`` is meant."""
        return not self.scope or self.scope == scope

    def fulfilled(self, acr: str, auth_time: int, now_s: int) -> bool:
        """Return whether a sign-in is strong and fresh enough; one without a time is never fresh."""
        return reaches(acr, self.acr) and (
            self.max_age_s < 0 or (0 < auth_time and now_s - auth_time <= self.max_age_s)
        )

    @property
    def parameters(self) -> str:
        """What a challenge adds to its error (RFC 9470 §3): ``acr_values`` and ``max_age``, each where it is asked."""
        text = f', acr_values="{self.acr}"' if self.acr and _QUOTABLE.issuperset(self.acr) else ""
        return text + (f', max_age="{self.max_age_s}"' if self.max_age_s >= 0 else "")

    @property
    def asks(self) -> str:
        """The scope by which a client that knows scopes alone asks for it: ``stepup:mfa``, ``stepup:fresh``."""
        return PREFIX + (self.acr or FRESH)


def reaches(acr: str, wanted: str) -> bool:
    """Return whether a sign-in of context ``acr`` is at least ``wanted``; "" asks for nothing."""
    if not wanted or acr == wanted:
        return True
    return acr in LEVELS and wanted in LEVELS and LEVELS.index(acr) >= LEVELS.index(wanted)
