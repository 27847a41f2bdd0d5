"""One pattern database for the room's tests."""

import pytest

from firewall.detect.scan import PatternScanner


@pytest.fixture(scope="session")
def scanner(tmp_path_factory) -> PatternScanner:
    """Return the real scanner."""
    return PatternScanner(cache=tmp_path_factory.mktemp("patterns"))
