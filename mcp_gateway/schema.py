"""Arguments and results against the pinned JSON Schema, natively and bounded, before policy.

`jsonschema_rs` compiles once per definition. Nothing is ever fetched for a ``$ref`` (MCP 2026-07-28,
tools: MUST NOT by default), and patterns run on a linear-time engine.
"""

from __future__ import annotations

from typing import Final, Literal, NoReturn

import jsonschema_rs

from firewall.core.bounds import KIB
from firewall.core.jsonvalue import JSON
from firewall.wire import strict_json

Verdict = Literal["ok", "mismatch", "none"]

SCHEMA_BYTES: Final = 256 * KIB
_PATTERNS: Final = jsonschema_rs.RegexOptions(size_limit=1 << 20, dfa_size_limit=1 << 20)


class Schema:
    """One compiled schema; ``Schema(None)`` stands for "there is none"."""

    __slots__ = ("_broken", "_validator")

    def __init__(self, schema: JSON) -> None:
        self._validator: jsonschema_rs.Validator | None = None
        self._broken = False
        if schema is None:
            return
        try:
            if not isinstance(schema, (dict, bool)) or len(strict_json.dumps(schema)) > SCHEMA_BYTES:
                raise ValueError
            self._validator = jsonschema_rs.validator_for(schema, retriever=_refuse, pattern_options=_PATTERNS)
        except Exception:  # noqa: BLE001  whatever the library says, the schema is unusable
            self._broken = True

    def check(self, value: JSON) -> Verdict:
        """Return how a value fits. A schema that cannot be compiled fits nothing: unverifiable is not verified."""
        if self._validator is None:
            return "mismatch" if self._broken else "none"
        try:
            return "ok" if self._validator.is_valid(value) else "mismatch"
        except Exception:  # noqa: BLE001  a validator that fails has not verified anything
            return "mismatch"


def _refuse(_uri: str) -> NoReturn:
    raise LookupError("no remote schema is ever fetched")
