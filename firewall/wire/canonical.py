"""Canonical JSON (RFC 8785, JCS) and its SHA-256: what pins, approvals and audit records compare.

Two values are the same definition exactly when `digest` is equal. Numbers follow ECMAScript's
Number::toString, members are sorted by UTF-16 code units, nothing is normalised inside strings.
"""

from __future__ import annotations

import hashlib
import math
from typing import Final

import orjson

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON
from firewall.wire.strict_json import dumps, skeleton

_SORTED: Final = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_STRICT_INTEGER
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
)
# Lead bytes of U+E000 and above, where UTF-8 and UTF-16 order may differ.
_HIGH_LEADS: Final = tuple(bytes([lead]) for lead in range(0xEE, 0xF5))
# ECMAScript writes 1e21 and above, and below 1e-6, with an exponent.
_FIXED_DIGITS: Final = 21
_FIXED_SMALL: Final = -6


def encode(value: JSON) -> bytes:
    """Return the RFC 8785 form of a JSON value.

    Raises Malformed: json_number (NaN, infinity, integer beyond 2**53 - 1), json_surrogate, json_invalid.
    """
    try:
        fast = orjson.dumps(value, option=_SORTED)
    except orjson.JSONEncodeError:
        dumps(value)  # raises the code that fits
        raise Malformed("json_invalid") from None
    # orjson's output differs from JCS only in floats and in the order of keys with high characters.
    if _has_float_or_null(fast) or (not fast.isascii() and any(lead in fast for lead in _HIGH_LEADS)):
        parts: list[str] = []
        _write(value, parts)
        return "".join(parts).encode()
    return fast


def digest(value: JSON) -> str:
    """Return ``sha256:`` and 64 hex characters of the canonical form. Raises as `encode`."""
    return "sha256:" + hashlib.sha256(encode(value)).hexdigest()


def _has_float_or_null(text: bytes) -> bool:
    # null is looked at again because orjson writes NaN and infinities as null.
    outside = skeleton(text)
    return b"." in outside or b"n" in outside or b"e" in outside.replace(b"true", b"").replace(b"false", b"")


def _write(value: JSON, parts: list[str]) -> None:
    if isinstance(value, dict):
        joint = "{"
        for key in sorted(value, key=_utf16):
            parts.append(joint)
            parts.append(orjson.dumps(key).decode())
            parts.append(":")
            _write(value[key], parts)
            joint = ","
        parts.append("}" if value else "{}")
    elif isinstance(value, list):
        joint = "["
        for item in value:
            parts.append(joint)
            _write(item, parts)
            joint = ","
        parts.append("]" if value else "[]")
    elif isinstance(value, float):
        parts.append(_number(value))
    else:
        parts.append(orjson.dumps(value).decode())


def _utf16(key: str) -> bytes:
    return key.encode("utf-16-be")


def _number(value: float) -> str:
    """Return Number::toString (ECMA-262 6.1.6.1.20), from Python's own shortest digits."""
    if not math.isfinite(value):
        raise Malformed("json_number")
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = f"{abs(value)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    # The value is 0.DIGITS times ten to the power of `point`.
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    count = len(digits)
    if count <= point <= _FIXED_DIGITS:
        return sign + digits + "0" * (point - count)
    if 0 < point <= _FIXED_DIGITS:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if _FIXED_SMALL < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    power = point - 1
    tail = f"e{'+' if power > 0 else '-'}{abs(power)}"
    return f"{sign}{digits[0]}{'.' + digits[1:] if count > 1 else ''}{tail}"
