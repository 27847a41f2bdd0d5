"""Requirements on tokens at the resource that no other file shows: bounds, no oracle, who owns what, what goes no further."""

from __future__ import annotations

import base64
import hmac
from typing import Any

import orjson
import pytest
from joserfc.jwk import ECKey, RSAKey

from firewall.core.bounds import TOKEN_BYTES
from firewall.core.errors import Unauthenticated
from firewall.identity import standing
from firewall.identity.throttle import NODE
from firewall.wire import jwt
from tests.identity.test_issuers import KEY, RSA, Direct, key_set
from tests.identity.test_resource_server import mint, refused
from tests.mcp_gateway.legacy import opened
from tests.mcp_gateway.scripted import event, head, result, scripted
from tests.support.door import GIT, ORIGIN, SERVER_KEY, TIME, Door, make_door
from tests.support.mcp import person, running, spec


def b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def signed_raw(header: bytes, body: bytes) -> str:
    """Return a token whose parts are exactly these bytes, with a good signature of ours over them."""
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
    from cryptography.hazmat.primitives.hashes import SHA256

    signing = b64(header) + b"." + b64(body)
    private: Any = SERVER_KEY.private_key
    r, s = decode_dss_signature(private.sign(signing, ECDSA(SHA256())))
    return (signing + b"." + b64(r.to_bytes(32) + s.to_bytes(32))).decode()


def parts(door: Door, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    head_, body, _ = mint(door, **changes).split(".")
    return tuple(orjson.loads(base64.urlsafe_b64decode(p + "=" * (-len(p) % 4))) for p in (head_, body))  # type: ignore[return-value]


# -- RS-11: bounds and strictness ------------------------------------------------------------------------------


def test_rs_11_a_token_may_have_sixteen_kib_and_not_one_byte_more() -> None:
    door = make_door()
    head_, body = parts(door)
    room = TOKEN_BYTES - len(signed_raw(orjson.dumps(head_), orjson.dumps({**body, "pad": ""})))
    pad = "x" * (room * 3 // 4)
    while len(signed_raw(orjson.dumps(head_), orjson.dumps({**body, "pad": pad}))) > TOKEN_BYTES:
        pad = pad[:-1]
    while len(signed_raw(orjson.dumps(head_), orjson.dumps({**body, "pad": pad + "x"}))) <= TOKEN_BYTES:
        pad += "x"
    assert door.verified(signed_raw(orjson.dumps(head_), orjson.dumps({**body, "pad": pad})))
    long = signed_raw(orjson.dumps(head_), orjson.dumps({**body, "pad": pad + "xxxx"}))
    assert refused(door, long) == "token_shape"


def test_rs_11_a_header_may_have_four_kib_and_not_more() -> None:
    door = make_door()
    head_, body = parts(door)
    assert refused(door, signed_raw(orjson.dumps({**head_, "pad": "x" * 4096}), orjson.dumps(body))) == "jwt_shape"
    assert door.verified(signed_raw(orjson.dumps({**head_, "pad": "x" * 2048}), orjson.dumps(body)))


@pytest.mark.parametrize("part", ["header", "payload"])
def test_rs_11_a_member_that_comes_twice_refuses_the_token_though_its_signature_holds(part: str) -> None:
    door = make_door()
    head_, body = (orjson.dumps(one) for one in parts(door))
    if part == "header":
        head_ = head_[:-1] + b',"alg":"ES256"}'
    else:
        body = body[:-1] + b',"sub":"u_admin"}'
    assert refused(door, signed_raw(head_, body)).startswith("jwt_shape")


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"1", b"null", b"", b"{}x", b"{} {}", b"\xff", b'{"a":1e999}'])
def test_rs_11_a_payload_is_one_json_object_and_nothing_behind_it(body: bytes) -> None:
    door = make_door()
    head_, _ = parts(door)
    assert refused(door, signed_raw(orjson.dumps(head_), body)).startswith("jwt_")


@pytest.mark.parametrize("change", [lambda t: t + "=", lambda t: t + ".", lambda t: t + "\n", lambda t: t + ".AAAA"])
def test_rs_11_a_token_has_one_spelling(change: Any) -> None:
    door = make_door()
    refused(door, change(mint(door)))


# -- RS-01, RS-02: algorithms and keys, with the whole server ------------------------------------------------------


@pytest.mark.parametrize("alg", ["none", "None", "nOnE", "HS256", "RS256", "ES384", "", None])
def test_rs_01_no_other_algorithm_than_our_own_reaches_our_key(
    alg: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = make_door()
    head_, body = parts(door)
    head_ = {**head_, "alg": alg} if alg is not None else {"typ": head_["typ"], "kid": head_["kid"]}
    monkeypatch.setattr(jwt, "verify", lambda *_: pytest.fail("a key was touched"))
    token = (b64(orjson.dumps(head_)) + b"." + b64(orjson.dumps(body)) + b".AAAA").decode()
    assert refused(door, token) == "jwt_alg"


def secrets_of(key: ECKey | RSAKey) -> dict[str, bytes]:
    """Return what a verifier that takes a public key for an HMAC secret could have at hand."""
    public: Any = key.as_dict(private=False)
    raw = public.get("n") or public["x"]
    return {
        "pem": key.as_pem(private=False),
        "pem without its last line end": key.as_pem(private=False).strip(),
        "der": key.as_der(private=False),
        "jwk": orjson.dumps(public),
        "number": base64.urlsafe_b64decode(raw + "=" * (-len(raw) % 4)),
    }


@pytest.mark.parametrize("form", ["pem", "pem without its last line end", "der", "jwk", "number"])
@pytest.mark.parametrize("owner", ["ours", "an issuer's EC key", "an issuer's RSA key"])
async def test_rs_01_a_public_key_is_no_secret_of_hs256(owner: str, form: str) -> None:
    """The signature holds for whoever lets the token choose the algorithm (RFC 8725 §2.1)."""
    door, direct = make_door(), Direct()
    direct.provider.keys = key_set(("k1", KEY), ("r1", RSA))
    key = {"ours": SERVER_KEY, "an issuer's EC key": KEY, "an issuer's RSA key": RSA}[owner]
    if owner == "ours":
        head_, body = parts(door)
    else:
        kid, token = ("r1", direct.token(key=RSA, kid="r1", alg="RS256")) if key is RSA else ("k1", direct.token())
        head_, body = {"typ": "at+jwt", "kid": kid}, orjson.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    signing = b64(orjson.dumps({**head_, "alg": "HS256"})) + b"." + b64(orjson.dumps(body))
    for secret in (secrets_of(key)[form], b""):
        forged = (signing + b"." + b64(hmac.digest(secret, signing, "sha256"))).decode()
        if owner == "ours":
            assert refused(door, forged) == "jwt_alg"
        else:
            assert await direct.refused(forged) == "jwt_alg"
    assert direct.fetches == 0


@pytest.mark.parametrize("name", ["jwk", "jku", "x5u", "x5c", "crit"])
def test_rs_02_a_key_in_the_header_is_never_used_and_nothing_is_fetched(name: str) -> None:
    door = make_door()
    thief = ECKey.generate_key("P-256", private=True)
    head_, body = parts(door)
    value: Any = {"jwk": dict(thief.as_dict(private=False)), "jku": "https://evil.example/jwks"}.get(name, ["x"])
    assert refused(door, signed_raw(orjson.dumps({**head_, name: value}), orjson.dumps(body))) == "jwt_header"
    assert door.fetcher.asked == []


@pytest.mark.parametrize("kid", ["x" * 129, "x" * 10_240, 7, None, ["k1"], {"k": 1}])
def test_rs_03_a_key_id_that_is_no_short_word_is_looked_up_nowhere(kid: Any) -> None:
    door = make_door()
    head_, body = parts(door)
    assert refused(door, signed_raw(orjson.dumps({**head_, "kid": kid}), orjson.dumps(body))).startswith("jwt_")
    assert door.fetcher.asked == []


@pytest.mark.parametrize("typ", [None, "", "JWT", "at+JWT2", 7])
def test_rs_07_a_token_that_does_not_say_that_it_is_an_access_token_is_none(typ: Any) -> None:
    door = make_door()
    head_, body = parts(door)
    head_ = {name: value for name, value in {**head_, "typ": typ}.items() if value is not None}
    assert refused(door, signed_raw(orjson.dumps(head_), orjson.dumps(body))) in ("jwt_claims typ", "jwt_header")


# -- RS-08, RS-10: issuer and times of our own tokens ------------------------------------------------------------------


@pytest.mark.parametrize(
    "iss",
    [
        ORIGIN + "/",
        ORIGIN.upper(),
        "http://fw.example",
        "https://fw.example.evil.example",
        "https://fẃ.example",
        "",
        None,
        [ORIGIN],
    ],
)
def test_rs_08_the_issuer_is_ours_byte_for_byte(iss: Any) -> None:
    door = make_door()
    assert refused(door, mint(door, iss=iss)) == "jwt_claims iss"


@pytest.mark.parametrize("value", ["9999999999", 1.5, 9e99, True, False, None, [], {}, -1, 2**62])
@pytest.mark.parametrize("name", ["exp", "iat"])
def test_rs_10_a_time_is_an_integer(name: str, value: Any) -> None:
    door = make_door()
    refused(door, mint(door, **{name: value}))


@pytest.mark.parametrize(
    ("changes", "good"),
    [
        ({"iat": 30, "exp": 330}, True),  # a clock that is ahead of ours
        ({"iat": 31, "exp": 331}, False),
        ({"iat": -300, "exp": 0}, False),  # its last second is over
        ({"iat": -300, "exp": 1}, True),
        ({"iat": 0, "exp": 24 * 3600}, True),
        ({"iat": 0, "exp": 24 * 3600 + 1}, False),
        ({"iat": 0, "exp": 10 * 365 * 24 * 3600}, False),
        ({"iat": 0, "exp": 0}, False),
        ({"nbf": 0}, True),
        ({"nbf": 1}, False),
    ],
)
def test_rs_10_times_are_within_their_bounds(changes: dict[str, int], good: bool) -> None:
    door = make_door()
    now_s = door.clock.now_us() // 1_000_000
    token = mint(door, **{name: now_s + offset for name, offset in changes.items()})
    if good:
        assert door.verified(token)
    else:
        assert refused(door, token).startswith("jwt_claims")


# -- RS-17: no oracle ------------------------------------------------------------------------------------------------


def wrongs(door: Door) -> dict[str, str]:
    good = mint(door)
    now_s = door.clock.now_us() // 1_000_000
    return {
        "unknown key": mint(door, kid="nobody"),
        "bad signature": good[:-8] + ("A" * 8 if not good.endswith("A" * 8) else "B" * 8),
        "expired": mint(door, iat=now_s - 600, exp=now_s - 300),
        "wrong audience": mint(door, aud=GIT),
        "wrong issuer": mint(door, iss="https://evil.example"),
    }


def test_rs_17_every_refusal_is_the_same_to_its_caller() -> None:
    door = make_door()
    server = door.identity.resource_server
    told = set()
    for token in wrongs(door).values():
        with pytest.raises(Unauthenticated) as caught:
            door.verified(token)
        told.add((caught.value.code, caught.value.scope, server.challenges(TIME, caught.value, "")))
    assert len(told) == 1


def test_rs_17_every_refusal_costs_one_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    door = make_door()
    calls: list[int] = []
    real = jwt.verify
    monkeypatch.setattr(jwt, "verify", lambda *args: (calls.append(1), real(*args))[1])
    for name, token in wrongs(door).items():
        calls.clear()
        refused(door, token)
        assert (name, len(calls)) == (name, 1)


# -- RS-19: tokens of streams --------------------------------------------------------------------------------------------


def test_rs_19_a_token_of_a_stream_is_over_at_its_expiry_to_the_second_and_at_its_revocation() -> None:
    door = make_door()
    server = door.identity.resource_server
    token = mint(door)
    principal = door.verified(token)
    headers = {b"authorization": f"Bearer {token}".encode()}
    assert server.still(headers, TIME, principal)
    assert not server.still(headers, GIT, principal)
    assert not server.still({}, TIME, principal)
    door.clock.advance(299)
    assert server.still(headers, TIME, principal)
    door.clock.advance(1)
    assert not server.still(headers, TIME, principal)


@pytest.mark.parametrize("ending", ["grant", "subject", "session", "client"])
def test_rs_19_each_kind_of_ending_is_seen_at_the_next_look(ending: str) -> None:
    door = make_door()
    server, grants = door.identity.resource_server, door.identity.grants
    token = mint(door, sid="s_1")
    principal = door.verified(token)
    headers = {b"authorization": f"Bearer {token}".encode()}
    if ending == "grant":
        grants.revoke("acme", "u_1", "g", reason="test")
    elif ending == "subject":
        grants.standing.end_subject("acme", "u_1")
    elif ending == "session":
        grants.standing.end("acme", standing.session("s_1"))
    else:
        grants.standing.end(NODE, standing.client("tool"))
    assert not server.still(headers, TIME, principal)
    refused(door, token)


# -- RS-12, RS-14, RS-16: at an endpoint ------------------------------------------------------------------------------------

PEOPLE = {
    "alice": person("demo:read", "demo:write", subject="u_alice"),
    "bob": person("demo:read", "demo:write", subject="u_bob"),
    "elsewhere": person("demo:read", "demo:write", subject="u_alice", tenant="other"),
    "machine": person("demo:read", "demo:write", subject="u_alice", client_id="another-client"),
    "corp": person("demo:read", "demo:write", subject="corp|u_alice", issuer="https://idp.corp.example"),
}


async def fine(asked: dict[str, Any], send: Any) -> None:
    await send(head("text/event-stream") + event(result(asked)))


async def test_rs_12_two_authorization_fields_a_token_in_a_form_or_in_the_query_are_a_400() -> None:
    """One answer for the three places, before anybody is known, and nothing of what was sent is in it (RFC 6750 §2)."""
    async with scripted(fine) as upstream, running(spec("demo", url=upstream.url), people=PEOPLE) as stack:
        twice = [("authorization", "Bearer alice"), ("authorization", "Bearer alice")]
        assert (await stack.post("/mcp/demo", {}, token="", headers=twice)).status_code == 400
        form = {"content-type": "application/x-www-form-urlencoded"}
        body = b"access_token=alice"
        answers = [await stack.post("/mcp/demo", body, token=token, headers=form) for token in ("", "alice", "nobody")]
        answers.append(await stack.post("/mcp/demo?access_token=alice", {}, token=""))
        assert {(answer.status_code, answer.content) for answer in answers} == {(400, answers[0].content)}
        assert b"alice" not in answers[0].content
        assert "www-authenticate" not in answers[0].headers
        assert upstream.seen == []


async def test_rs_12_a_member_of_the_body_is_no_token_either() -> None:
    """A JSON body is no place for a token in any standard: it is not looked for there, so it opens nothing."""
    async with scripted(fine) as upstream, running(spec("demo", url=upstream.url), people=PEOPLE) as stack:
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "access_token": "alice"}
        assert (await stack.post("/mcp/demo", body, token="")).status_code == 401
        assert upstream.seen == []


@pytest.mark.parametrize("who", ["bob", "elsewhere", "machine", "corp"])
async def test_rs_14_a_session_is_unknown_to_everybody_else_with_a_good_token(who: str) -> None:
    async with scripted(fine) as upstream, running(spec("demo", url=upstream.url), people=PEOPLE) as stack:
        mine = await opened(stack, token="alice")
        mine.token = who
        assert (await mine.request("tools/list")).status_code == 404
        mine.session = "made-up"
        assert (await mine.request("tools/list")).status_code == 404


async def test_rs_14_the_twin_of_it_is_known_to_its_owner() -> None:
    async with scripted(fine) as upstream, running(spec("demo", url=upstream.url), people=PEOPLE) as stack:
        mine = await opened(stack, token="alice")
        assert (await mine.request("tools/list")).status_code == 200


async def test_rs_16_nothing_that_the_caller_authenticates_with_reaches_the_upstream() -> None:
    async with scripted(fine) as upstream, running(spec("demo", url=upstream.url), people=PEOPLE) as stack:
        await stack.modern(
            "/mcp/demo",
            "tools/call",
            {"name": "echo", "arguments": {"a": 1}},
            cookie="session=1",
            dpop="proof",
            **{"proxy-authorization": "Basic eDp5", "x-api-key": "k", "txn-token": "t", "x-forwarded-user": "root"},
        )
        sent = [headers for headers, body in upstream.seen if body.get("method") == "tools/call"]
    assert sent
    forbidden = {"authorization", "cookie", "dpop", "proxy-authorization", "x-api-key", "txn-token", "x-forwarded-user"}
    assert not forbidden & {name.lower() for headers in sent for name in headers}
