"""The security table of docs/mcp.md, one test per id: with its control the attack fails, without it the attack works."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attack.security import front_door, gateway  # noqa: F401  their rows register themselves
from tests.attack.security.rows import ROWS, Row, Stage

pytestmark = [pytest.mark.flow, pytest.mark.timeout(120)]


TABLE = (
    "CD-1 CD-2 CD-3 CD-4 CD-5 TP-1 TP-2 TP-3 SS-1 SS-2 SS-3 SS-4 SH-1 SH-2 SH-3 LO-1 LO-2 LO-3 LO-4 UR-1 SC-1 SC-2 OR-1"
)


def test_every_row_of_the_table_is_here_once() -> None:
    assert sorted(row.id for row in ROWS) == sorted(TABLE.split())


@pytest.mark.parametrize("control", ["on", "off"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.id}-{row.about.replace(' ', '_')}")
async def test_the_attack_fails_with_its_control_and_works_without(
    row: Row, control: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    off = control == "off"
    if off:
        row.off(monkeypatch)
    assert await row.attack(Stage(tmp_path, monkeypatch, off)) is off
