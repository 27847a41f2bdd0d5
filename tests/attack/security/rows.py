"""A row: an attack that says whether it succeeded, and how its control is taken away.

The rows are those of "Security Best Practices" of MCP 2026-07-28 (and of 2025-11-25 for sessions), by the
ids of our own table in docs/mcp.md.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

Attack = Callable[["Stage"], Awaitable[bool]]
ControlOff = Callable[[pytest.MonkeyPatch], None]


@dataclass
class Stage:
    """What an attack may use. ``off``: its control is taken away, for controls that are a setting."""

    path: Path
    patch: pytest.MonkeyPatch
    off: bool


@dataclass(frozen=True)
class Row:
    """One requirement. attack returns whether it succeeded; off takes the control away."""

    id: str
    about: str
    attack: Attack
    off: ControlOff


ROWS: list[Row] = []


def row(id: str, about: str, off: ControlOff) -> Callable[[Attack], Attack]:
    """Register an attack."""

    def register(attack: Attack) -> Attack:
        ROWS.append(Row(id, about, attack, off))
        return attack

    return register


def patched(owner: Any, name: str, value: Any) -> ControlOff:
    """Return the removal that replaces an attribute."""
    return lambda patch: patch.setattr(owner, name, value)


def by_setting(_patch: pytest.MonkeyPatch) -> None:
    """The attack itself reads ``stage.off``: the control is a setting, or the other side of a comparison."""


def nothing(*_args: object, **_more: object) -> None:
    """Check nothing."""


def always(*_args: object, **_more: object) -> bool:
    """Agree to everything."""
    return True
