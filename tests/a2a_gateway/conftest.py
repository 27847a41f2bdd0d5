"""The pattern database is opened once for the room."""

import pytest

from firewall.detect.scan import PatternScanner


@pytest.fixture(scope="session")
def scanner(tmp_path_factory):
    return PatternScanner(cache=tmp_path_factory.mktemp("patterns"))
