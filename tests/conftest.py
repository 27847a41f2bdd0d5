"""What every test shares: the event loop, the property profiles, the order, and where real programs are found."""

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.configuration import set_hypothesis_home_dir

from tests.support import once

ROOT = Path(__file__).resolve().parent.parent

# `make opa` builds the reference engine here; tests look programs up on PATH only.
os.environ["PATH"] = os.pathsep.join([str(ROOT / "build" / "bin"), os.environ.get("PATH", os.defpath)])

# The secret that keys are sealed under is made for the tests, not for whoever runs them.
_config = tempfile.TemporaryDirectory(prefix="bartizan-tests-")
os.environ["XDG_CONFIG_HOME"] = _config.name

set_hypothesis_home_dir(ROOT / "build" / "hypothesis")
# Deadlines measure the neighbours of a shared machine, not the code.
settings.register_profile("dev", max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("nightly", max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

once.install()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Leave what is imported and collected to no collector: it lives to the end, and there is much of it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the real processes: they wait much, and last no worker should be left alone with them."""
    items.sort(key=lambda item: item.get_closest_marker("e2e") is None)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run every async test on asyncio; without this the anyio plug-in would run each on trio too."""
    return "asyncio"


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the root of the repository."""
    return ROOT
