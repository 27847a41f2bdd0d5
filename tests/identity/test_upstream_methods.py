"""How we authenticate at other people's token endpoints, where no operator wrote it down."""

from __future__ import annotations

from typing import Any

import pytest

from firewall.identity.upstream.metadata import ServerMetadata
from firewall.identity.upstream.registration import Registrations
from firewall.identity.upstream.settings import Secret, UpstreamAuth
from firewall.net.runtime import FakeClock
from firewall.state.memory import MemoryStore

BASIC, POST, SIGNED, NONE = "client_secret_basic", "client_secret_post", "private_key_jwt", "none"
HELD = Secret(env="S")


def chosen(offered: tuple[str, ...], **auth: Any) -> str:
    nothing: Any = None  # neither our documents nor the network are asked for a client that is registered
    made = Registrations(nothing, nothing, MemoryStore(FakeClock()), nothing, FakeClock(), {"S": "s" * 32})
    server = ServerMetadata(
        "https://as.example", "https://as.example/authorize", "https://as.example/token", methods=offered
    )
    client = made.known("files", UpstreamAuth("https://files.example/mcp", client_id="us", **auth), server)
    assert client is not None
    return client.method


@pytest.mark.parametrize(
    ("offered", "method"),
    [
        ((NONE, SIGNED, BASIC), NONE),
        ((SIGNED, NONE), NONE),
        ((NONE,), NONE),
        ((BASIC,), NONE),  # RFC 8414 §2: what a server that says nothing takes; public clients often go unmentioned
        ((SIGNED,), SIGNED),
        ((SIGNED, BASIC), SIGNED),  # no public clients there
    ],
)
def test_without_a_secret_people_sign_in_by_a_public_client(offered: tuple[str, ...], method: str) -> None:
    assert chosen(offered) == method
    assert chosen(offered, method=SIGNED) == SIGNED
    assert chosen(offered, method=NONE) == NONE


@pytest.mark.parametrize("ways", [("client",), ("exchange",), ("exchange", "user"), ("user", "client")])
def test_what_is_asked_for_without_a_person_is_asked_for_with_our_keys(ways: Any) -> None:
    assert chosen((NONE, SIGNED), ways=ways) == SIGNED
    assert chosen((NONE, BASIC), ways=ways) == NONE
    assert chosen((NONE, SIGNED), ways=ways, method=NONE) == NONE


@pytest.mark.parametrize(("offered", "method"), [((BASIC, POST, NONE), BASIC), ((POST, NONE), POST), ((NONE,), BASIC)])
def test_a_secret_is_sent_as_the_server_takes_it(offered: tuple[str, ...], method: str) -> None:
    assert chosen(offered, secret=HELD, issuer="https://as.example") == method
    assert chosen(offered, secret=HELD, issuer="https://as.example", method=POST) == POST
