"""Sealed session ids and cursors, and the configuration of upstreams."""

import pytest

from firewall.core.errors import ConfigFault, Malformed
from firewall.net.runtime import FakeClock
from firewall.state.vault import Sealer
from mcp_gateway import sessions
from mcp_gateway.sessions import Sessions
from mcp_gateway.settings import Settings
from tests.support.kit import principal
from tests.support.mcp import PUBLIC, spec

HERE = "https://fw.example/mcp/demo"


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def book(clock):
    return Sessions(Sealer(b"k" * 32, clock), clock, ttl_s=60)


def refused(book, who, where, token):
    with pytest.raises(Malformed) as caught:
        book.open(who, where, token)
    return caught.value.code == "session_unknown"


def test_a_session_opens_for_its_own_caller_only(book):
    token = book.start(principal(), HERE, "2025-11-25")
    assert book.open(principal(), HERE, token).version == "2025-11-25"
    for other in ({"subject": "u_bob"}, {"client_id": "c2"}, {"tenant": "t2"}, {"issuer": "https://other.example"}):
        assert refused(book, principal(**other), HERE, token)
    assert refused(book, principal(), HERE + "2", token)
    assert refused(book, principal(), HERE, b"\xff")
    assert refused(book, principal(), HERE, token[:-1])


def test_two_sessions_of_one_caller_differ(book):
    assert book.start(principal(), HERE, "2025-11-25") != book.start(principal(), HERE, "2025-11-25")


def test_a_session_expires_and_ends(book, clock):
    ended, kept = (book.start(principal(), HERE, "2025-11-25") for _ in range(2))
    book.end(book.open(principal(), HERE, ended))
    assert refused(book, principal(), HERE, ended)
    assert book.open(principal(), HERE, kept)
    clock.advance(60)
    assert refused(book, principal(), HERE, kept)


def test_an_ended_session_is_never_revived_by_many_others(book, clock, monkeypatch):
    monkeypatch.setattr(sessions, "ENDED_KEPT", 3)
    first = book.start(principal(), HERE, "2025-11-25")
    book.end(book.open(principal(), HERE, first))
    for _ in range(6):
        clock.advance(0.001)
        token = book.start(principal(), HERE, "2025-11-25")
        book.end(book.open(principal(), HERE, token))
        assert refused(book, principal(), HERE, token)
        assert refused(book, principal(), HERE, first)


def test_a_cursor_is_sealed_and_belongs_to_its_caller(book):
    token = book.seal_cursor(principal(), HERE, "secret_tool")
    assert "secret" not in token
    assert book.open_cursor(principal(), HERE, token) == "secret_tool"
    assert book.open_cursor(principal(), HERE, None) == ""
    assert book.seal_cursor(principal(), HERE, "") == ""
    for who, given in (
        (principal(subject="b"), token),
        (principal(), token + "A"),
        (principal(), 5),
        (principal(), ""),
    ):
        with pytest.raises(Malformed, match="params_invalid"):
            book.open_cursor(who, HERE, given)


def test_a_session_is_no_cursor(book):
    with pytest.raises(Malformed, match="params_invalid"):
        book.open_cursor(principal(), HERE, book.start(principal(), HERE, "2025-11-25").decode())


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"name": "Upper", "url": "http://x"}, "upstream_name"),
        ({"name": "a__b", "url": "http://x"}, "upstream_name"),
        ({"name": "a--b", "url": "http://x"}, "upstream_name"),
        ({"name": "9a", "url": "http://x"}, "upstream_name"),
        ({"name": "a-", "url": "http://x"}, "upstream_name"),
        ({"name": "a"}, "upstream_address"),
        ({"name": "a", "transport": "stdio", "url": "http://x"}, "upstream_address"),
        ({"name": "a", "url": "http://x", "effects": {"t": "nice"}}, "upstream_effect"),
    ],
)
def test_a_wrong_upstream_is_named_with_its_mend(changes, code):
    with pytest.raises(ConfigFault) as caught:
        spec(**changes)
    assert caught.value.code == code
    assert caught.value.fix


def test_two_upstreams_of_one_name_are_refused():
    with pytest.raises(ConfigFault, match="upstream_twice"):
        Settings(PUBLIC, (spec("a", url="http://x"), spec("a", url="http://y")))
