"""A bundle to change, a bundle that we ship, and a real OPA server where there is one."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from firewall.decide import bundle as bundles
from firewall.decide.bundle import Bundle
from tests.support.opa import OpaProcess, start_opa


@pytest.fixture(autouse=True, scope="module")
def _engines_die_where_they_were_made() -> Iterator[None]:
    """Collect engines that hang in a test's traceback here, before another thread's collector finds them."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return the bundle that we ship, loaded as `bartizan up` would."""
    return bundles.load(state_dir=tmp_path_factory.mktemp("state"))


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that copies the shipped policies and replaces texts: changed({file: (old, new)})."""

    def change(changes: dict[str, tuple[str, str]] | None = None) -> Path:
        target = tmp_path / "policies"
        shutil.copytree(bundles.default_path(), target)
        (target / bundles.VERDICT_FILE).unlink(missing_ok=True)
        for name, (old, new) in (changes or {}).items():
            text = (target / name).read_text()
            assert old in text, f"{name} has no {old!r}"
            (target / name).write_text(text.replace(old, new))
        return target

    return change


@pytest.fixture(scope="session")
def opa(shipped: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpaProcess]:
    """Return a real OPA server with the shipped bundle, on a unix socket; skips loudly without one."""
    yield from start_opa(shipped, tmp_path_factory.mktemp("opa"))
