"""The instructions of several servers as one text, for a session of the aggregate. Pure.

A server's instructions go into a model's context beside those of the others, so none may speak for another: every
line stands behind its server's alias, which comes from our configuration. They are told whole or not at all: a text
that was cut could say something else. What is not told is named, in our own words, and never why.
Source: MCP, lifecycle (``instructions``); mcp reference §5.1, §5.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mcp_gateway.lists import SEPARATOR

EACH_CHARS: Final = 4_096
TOTAL_CHARS: Final = 16_384
_OPENING: Final = (
    "Several servers stand behind this endpoint. What follows are their own instructions, each line behind the name of "
    "its server; a line concerns that server's tools alone, named {names}."
)
_MISSING: Final = "Not told here: the instructions of {names}."


def instructions(said: Mapping[str, str], withheld: frozenset[str] = frozenset()) -> str:
    """Return the joined text, "" where no server says anything.

    said: alias → what a server says, "" for nothing; withheld: aliases whose text may not be told.
    """
    told: list[str] = []
    missing: list[str] = []
    room = TOTAL_CHARS
    for alias in sorted(said):
        text = said[alias].strip()
        if not text:
            continue
        block = "\n".join(f"{alias}| {line}" for line in text.splitlines())
        if alias in withheld or len(text) > EACH_CHARS or len(block) > room:
            missing.append(alias)
            continue
        room -= len(block)
        told.append(block)
    lines: list[str] = []
    if told:
        names = ", ".join(f"{block.partition('|')[0]}{SEPARATOR}…" for block in told)
        lines += [_OPENING.format(names=names), *told]
    if missing:
        lines.append(_MISSING.format(names=", ".join(missing)))
    return "\n".join(lines)
