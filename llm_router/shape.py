"""Shapes of members, for both ways: names, numbers, texts, arguments of tool calls. Pure."""

from __future__ import annotations

from typing import Final

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.wire import strict_json

NAME_CHARS: Final = 64
ID_CHARS: Final = 256
CALLS: Final = 128


class Rejected(Malformed):
    """A request that breaks a rule; ``param`` names a member of our own lists, never the caller's text."""

    def __init__(self, param: str = "", code: str = "params_invalid") -> None:
        super().__init__(code)
        self.param = param


def is_name(value: object, chars: int = NAME_CHARS) -> bool:
    """Return whether a value can be a tool's name: 1 to ``chars`` of ``A-Z a-z 0-9 _ -``."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= chars
        and value.isascii()
        and value.replace("_", "a").replace("-", "a").isalnum()
    )


def read_arguments(text: str) -> JSONObject:
    """Return a tool call's arguments; providers write "" for none. Raises Malformed when it is no object."""
    if not text.strip():
        return {}
    arguments = strict_json.loads(text.encode())
    if not isinstance(arguments, dict):
        raise Malformed("json_invalid")
    return arguments


def write_arguments(arguments: JSON) -> str:
    """Return the wire form of arguments: JSON inside a string."""
    return strict_json.dumps(arguments).decode()


def number(value: JSON, low: float, high: float) -> bool:
    """Return whether a value is a number from low to high; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def whole(value: JSON, low: int, high: int) -> bool:
    """Return whether a value is an integer from low to high."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def integer(value: JSON, low: int, high: int, param: str) -> int:
    """Return an integer from low to high, or raise Rejected(param)."""
    if not isinstance(value, int) or not whole(value, low, high):
        raise Rejected(param)
    return value


def text(value: JSON, chars: int, param: str) -> str:
    """Return a string of 1 to ``chars`` characters, or raise Rejected(param)."""
    if not isinstance(value, str) or not 0 < len(value) <= chars:
        raise Rejected(param)
    return value


def short(value: JSON, chars: int) -> bool:
    """Return whether a value is a string of 1 to ``chars`` characters."""
    return isinstance(value, str) and 0 < len(value) <= chars
