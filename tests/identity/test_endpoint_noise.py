"""Noise at the endpoints of programs: whatever is posted, the answer is small JSON that repeats nothing and never a 500."""

from __future__ import annotations

import random
from urllib.parse import quote_plus

import pytest

from firewall.identity.engine import registered
from tests.support.door import CIMD_URL, TIME, Door, make_door

PATHS = ("/token", "/par", "/introspect", "/revoke", "/device_authorization")
MARK = "zq7marker"
NAMES = (
    "grant_type",
    "client_id",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
    "code",
    "code_verifier",
    "redirect_uri",
    "refresh_token",
    "device_code",
    "subject_token",
    "subject_token_type",
    "actor_token",
    "assertion",
    "resource",
    "audience",
    "scope",
    "token",
    "authorization_details",
    "request_uri",
    MARK,
)
KNOWN = (
    CIMD_URL,
    "tool",
    "svc-batch",
    TIME,
    "time:read",
    "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
    "urn:ietf:params:oauth:token-type:access_token",
    *(entry.grant_type for entry in registered.GRANTS),
)
ODD = (
    "",
    " ",
    "\0",
    "\n",
    "é",
    "\u202e",
    "\ud7ff",
    "%",
    "a.b.c",
    "eyJhbGciOiJub25lIn0.e30.",
    "bzr_" + "A" * 43 + ".acme",
    "[]",
    "{}",
)


def noise(dice: random.Random) -> bytes:
    """Return one form: known names with known, odd and marked values; sometimes cut, sometimes no form at all."""
    fields = []
    for _ in range(dice.randrange(1, 9)):
        value = dice.choice((*KNOWN, *ODD, MARK, MARK * dice.randrange(1, 40)))
        fields.append(f"{dice.choice(NAMES)}={quote_plus(value)}")
    body = "&".join(fields).encode()
    if dice.random() < 0.1:
        body = body[: dice.randrange(len(body) + 1)] + bytes(dice.randrange(256) for _ in range(dice.randrange(9)))
    return body


def headers(dice: random.Random) -> dict[str, bytes]:
    kinds = (b"application/x-www-form-urlencoded",) * 8 + (b"application/json", b"text/plain", b"")
    made = {"content-type": dice.choice(kinds)}
    if dice.random() < 0.3:
        made["authorization"] = dice.choice((b"Basic", b"Basic !", b"Basic c3ZjLWJhc2ljOng=", b"Bearer x", b"DPoP x"))
    if dice.random() < 0.2:
        made["dpop"] = dice.choice((b"x", b"a.b.c", b"eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6Im5vbmUifQ.e30."))
    return made


@pytest.mark.parametrize("seed", range(8))
async def test_noise_is_answered_in_small_json_that_repeats_nothing(seed: int) -> None:
    dice = random.Random(seed)
    door: Door = make_door(device_grant=True, token_per_minute=10**6, authorize_per_minute=10**6)
    async with door.http() as http:
        for _ in range(60):
            path, body, sent = dice.choice(PATHS), noise(dice), headers(dice)
            reply = await http.post(path, content=body, headers=sent)
            told = (path, body, sent, reply.text)
            assert reply.status_code in (200, 400, 401, 413, 415, 429), told
            assert reply.headers["content-type"] == "application/json", told
            assert reply.headers["cache-control"] == "no-store", told
            assert MARK not in reply.text, told
            assert len(reply.content) < 400, told
            if path not in ("/introspect", "/revoke"):
                assert reply.status_code != 200 or path == "/device_authorization", told
    assert MARK not in str(door.events)
    assert door.named("identity.failure") == []
