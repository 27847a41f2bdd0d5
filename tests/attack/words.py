"""Placeholders of the attack files: ``<<name>>`` or ``<<name:text>>``. No file holds a whole secret or a hidden character."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Any

SECRETS = {
    "aws": "AKIA" + "QYLPMN5HHHFPZAM2",
    "github": "ghp_" + "u7Qx9Kd2Lm4Zp8Rt6Vw1Yb3Nc5Hf0Jg2Ks7A",
    "slack": "xoxb-" + "482910573864-7391048265017-" + "Zq8vLm2Xc7Rt4Yp9Kd3Wn6Bf",
    "pem": "-----BEGIN " + "PRIVATE KEY-----\n" + "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgq8vLm2Xc7Rt4Yp9K\n" * 4
    + "-----END " + "PRIVATE KEY-----",
    "iban": "GB82 WEST 1234 5698 7654 32",
}  # fmt: skip
MARKS = {
    "esc": "\x1b[8m",
    "bell": "\x07",
    "zwsp": "\u200b\u200b\u200b",
    "rtl": "\u202e",
    "surrogate": "\\ud800",
    "cyrillic-a": "\u0430",
    "emoji": "\U0001f469\u200d\U0001f469\u200d\U0001f467",
}
MADE: dict[str, Callable[[str], str]] = {
    "tags": lambda text: "".join(chr(0xE0000 + ord(c)) for c in text),
    "selectors": lambda text: "".join(chr(0xE0100 + ord(c)) for c in text),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "wide": lambda text: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text),
    "repeat": lambda text: text.partition("*")[2] * int(text.partition("*")[0]),
    "spread": lambda text: ".".join(text),
}
_PLACE = re.compile(r"<<([a-z0-9-]+)(?::(.*?))?>>", re.DOTALL)


def fill(value: Any, names: dict[str, str]) -> Any:
    """Return a value with every placeholder of its strings replaced."""
    if isinstance(value, str):
        return _PLACE.sub(lambda match: _word(match, names), value)
    if isinstance(value, dict):
        return {fill(key, names): fill(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [fill(inner, names) for inner in value]
    return value


def _word(match: re.Match[str], names: dict[str, str]) -> str:
    name, text = match[1], match[2]
    if text is not None:
        return MADE[name](text)
    found = names.get(name) or SECRETS.get(name) or MARKS.get(name)
    assert found is not None, f"unknown placeholder {name}"
    return found
