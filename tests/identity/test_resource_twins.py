"""Controls at the resource, each switched off once: the attack that its requirement forbids then works."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from firewall.core.bounds import TOKEN_BYTES
from firewall.core.errors import Unauthenticated
from firewall.identity.issuers import keys as issuer_keys
from firewall.identity.rfc6750 import own_tokens, resource_server
from firewall.net import edge
from firewall.wire import jwt, strict_json
from mcp_gateway import sessions
from tests.identity.test_issuers import KEY, NEXT_KEY, Direct, key_set
from tests.identity.test_resource_requirements import PEOPLE, b64, fine, parts, signed_raw
from tests.identity.test_resource_server import mint
from tests.mcp_gateway.legacy import opened
from tests.mcp_gateway.scripted import scripted
from tests.net.test_edge import SERVED, ask
from tests.support.door import Door, make_door
from tests.support.mcp import running, spec

BOTH = pytest.mark.parametrize("control", ["on", "off"])


def accepted(door: Door, token: str) -> bool:
    try:
        door.verified(token)
    except Unauthenticated:
        return False
    return True


async def admitted(direct: Direct, token: str) -> bool:
    try:
        await direct.admit(token)
    except Unauthenticated:
        return False
    return True


@BOTH
def test_rs_01_a_token_without_a_signature(control: str, monkeypatch: pytest.MonkeyPatch) -> None:
    door = make_door()
    head, body = parts(door)
    token = (b64(orjson.dumps({**head, "alg": "none"})) + b"." + b64(orjson.dumps(body)) + b".AAAA").decode()
    if control == "off":
        real = jwt.parse_compact
        monkeypatch.setattr(jwt, "parse_compact", lambda data, **_: real(data, algorithms=("none",)))
        monkeypatch.setattr(own_tokens, "ALGORITHM", "none")
        monkeypatch.setattr(jwt, "verify", lambda token, _key: token.claims)  # as a library does that believes it
    assert accepted(door, token) is (control == "off")


@BOTH
async def test_rs_03_a_flood_of_key_ids(control: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if control == "off":
        monkeypatch.setattr(issuer_keys, "ASK_AGAIN_S", 0)
    direct = Direct()
    await direct.admit(direct.token())
    direct.door.clock.advance(31)
    for n in range(20):
        assert not await admitted(direct, direct.token(kid=f"r{n}"))
    assert direct.fetches > 20 if control == "off" else direct.fetches == 2


@BOTH
async def test_rs_05_a_day_without_the_issuer(control: str, monkeypatch: pytest.MonkeyPatch) -> None:
    direct = Direct()
    await direct.admit(direct.token())
    if control == "off":
        monkeypatch.setattr(issuer_keys, "KEPT_S", 10**9)
    direct.provider.status = 0
    for _ in range(2):
        direct.door.clock.advance(13 * 3600)
        last = await admitted(direct, direct.token())
    assert last is (control == "off")


@BOTH
async def test_rs_06_a_key_that_its_issuer_withdrew(control: str, monkeypatch: pytest.MonkeyPatch) -> None:
    direct = Direct()
    await direct.admit(direct.token())
    if control == "off":
        monkeypatch.setattr(issuer_keys, "FRESH_S", 10**9)
        monkeypatch.setattr(issuer_keys, "REFRESH_S", 10**9)
    direct.provider.keys = key_set(("k2", NEXT_KEY))
    direct.door.clock.advance(601)
    assert await admitted(direct, direct.token(key=KEY)) is (control == "off")


@BOTH
def test_rs_11_a_member_that_comes_twice(control: str, monkeypatch: pytest.MonkeyPatch) -> None:
    door = make_door()
    head, body = (orjson.dumps(one) for one in parts(door))
    token = signed_raw(head, body[:-1] + b',"sub":"u_admin"}')
    if control == "off":
        monkeypatch.setattr(strict_json, "loads", lambda data, **_: orjson.loads(data))
    assert accepted(door, token) is (control == "off")


@BOTH
def test_rs_11_a_token_beyond_its_bound(control: str, monkeypatch: pytest.MonkeyPatch) -> None:
    door = make_door()
    token = mint(door, pad="x" * TOKEN_BYTES)
    if control == "off":
        real = jwt.parse_compact
        monkeypatch.setattr(resource_server, "TOKEN_BYTES", 10**6)
        monkeypatch.setattr(jwt, "parse_compact", lambda data, **more: real(data, max_bytes=10**6, **more))
    assert accepted(door, token) is (control == "off")


@BOTH
async def test_rs_14_a_session_of_somebody_else(control: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if control == "off":
        monkeypatch.setattr(sessions, "_owner", lambda *_: "everybody")
    async with scripted(fine) as upstream, running(spec("demo", url=upstream.url), people=PEOPLE) as stack:
        mine = await opened(stack, token="alice")
        mine.token = "bob"
        assert (await mine.request("tools/list")).status_code == (200 if control == "off" else 404)


@BOTH
async def test_rs_15_a_field_that_names_a_person(control: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if control == "off":
        monkeypatch.setattr(edge, "_DROPPED", frozenset())
        monkeypatch.setattr(edge, "_DROPPED_PREFIXES", ())
    _, seen, _ = await ask(SERVED, (b"x-forwarded-user", b"admin"))
    assert seen is not None
    assert ((b"x-forwarded-user", b"admin") in seen["headers"]) is (control == "off")


@BOTH
def test_rs_17_an_unknown_key_that_is_told_sooner(control: str, monkeypatch: pytest.MonkeyPatch) -> None:
    door = make_door()
    if control == "off":
        monkeypatch.setattr(own_tokens, "same_work", lambda *_: None)
    calls: list[int] = []
    real = jwt.verify
    monkeypatch.setattr(jwt, "verify", lambda *args: (calls.append(1), real(*args))[1])
    assert not accepted(door, mint(door, kid="nobody"))
    assert bool(calls) is (control == "on")


@BOTH
async def test_op_08_an_issuer_that_hangs(control: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the control off, keys that are due are waited for: then a known caller hangs with the issuer."""
    direct = Direct()
    await direct.admit(direct.token())
    direct.provider.hangs = True
    if control == "off":
        monkeypatch.setattr(issuer_keys, "FRESH_S", 300)
    direct.door.clock.advance(301)

    async def turn() -> Any:
        return await asyncio.wait_for(direct.admit(direct.token(jti="j2")), 0.1)

    if control == "off":
        with pytest.raises(TimeoutError):
            await turn()
    else:
        assert await turn()
