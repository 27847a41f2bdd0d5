"""One pattern database for the room's tests."""

import pytest

from firewall.detect.scan import PatternScanner
from tests.support.patterns import PATTERNS


@pytest.fixture(scope="session")
def scanner() -> PatternScanner:
    """Return the real scanner."""
    return PatternScanner(cache=PATTERNS)
