"""What the browser tests share: one front door, one browser; each test starts without cookies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.front_door.accessible import XSS


def _documents() -> dict[str, str]:
    named = {f"https://app.example/x{at}.json": text for at, text in enumerate(XSS)}
    return {"https://app.example/oauth/client.json": "Example Agent", **named}


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    from tests.front_door.pages_house import callback

    with callback() as kept:
        yield kept


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, client: object) -> Iterator[object]:
    from tests.front_door.pages_house import GRANT_TYPE, TV, house, registered_clients

    folder: Path = tmp_path_factory.mktemp("house")
    assert GRANT_TYPE in TV.grant_types
    with house(folder, client, _documents(), clients=(*registered_clients(), TV), device_grant=True) as running:  # type: ignore[arg-type]
        running.run(running.door.user())
        yield running


@pytest.fixture(scope="session")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    from tests.front_door.pages_house import chromium

    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def ada(home: object, chrome: object) -> object:
    """Somebody with an account of their own in this test, and no cookies yet."""
    from tests.front_door.person import Person

    return Person(home, chrome, f"ada{time.monotonic_ns()}")  # type: ignore[arg-type]
