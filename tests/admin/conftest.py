"""One admin room per test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.admin.rig import Room, make_room


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = make_room(tmp_path)
    yield made
    made.log.writer.close()
