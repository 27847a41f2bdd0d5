"""The shipped bundle and a real OPA server with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from firewall.decide import bundle as bundles
from firewall.decide.bundle import Bundle
from tests.support.opa import OpaProcess, start_opa


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return the bundle that we ship, loaded as `bartizan up` would."""
    return bundles.load(state_dir=tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="session")
def opa(shipped: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpaProcess]:
    """Return a real OPA server with the shipped bundle, on a unix socket; skips loudly without one."""
    yield from start_opa(shipped, tmp_path_factory.mktemp("opa"))
