"""A form as a client of an older revision reads it. Pure.

2025-06-18 knows text, numbers, yes or no, and one choice of named words (``enum``, ``enumNames``); titled choices and
choices of several came with 2025-11-25 (SEP-1330), defaults for all kinds as well (SEP-1034).
"""

from __future__ import annotations

from typing import Final

from firewall.core.jsonvalue import JSON, JSONObject

_PLAIN: Final = ("2025-06-18",)


def readable(params: JSONObject, version: str) -> JSONObject | None:
    """Return the parameters of an elicitation for a client of a revision; None where it could not read the form.

    What an answer is judged by stays the same: the words that may be chosen are the same ones.
    """
    schema = params.get("requestedSchema")
    fields = schema.get("properties") if isinstance(schema, dict) else None
    if version not in _PLAIN or not isinstance(schema, dict) or not isinstance(fields, dict):
        return params
    told: JSONObject = {}
    for name, field in fields.items():
        plain = _plain(field)
        if plain is None:
            return None
        told[name] = plain
    return {**params, "requestedSchema": {**schema, "properties": told}}


def _plain(field: JSON) -> JSONObject | None:
    if not isinstance(field, dict) or field.get("type") == "array":
        return None
    choices = field.get("oneOf")
    kept: JSONObject = {k: v for k, v in field.items() if k not in ("oneOf", "pattern")}
    if field.get("type") != "boolean":
        kept.pop("default", None)
    if isinstance(choices, list):
        pairs = [(one.get("const"), one.get("title")) for one in choices if isinstance(one, dict)]
        kept["enum"] = [const for const, _ in pairs]
        kept["enumNames"] = [title or const for const, title in pairs]
    return kept
