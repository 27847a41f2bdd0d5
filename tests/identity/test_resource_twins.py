"""Controls at the resource, each switched off once: the attack that its requirement forbids then works."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc.jwk import RSAKey

from firewall.core.bounds import TOKEN_BYTES
from firewall.core.errors import Unauthenticated
from firewall.identity.issuers import keys as issuer_keys
from firewall.identity.resources import Resources
from firewall.identity.rfc6750 import own_tokens, resource_server
from firewall.identity.rfc8414.metadata import server_metadata
from firewall.identity.web import json_reply
from firewall.net import asgi, edge
from firewall.wire import jwt, strict_json
from mcp_gateway import serve as mcp_serve
from mcp_gateway import sessions
from mcp_gateway import upstream as mcp_upstream
from tests.identity.test_issuers import KEY, NEXT_KEY, Direct, key_set
from tests.identity.test_resource_requirements import PEOPLE, b64, fine, parts, signed_raw
from tests.identity.test_resource_server import mint
from tests.mcp_gateway.legacy import opened
from tests.mcp_gateway.scripted import scripted
from tests.net.test_edge import SERVED, ask
from tests.support.door import TIME, Door, make_door
from tests.support.mcp import MODERN_META, running, spec

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
def test_rs_02_an_extension_that_we_do_not_understand(control: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its signature holds; what ``crit`` demands was not done (RFC 7515 §4.1.11)."""
    door = make_door()
    head, body = parts(door)
    if control == "off":
        monkeypatch.setattr(jwt, "_KEY_BEARING", ())
    token = signed_raw(orjson.dumps({**head, "crit": ["exp2"], "exp2": 1}), orjson.dumps(body))
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
@pytest.mark.parametrize("fault", ["alg", "bits"])
@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
async def test_rs_04_a_published_key_that_does_not_fit(
    control: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct = Direct()
    if control == "off":
        monkeypatch.setattr(jwt, "check_key", lambda *_: None)
    if fault == "alg":  # a key that its issuer publishes for another algorithm
        published: Any = orjson.loads(key_set(("k1", KEY)))
        published["keys"][0]["alg"] = "ES384"
        direct.provider.keys, token = orjson.dumps(published), direct.token()
    else:  # one that can be factored
        weak = RSAKey.generate_key(1024, private=True)
        direct.provider.keys = key_set(("r1", weak))
        signing = b64(b'{"alg":"RS256","typ":"at+jwt","kid":"r1"}') + b"." + direct.token().split(".")[1].encode()
        private: Any = weak.private_key
        token = (signing + b"." + b64(private.sign(signing, PKCS1v15(), SHA256()))).decode()
    assert await admitted(direct, token) is (control == "off")


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
@pytest.mark.parametrize("bound", ["life", "skew", "type"])
def test_rs_10_a_token_that_would_live_too_long(bound: str, control: str, monkeypatch: pytest.MonkeyPatch) -> None:
    door = make_door()
    now_s = door.clock.now_us() // 1_000_000
    claims: dict[str, Any] = {
        "life": {"exp": now_s + 10 * 365 * 86_400},
        "skew": {"iat": now_s + 3600, "exp": now_s + 7200},
        "type": {"exp": float(now_s + 300)},
    }[bound]
    if control == "off" and bound == "life":
        monkeypatch.setattr(own_tokens, "LONGEST_TOKEN_S", 10**9)
    elif control == "off" and bound == "skew":
        monkeypatch.setattr(own_tokens, "CLOCK_LEEWAY_S", 10**6)
    elif control == "off":
        real = own_tokens.principal_of
        monkeypatch.setattr(jwt, "_time", lambda claims, name: int(claims[name]))
        monkeypatch.setattr(own_tokens, "principal_of", lambda c, at: real({**c, "exp": int(c["exp"])}, at))
    assert accepted(door, mint(door, **claims)) is (control == "off")


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
async def test_rs_12_a_token_in_the_query(control: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if control == "off":
        monkeypatch.setattr(edge, "_TOKEN_IN_QUERY", b"\0")
    status, seen, _ = await ask(SERVED, query=b"a=1&access_token=eyJ")
    assert ((status, seen is not None) == (200, True)) is (control == "off")


@BOTH
async def test_rs_12_a_second_authorization_field(control: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks at the first one sees another caller than whoever looks at the last one."""
    if control == "off":
        monkeypatch.setattr(asgi, "header_map", lambda scope: dict(scope["headers"]))
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": dict(MODERN_META)}}
    sent = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/list")]
    sent += [("authorization", "Bearer nobody"), ("authorization", "Bearer alice")]
    async with scripted(fine) as upstream, running(spec("demo", url=upstream.url), people=PEOPLE) as stack:
        reply = await stack.post("/mcp/demo", body, headers=sent)
    assert reply.status_code == (200 if control == "off" else 400)


@BOTH
async def test_rs_12_a_token_in_a_form(control: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control is the edge's; off, a shell that would read the form is reached with it."""
    if control == "off":
        monkeypatch.setattr(edge, "_FORM", b"no/form")
    form = (b"content-type", b"application/x-www-form-urlencoded")
    status, seen, _ = await ask(SERVED, form, path=b"/mcp/files", method="POST")
    assert ((status, seen is not None) == (200, True)) is (control == "off")


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
async def test_rs_16_what_the_caller_authenticates_with_goes_on(control: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control is that headers for an upstream are made anew; off, they are the caller's with ours after them."""
    came: list[tuple[bytes, bytes]] = []
    if control == "off":
        real = mcp_serve.split
        monkeypatch.setattr(mcp_serve, "split", lambda raw: (came.extend(raw), real(raw))[1])
        own = [b"authorization", b"cookie", b"dpop"]
        exchange = mcp_upstream.HTTPLink.exchange

        def passing(link: Any, rpc_id: int, cleared: Any, ours: Any) -> Any:
            return exchange(link, rpc_id, cleared, (*((n, v) for n, v in came if n in own), *ours))

        monkeypatch.setattr(mcp_upstream.HTTPLink, "exchange", passing)
    async with scripted(fine) as upstream, running(spec("demo", url=upstream.url), people=PEOPLE) as stack:
        call = {"name": "echo", "arguments": {"a": 1}}
        await stack.modern("/mcp/demo", "tools/call", call, cookie="session=1", dpop="proof")
        sent = [headers for headers, body in upstream.seen if body.get("method") == "tools/call"]
    assert sent
    leaked = {name.lower() for headers in sent for name in headers} & {"authorization", "cookie", "dpop"}
    assert leaked == ({"authorization", "cookie", "dpop"} if control == "off" else set())


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
def test_rs_19_a_stream_whose_token_was_revoked(control: str, monkeypatch: pytest.MonkeyPatch) -> None:
    door = make_door()
    server, token = door.identity.resource_server, mint(door)
    principal = door.verified(token)
    headers = {b"authorization": f"Bearer {token}".encode()}
    if control == "off":
        monkeypatch.setattr(resource_server.BearerResourceServer, "_recheck", lambda *_: None)
    door.identity.grants.revoke("acme", "u_1", "g", reason="test")
    assert server.still(headers, TIME, principal) is (control == "off")


@BOTH
@pytest.mark.parametrize("path", ["/mcp/nothing", "/mcp", "/mcp/time/"])
async def test_rs_20_metadata_of_a_resource_that_does_not_exist(
    path: str, control: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the control off every path is told to be some resource of ours, and its tokens go wherever it leads."""
    door = make_door()
    if control == "off":
        known = door.identity.resources.at("/mcp/time")
        monkeypatch.setattr(Resources, "at", lambda *_: known)
    async with door.http() as http:
        reply = await http.get(f"/.well-known/oauth-protected-resource{path}")
    assert reply.status_code == (200 if control == "off" else 404)
    assert ("resource" in reply.json()) is (control == "off")


@BOTH
async def test_op_01_a_name_of_the_attackers_that_leads_to_us(control: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if control == "off":
        monkeypatch.setattr(edge.Edge, "_serves", lambda *_: True)
    status, seen, _ = await ask(SERVED, host=b"evil.example")
    assert (status, seen is not None) == ((200, True) if control == "off" else (421, False))


@BOTH
async def test_op_01_a_page_of_another_origin(control: str) -> None:
    served = replace(SERVED, open_to_all=("/",)) if control == "off" else SERVED
    status, seen, _ = await ask(served, (b"origin", b"https://evil.example"), path=b"/consent")
    assert (status, seen is not None) == ((200, True) if control == "off" else (403, False))


@BOTH
async def test_op_02_an_issuer_by_the_name_that_was_asked_for(control: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control is that no header reaches an address; off, metadata is made for the host that the request names."""
    door = make_door()
    front = door.identity.front_door
    if control == "off":

        async def for_whom(request: Any) -> Any:
            host = request.headers.get(b"x-forwarded-host", b"fw.example").decode()
            told = server_metadata(front._settings, front._resources)
            return json_reply({**told, "issuer": f"https://{host}", "token_endpoint": f"https://{host}/token"})

        routes = {**front._routes, "/.well-known/oauth-authorization-server": {"GET": for_whom}}
        monkeypatch.setattr(front, "_routes", routes)
    async with door.http() as http:
        forged = {"host": "evil.example", "x-forwarded-host": "evil.example", "forwarded": "host=evil.example"}
        told = await http.get("/.well-known/oauth-authorization-server", headers=forged)
    assert ("evil" in told.text) is (control == "off")


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
