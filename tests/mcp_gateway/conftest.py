"""The suites that touch state run with one worker and with four (DESIGN §6b-2).

With four, a session lives in the first worker and every request of it arrives at another one
(`tests.support.node`).
"""

from __future__ import annotations

import pytest

from tests.support import mcp

WITH_STATE = frozenset(
    {
        "test_flow",
        "test_face",
        "test_streams",
        "test_asking",
        "test_stdio",
        "test_subscriptions",
        "test_task_flow",
        "test_linking",
    }
)
# About the inside of one worker: its own bounds, its own listeners, its end.
ALONE = frozenset(
    {
        "test_updates_are_told_to_those_who_watch_that_uri_alone",
        "test_only_those_hear_whose_visible_list_changed",
        "test_one_upstream_listen_serves_all_and_ends_with_the_last_of_them",
        "test_a_worker_that_stops_ends_its_streams_with_their_result",
        "test_streams_of_one_caller_are_bounded",
        "test_one_child_serves_all_callers_of_a_credential",
    }
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Add the number of workers to what a test is run with."""
    if metafunc.module.__name__.rpartition(".")[2] in WITH_STATE and "workers" in metafunc.fixturenames:
        alone = metafunc.function.__name__ in ALONE
        metafunc.parametrize("workers", [1] if alone else [1, 4], indirect=True)


@pytest.fixture(autouse=True)
def workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how many workers `running` has in this test."""
    count = int(getattr(request, "param", 1))
    monkeypatch.setattr(mcp, "WORKERS", count)
    return count
