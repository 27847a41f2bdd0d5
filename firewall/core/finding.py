"""Finding: one thing an inspector saw. It never holds the value itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Category = Literal[
    "hygiene", "injection", "secret", "pii", "egress", "markup", "schema", "review", "normal_form", "flow"
]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one detector saw in an Action's body.

    control: id of the control catalogue (threats reference §2), such as ``SCAN-04``.
    rule: stable id of the detector's rule, such as ``secret.aws-access-token``.
    severity: 0–100.
    pointer: JSON Pointer (RFC 6901) into the Action's body; it may end in an object key.
    value_hmac: keyed digest of the matched text (hex, 32 chars) or "" where there is no text.
    span: code-point range [start, end) in the string at ``pointer``, for our own obligations;
        never part of the policy input or of a record. None means the whole string.
    """

    control: str
    rule: str
    category: Category
    severity: int
    pointer: str
    detector: str
    value_hmac: str = ""
    span: tuple[int, int] | None = None
