"""What commands print: JSON when asked, else plain text in which no name can move the cursor."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson

from firewall.core.errors import BartizanError


def emit(given: argparse.Namespace, value: object, text: str | Iterable[str]) -> None:
    """Print ``value`` with --json, else ``text`` (lines). Raises BartizanError("output_closed")."""
    stream = out()
    if given.json:
        text_of = orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
        stream.write("".join(map(_json_safe, text_of)) + "\n")
        return
    for line in text.splitlines() if isinstance(text, str) else text:
        stream.write(safe(line) + "\n")


def out() -> TextIO:
    """Return where answers go. Raises BartizanError("output_closed") where we were started without standard output."""
    # Python has None in its place then. Asked after the act and not before: a stop must not fail for want of a screen.
    if sys.stdout is None:
        raise BartizanError(
            "output_closed", "there is no standard output for the answer", fix="start it with one, or with >/dev/null"
        )
    return sys.stdout


def told(given: argparse.Namespace, made: dict[str, Any], text: Callable[[], str]) -> int:
    """Print what came of an act, or that it waits for a second person; return 0 either way."""
    parked = made.get("parked")
    if parked is None:
        emit(given, made, text())
        return 0
    emit(
        given,
        made,
        f"Waits for a second person: {parked['words']}\nbartizan approve {parked['id']}     (an approver, until {when(parked['expires_us'])})",
    )
    return 0


def _json_safe(char: str) -> str:
    """Return a character of JSON text; what does not print stands in strings only, where it may be escaped."""
    if char.isprintable() or char == "\n":
        return char
    units = char.encode("utf-16-be")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


def note(text: str) -> None:
    """Print to stderr: what is not the command's answer."""
    sys.stderr.write(safe(text) + "\n")


def safe(text: str) -> str:
    """Return text in which what does not print is written out: names are chosen by strangers."""
    return "".join(c if c.isprintable() else f"\\u{{{ord(c):x}}}" for c in text)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> list[str]:
    """Return aligned columns, or one sentence when there are none."""
    cells = [[safe(str(value)) for value in row] for row in rows]
    if not cells:
        return [empty]
    widths = [max(len(row[at]) for row in (list(heads), *cells)) for at in range(len(heads))]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in (heads, *cells)
    ]


def when(time_us: object) -> str:
    """Return a time as people read it, UTC to the second."""
    return datetime.fromtimestamp(int(str(time_us)) / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
