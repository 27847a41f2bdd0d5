"""The pattern database is compiled once and kept beside the other build products: its file is named by its content."""

import pytest

from firewall.detect.scan import PatternScanner


@pytest.fixture(scope="session")
def scanner(root):
    cache = root / "build" / "patterns"
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    return PatternScanner(cache=cache)
