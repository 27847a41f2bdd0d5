"""Edits one member of somebody's JSON file and leaves every other byte as it stands. Pure.

The file belongs to its user: order, indentation, spelling of numbers stay. So a member is set or removed
in the text, at the place that a parse of the text finds. What is not plain JSON (comments, trailing commas)
or says a key twice is refused: an edit of what two readers read differently is a guess.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from firewall.core.errors import Malformed

_DECODER: Final = json.JSONDecoder()
_SPACE: Final = " \t\r\n"


@dataclass(frozen=True, slots=True)
class _Member:
    """Where a member stands: its key's opening quote, its value's span."""

    key: str
    start: int
    value: int
    end: int


def read(text: str) -> dict[str, Any]:
    """Return the object that a text is; an empty text is {}. Raises Malformed: json_invalid, json_duplicate_key."""
    if not text.strip():
        return {}

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise Malformed("json_duplicate_key")
        return found

    try:
        value = json.loads(text, object_pairs_hook=once, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Malformed("json_invalid") from None
    if not isinstance(value, dict):
        raise Malformed("json_invalid")
    return value


def set_member(text: str, path: tuple[str, ...], value: Any) -> str:
    """Return the text with a member set; objects on the way to it are made. Raises Malformed as `read`."""
    read(text)
    step = _indent(text)
    if not text.strip():
        for key in reversed(path):
            value = {key: value}
        return _dump(value, step, 0) + "\n"
    at = _skip(text, 0)
    for depth, key in enumerate(path):
        if text[at] != "{":
            raise Malformed("json_invalid")
        members, close = _members(text, at)
        found = next((m for m in members if m.key == key), None)
        if found is None:
            for inner in reversed(path[depth + 1 :]):
                value = {inner: value}
            return _insert(text, at, members, close, key, value, step, depth + 1)
        if depth == len(path) - 1:
            return text[: found.value] + _dump(value, step, depth + 1) + text[found.end :]
        at = found.value
    raise AssertionError("a path has at least one key")


def member_text(text: str, path: tuple[str, ...]) -> str | None:
    """Return a member's value as it is written, None where there is none. Raises Malformed as `read`."""
    span = _span(text, path)
    return None if span is None else text[span[0] : span[1]]


def set_member_text(text: str, path: tuple[str, ...], raw: str) -> str:
    """Return the text with the value of a member that it has written so. Raises Malformed as `read`, KeyError."""
    span = _span(text, path)
    if span is None:
        raise KeyError(path[-1])
    return text[: span[0]] + raw + text[span[1] :]


def _span(text: str, path: tuple[str, ...]) -> tuple[int, int] | None:
    read(text)
    if not text.strip():
        return None
    at = end = _skip(text, 0)
    for key in path:
        if text[at] != "{":
            return None
        found = next((m for m in _members(text, at)[0] if m.key == key), None)
        if found is None:
            return None
        at, end = found.value, found.end
    return at, end


def remove_member(text: str, path: tuple[str, ...]) -> str:
    """Return the text without a member, as it is where there is none. Raises Malformed as `read`."""
    read(text)
    if not text.strip():
        return text
    at = _skip(text, 0)
    for depth, key in enumerate(path):
        if text[at] != "{":
            return text
        members, close = _members(text, at)
        index = next((i for i, m in enumerate(members) if m.key == key), None)
        if index is None:
            return text
        if depth < len(path) - 1:
            at = members[index].value
            continue
        if len(members) == 1:
            return text[: at + 1] + text[close:]
        if index:  # with the comma before it
            return text[: members[index - 1].end] + text[members[index].end :]
        return text[: members[0].start] + text[members[1].start :]
    return text


def render(value: Any) -> str:
    """Return a value as a snippet to paste."""
    return _dump(value, "  ", 0)


def _insert(text: str, at: int, members: list[_Member], close: int, key: str, value: Any, step: str, depth: int) -> str:
    member = f"{json.dumps(key, ensure_ascii=False)}: {_dump(value, step, depth)}"
    newline = _newline(text)
    if members:
        return text[: members[-1].end] + f",{newline}{step * depth}{member}" + text[members[-1].end :]
    return text[: at + 1] + f"{newline}{step * depth}{member}{newline}{step * (depth - 1)}" + text[close:]


def _members(text: str, at: int) -> tuple[list[_Member], int]:
    """Return the members of the object that opens at ``at``, and where it closes. The text was parsed before."""
    found = []
    at = _skip(text, at + 1)
    while text[at] != "}":
        start = at
        key, at = _DECODER.raw_decode(text, at)
        at = _skip(text, _skip(text, at) + 1)  # past the colon
        _, end = _DECODER.raw_decode(text, at)
        found.append(_Member(key, start, at, end))
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return found, at


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _indent(text: str) -> str:
    """Return the file's own step of indentation; two spaces where it shows none."""
    for line in text.splitlines()[1:]:
        space = line[: len(line) - len(line.lstrip(" \t"))]
        if space and line.strip():
            return space
    return "  "


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _dump(value: Any, step: str, depth: int) -> str:
    text = json.dumps(value, indent=step, ensure_ascii=False)
    return text.replace("\n", f"\n{step * depth}")


def _no_constant(_name: str) -> Any:
    raise ValueError
