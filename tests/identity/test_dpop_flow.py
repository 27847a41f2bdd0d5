"""DPoP end to end: bound codes, tokens and refresh tokens, what each refuses, and what changes for nobody else."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import httpx2
import orjson
import pytest
from mcp.shared.auth import OAuthToken

from firewall.core.errors import Malformed, Unauthenticated
from firewall.core.principal import Principal
from firewall.identity.rfc6750 import own_tokens
from firewall.identity.rfc9449 import proof as proofs
from firewall.identity.rfc9449 import verifier
from firewall.identity.settings import ClientSettings
from firewall.state.replays import UsedOnce
from tests.identity.test_registration import NATIVE, open_door, register
from tests.support.door import (
    CALLBACK,
    CIMD_DOCUMENT,
    CIMD_URL,
    ORIGIN,
    RESOURCES,
    TIME,
    VERIFIER,
    Browser,
    Door,
    assertion,
    authorize_query,
    make_door,
    redeem,
    refresh,
)
from tests.support.dpop import Holder

TOKEN_URL = f"{ORIGIN}/token"
HOLDER, THIEF = Holder(), Holder()


def now_s(door: Door) -> int:
    return door.clock.now_us() // 1_000_000


async def post(http: httpx2.AsyncClient, form: Mapping[str, str], proof: str = "") -> httpx2.Response:
    return await http.post("/token", data=dict(form), headers={"DPoP": proof} if proof else {})


async def bound(door: Door, http: httpx2.AsyncClient, holder: Holder = HOLDER, **query: str) -> httpx2.Response:
    """Sign in and redeem the code with a proof."""
    await door.user()
    issued = (await Browser(http).code(authorize_query(**query)))["code"]
    return await post(http, code_form(issued), holder.proof("POST", TOKEN_URL, now_s=now_s(door)))


def code_form(issued: str) -> dict[str, str]:
    return {
        "grant_type": "authorization_code",
        "code": issued,
        "redirect_uri": CALLBACK,
        "client_id": CIMD_URL,
        "code_verifier": VERIFIER,
        "resource": TIME,
    }


def refresh_form(token: str) -> dict[str, str]:
    return {"grant_type": "refresh_token", "refresh_token": token, "client_id": CIMD_URL}


def claims_of(token: str) -> dict[str, Any]:
    body = token.split(".")[1]
    found: dict[str, Any] = orjson.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return found


def use(
    door: Door,
    token: str,
    proof: str | None,
    *,
    scheme: str = "DPoP",
    method: str = "POST",
    path: str = "/mcp/time",
    handed: bool = False,
) -> Principal:
    headers = {b"authorization": f"{scheme} {token}".encode()}
    if proof is not None:
        headers[b"dpop"] = proof.encode()
    return door.identity.resource_server.authenticate(
        headers, TIME, default_scope="time:read", method=method, path=path, handed=handed
    )


def refused(door: Door, token: str, proof: str | None, **how: Any) -> str:
    with pytest.raises(Unauthenticated) as caught:
        use(door, token, proof, **how)
    return caught.value.detail


# -- at the token endpoint ---------------------------------------------------------------------------------


async def test_a_proof_at_the_token_endpoint_binds_the_token_to_its_key() -> None:
    door = make_door()
    async with door.http() as http:
        reply = await bound(door, http)
    assert (reply.status_code, reply.json()["token_type"]) == (200, "DPoP")
    assert claims_of(reply.json()["access_token"])["cnf"] == {"jkt": HOLDER.thumbprint}
    assert door.named("identity.token.issued")[-1]["jkt"] == HOLDER.thumbprint
    assert len(reply.headers["dpop-nonce"]) == 32


async def test_without_a_proof_everything_is_a_bearer_token_as_the_official_client_wants_it() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        reply = await redeem(http, (await Browser(http).code())["code"])
    assert OAuthToken.model_validate(reply.json()).token_type == "Bearer"
    assert "cnf" not in claims_of(reply.json()["access_token"])
    assert "jkt" not in door.named("identity.token.issued")[-1]
    assert "dpop-nonce" not in reply.headers


async def test_rs_13_a_bad_proof_gives_no_token_and_spends_no_code() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        issued = (await Browser(http).code())["code"]
        for bad in (
            HOLDER.proof("GET", TOKEN_URL, now_s=now_s(door)),
            HOLDER.proof("POST", f"{ORIGIN}/mcp/time", now_s=now_s(door)),
            HOLDER.proof("POST", TOKEN_URL, now_s=now_s(door), jti=None),
            "x.y.z",
        ):
            reply = await post(http, code_form(issued), bad)
            assert (reply.status_code, reply.json()["error"]) == (400, "invalid_dpop_proof")
        good = await post(http, code_form(issued), HOLDER.proof("POST", TOKEN_URL, now_s=now_s(door)))
    assert good.status_code == 200


async def test_rs_13_a_proof_serves_for_one_token_request() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        first, second = (await browser.code())["code"], (await browser.code())["code"]
        proof = HOLDER.proof("POST", TOKEN_URL, now_s=now_s(door))
        assert (await post(http, code_form(first), proof)).status_code == 200
        assert (await post(http, code_form(second), proof)).json()["error"] == "invalid_dpop_proof"


async def test_rs_13_a_client_with_another_clock_is_told_a_nonce_and_comes_again() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        issued = (await Browser(http).code())["code"]
        late = now_s(door) - 3600
        told = await post(http, code_form(issued), HOLDER.proof("POST", TOKEN_URL, now_s=late))
        assert (told.status_code, told.json()["error"]) == (400, "use_dpop_nonce")
        again = HOLDER.proof("POST", TOKEN_URL, now_s=late, nonce=told.headers["dpop-nonce"])
        assert (await post(http, code_form(issued), again)).status_code == 200


async def test_where_nonces_are_demanded_the_assertion_of_a_client_is_not_spent_by_the_first_try() -> None:
    door = make_door(dpop_nonce_required=True)
    async with door.http() as http:
        form = {
            "grant_type": "client_credentials",
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": assertion(door),
            "resource": TIME,
        }
        told = await post(http, form, HOLDER.proof("POST", TOKEN_URL, now_s=now_s(door)))
        assert told.json()["error"] == "use_dpop_nonce"
        nonce = told.headers["dpop-nonce"]
        reply = await post(http, form, HOLDER.proof("POST", TOKEN_URL, now_s=now_s(door), nonce=nonce))
    assert claims_of(reply.json()["access_token"])["cnf"]["jkt"] == HOLDER.thumbprint


async def test_rs_13_a_code_that_was_asked_for_with_a_key_is_redeemed_with_that_key_alone() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        for proof in ("", THIEF.proof("POST", TOKEN_URL, now_s=now_s(door))):
            issued = (await browser.code(authorize_query(dpop_jkt=HOLDER.thumbprint)))["code"]
            assert (await post(http, code_form(issued), proof)).json()["error"] == "invalid_grant"
        issued = (await browser.code(authorize_query(dpop_jkt=HOLDER.thumbprint)))["code"]
        good = await post(http, code_form(issued), HOLDER.proof("POST", TOKEN_URL, now_s=now_s(door)))
    assert good.json()["token_type"] == "DPoP"


async def test_rs_13_a_refresh_token_of_a_public_client_is_bound_to_the_key_of_its_code() -> None:
    door = make_door()
    async with door.http() as http:
        first = (await bound(door, http)).json()
        form = refresh_form(first["refresh_token"])
        assert (await refresh(http, first["refresh_token"])).json()["error"] == "invalid_grant"
        stolen = THIEF.proof("POST", TOKEN_URL, now_s=now_s(door))
        assert (await post(http, form, stolen)).json()["error"] == "invalid_grant"
        good = await post(http, form, HOLDER.proof("POST", TOKEN_URL, now_s=now_s(door)))
        assert good.json()["token_type"] == "DPoP"
        again = await refresh(http, good.json()["refresh_token"])
    assert again.json()["error"] == "invalid_grant"


@pytest.mark.parametrize("said_by", ["operator", "document", "registration"])
async def test_rs_13_a_client_that_wants_bound_tokens_gets_no_others(said_by: str) -> None:
    if said_by == "registration":
        door = open_door()
        made = (await register(door, **NATIVE, dpop_bound_access_tokens=True)).json()
        assert made["dpop_bound_access_tokens"] is True
        client_id = made["client_id"]
    elif said_by == "operator":
        client = ClientSettings("bound", "Bound", redirect_uris=(CALLBACK,), tenant="", dpop=True)
        door, client_id = make_door(clients=(client,)), "bound"
    else:
        document = {**CIMD_DOCUMENT, "dpop_bound_access_tokens": True}
        door, client_id = make_door(cimd_pinned={CIMD_URL: document}), CIMD_URL
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        query = authorize_query(client_id=client_id)
        form = {**code_form((await browser.code(query))["code"]), "client_id": client_id}
        assert (await post(http, form)).json()["error"] == "invalid_dpop_proof"
        form = {**code_form((await browser.code(query))["code"]), "client_id": client_id}
        good = await post(http, form, HOLDER.proof("POST", TOKEN_URL, now_s=now_s(door)))
    assert good.json()["token_type"] == "DPoP"


# -- at the resource ---------------------------------------------------------------------------------------


async def token_of(door: Door) -> str:
    async with door.http() as http:
        found: str = (await bound(door, http)).json()["access_token"]
    return found


def made(door: Door, token: str, holder: Holder = HOLDER, **changes: Any) -> str:
    values: dict[str, Any] = {"method": "POST", "url": TIME, **changes}
    return holder.proof(values.pop("method"), values.pop("url"), now_s=now_s(door), token=token, **values)


async def test_a_bound_token_works_with_a_fresh_proof_for_each_request_and_each_method() -> None:
    door = make_door()
    token = await token_of(door)
    assert use(door, token, made(door, token)).cnf == HOLDER.thumbprint
    assert use(door, token, made(door, token)).client_id == CIMD_URL
    assert use(door, token, made(door, token, method="GET"), method="GET")
    assert use(door, token, made(door, token, url=TIME + "/"), path="/mcp/time/")


async def test_rs_13_a_bound_token_is_nothing_without_its_proof_or_as_bearer() -> None:
    door = make_door()
    token = await token_of(door)
    for warm in (False, True):  # with an empty cache, and with the token in it
        if warm:
            use(door, token, made(door, token))
        assert refused(door, token, None) == "dpop_missing"
        assert refused(door, token, None, scheme="Bearer") == "jwt_claims cnf"
        assert refused(door, token, made(door, token), scheme="Bearer") == "jwt_claims cnf"
        assert refused(door, token, made(door, token, THIEF)) == "dpop_key"
        assert refused(door, token, made(door, token, method="GET")) == "dpop_method"
        assert refused(door, token, made(door, token, url=f"{ORIGIN}/mcp/git")) == "dpop_url"
        assert refused(door, token, made(door, token), method="", path="") == "dpop_method"
        assert refused(door, token, made(door, "a.b.c")) == "dpop_token"


async def test_rs_13_a_proof_is_used_once_here_and_a_neighbour_that_took_it_already_may_hand_it_over() -> None:
    door = make_door()
    token = await token_of(door)
    proof = made(door, token)
    use(door, token, proof)
    assert refused(door, token, proof) == "dpop_replayed"
    assert use(door, token, proof, handed=True)


async def test_rs_13_a_bearer_token_under_the_dpop_scheme_is_refused() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        token = (await redeem(http, (await Browser(http).code())["code"])).json()["access_token"]
    assert refused(door, token, made(door, token)) == "jwt_claims cnf"
    assert use(door, token, None, scheme="Bearer")


async def test_rs_13_a_resource_that_demands_bound_tokens_takes_no_others() -> None:
    resources = tuple(
        type(one)(one.path, one.title, one.scopes, one.default_scopes, dpop_required=one.path == "/mcp/time")
        for one in RESOURCES
    )
    door = make_door(resources=resources)
    await door.user()
    async with door.http() as http:
        plain = (await redeem(http, (await Browser(http).code())["code"])).json()["access_token"]
        metadata = (await http.get("/.well-known/oauth-protected-resource/mcp/time")).json()
        other = (await http.get("/.well-known/oauth-protected-resource/mcp/git")).json()
    assert refused(door, plain, None, scheme="Bearer") == "jwt_claims cnf"
    assert metadata["dpop_bound_access_tokens_required"] is True
    assert "dpop_bound_access_tokens_required" not in other


async def test_metadata_says_that_proofs_are_understood() -> None:
    door = make_door()
    async with door.http() as http:
        server = (await http.get("/.well-known/oauth-authorization-server")).json()
    assert server["dpop_signing_alg_values_supported"] == ["ES256"]


async def test_rs_13_a_resource_that_wants_a_nonce_says_so_and_takes_the_next_proof() -> None:
    door = make_door(dpop_nonce_required=True)
    server = door.identity.resource_server
    await door.user()
    async with door.http() as http:
        issued = (await Browser(http).code())["code"]
        first = await post(http, code_form(issued), HOLDER.proof("POST", TOKEN_URL, now_s=now_s(door)))
        nonce = first.headers["dpop-nonce"]
        again = HOLDER.proof("POST", TOKEN_URL, now_s=now_s(door), nonce=nonce)
        token = (await post(http, code_form(issued), again)).json()["access_token"]
    with pytest.raises(Unauthenticated) as caught:
        use(door, token, made(door, token, nonce=nonce))  # the token endpoint's nonce is not the resource's
    headers = server.challenges(TIME, caught.value, "")
    assert headers[0][1].startswith(b'Bearer resource_metadata="')
    assert b"error" not in headers[0][1]
    assert headers[1] == (
        b"www-authenticate",
        b'DPoP error="use_dpop_nonce", error_description="A nonce is needed", algs="ES256"',
    )
    told = dict(headers)[b"dpop-nonce"].decode()
    assert use(door, token, made(door, token, nonce=told))


async def test_the_challenges_are_bearer_first_and_the_official_client_reads_them_as_meant() -> None:
    from mcp.client.auth.utils import extract_resource_metadata_from_www_auth, extract_scope_from_www_auth

    server = make_door().identity.resource_server
    for error in (Unauthenticated("token_missing", scope="time:read"), Unauthenticated("token_invalid", scope="a b")):
        headers = server.challenges(TIME, error, "time:read")
        reply = httpx2.Response(401, headers=[(n.decode(), v.decode()) for n, v in headers])
        assert extract_scope_from_www_auth(reply) == error.scope
        metadata = f"{ORIGIN}/.well-known/oauth-protected-resource/mcp/time"
        assert extract_resource_metadata_from_www_auth(reply) == metadata
        assert [v.split(b" ")[0] for _, v in headers] == [b"Bearer", b"DPoP"]


async def test_a_stream_of_a_bound_token_is_looked_at_again_without_a_new_proof() -> None:
    door = make_door()
    token = await token_of(door)
    principal = use(door, token, made(door, token))
    headers = {b"authorization": f"DPoP {token}".encode()}
    server = door.identity.resource_server
    assert server.still(headers, TIME, principal)
    door.clock.advance(120)
    assert server.still(headers, TIME, principal)
    door.identity.grants.revoke("acme", principal.subject, principal.grant_id, reason="test")
    assert not server.still(headers, TIME, principal)


# -- twins: each attack works once its control is off --------------------------------------------------------


async def as_bearer(door: Door, token: str) -> Principal:
    return use(door, token, None, scheme="Bearer")


async def with_another_key(door: Door, token: str) -> Principal:
    return use(door, token, made(door, token, THIEF))


async def replayed(door: Door, token: str) -> Principal:
    proof = made(door, token)
    use(door, token, proof)
    return use(door, token, proof)


async def of_another_url(door: Door, token: str) -> Principal:
    return use(door, token, made(door, token, url="https://evil.example/"))


async def of_another_token(door: Door, token: str) -> Principal:
    return use(door, token, made(door, "x.y.z"))


async def of_yesterday(door: Door, token: str) -> Principal:
    return use(door, token, HOLDER.proof("POST", TIME, now_s=now_s(door) - 86_400, token=token))


@pytest.mark.parametrize("control", ["on", "off"])
@pytest.mark.parametrize(
    ("attack", "owner", "name", "value"),
    [
        (as_bearer, own_tokens, "confirmation", lambda _claims: ""),
        (with_another_key, verifier.hmac, "compare_digest", lambda _a, _b: True),
        (replayed, UsedOnce, "first", lambda *_, **__: True),
        (of_another_url, proofs, "_same_url", lambda *_: True),
        (of_another_token, proofs, "_hashes_to", lambda *_: True),
        (of_yesterday, proofs, "_check_time", lambda *_: 0),
    ],
    ids=lambda one: getattr(one, "__name__", None),
)
async def test_rs_13_an_attack_fails_with_its_control_and_works_without(
    attack: Any, owner: Any, name: str, value: Any, control: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = make_door()
    token = await token_of(door)
    if control == "off":
        monkeypatch.setattr(owner, name, value)
        assert await attack(door, token)
    else:
        with pytest.raises((Unauthenticated, Malformed)):
            await attack(door, token)
