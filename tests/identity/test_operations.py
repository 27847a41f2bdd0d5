"""OP-03…OP-06, OP-09: what the front door refuses to start with, never tells, always records, and does not have."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from firewall.core.errors import AuditUnavailable, ConfigFault
from firewall.core.jsonvalue import JSONObject
from firewall.identity.rfc9068.rotation import KeyRotation
from firewall.identity.settings import ClientSettings, IdentitySettings
from firewall.net.runtime import FakeClock
from firewall.state.keys import KeyRing
from firewall.state.memory import MemoryStore
from firewall.state.shared import SharedMarks
from firewall.wire import jwt
from tests.support.door import (
    CALLBACK,
    CIMD_URL,
    TIME,
    VERIFIER,
    Browser,
    assertion,
    authorize_query,
    callback_of,
    client_credentials,
    make_door,
    redeem,
    refresh,
)

WELL_KNOWN = "/.well-known/oauth-authorization-server"


# -- OP-03 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["http://fw.example", "http://10.0.0.1:8080", "http://127.0.0.1.nip.io", "http://[::]"])
def test_op_03_a_public_url_without_tls_stops_the_start(url: str) -> None:
    with pytest.raises(ConfigFault) as caught:
        IdentitySettings(public_url=url)
    assert caught.value.code == "public_url"
    assert IdentitySettings(public_url=url.replace("http://", "https://")).secure


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_op_03_a_signing_key_that_others_can_read_stops_the_start(tmp_path: Path, mode: int) -> None:
    clock = FakeClock()
    store = MemoryStore(clock)

    def start() -> KeyRotation:
        return KeyRotation(KeyRing(tmp_path), store, SharedMarks(None), clock, lambda _e, _f: None)

    tmp_path.chmod(0o700)
    start()
    key = tmp_path / "ec-as.1"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    key.chmod(mode)
    with pytest.raises(ConfigFault) as caught:
        start()
    assert caught.value.code == "key_permissions"
    assert "PRIVATE" not in caught.value.diagnostics()


@pytest.mark.parametrize("secret", ["", "changeme", "0" * 63])
def test_op_03_a_client_secret_that_is_no_digest_stops_the_start(secret: str) -> None:
    client = ClientSettings("a", "A", auth_method="client_secret_basic", secret_sha256=secret)
    with pytest.raises(ConfigFault):
        IdentitySettings(public_url="https://fw.example", clients=(client,))


# -- OP-05 -------------------------------------------------------------------------------------------------


async def test_op_05_nothing_that_was_sent_or_given_stands_in_a_record_or_an_error() -> None:
    door = make_door()
    await door.user()
    secrets: list[str] = [VERIFIER, "a-long-random-secret", "correct horse battery staple"]
    told: list[str] = []
    async with door.http() as http:
        code = (await Browser(http).code())["code"]
        secrets.append(code)
        told.append((await redeem(http, code, code_verifier="w" * 43)).text)
        told.append((await redeem(http, code)).text)
        code = (await Browser(http).code())["code"]
        body = (await redeem(http, code)).json()
        second = (await refresh(http, body["refresh_token"])).json()
        proof = assertion(door)
        service = (await client_credentials(http, proof)).json()
        told.append((await client_credentials(http, proof)).text)
        told.append((await refresh(http, body["refresh_token"], client_id="tool")).text)
        door.clock.advance(31)
        told.append((await refresh(http, body["refresh_token"])).text)
        told.append((await http.post("/token", data={"grant_type": "x" + second["refresh_token"]})).text)
        form = {"grant_type": "client_credentials", "resource": TIME}
        told.append((await http.post("/token", data=form, auth=("svc-basic", "wrong-but-secret"))).text)
        secrets += [code, proof, service["access_token"], "wrong-but-secret", *http.cookies.values()]
        secrets += [one[name] for one in (body, second) for name in ("access_token", "refresh_token")]
    record = str(door.events)
    for secret in secrets:
        assert secret not in record
        assert not any(secret in text for text in told)


# -- OP-06 -------------------------------------------------------------------------------------------------


async def test_op_06_every_issue_refresh_denial_and_revocation_is_recorded_with_who_and_what() -> None:
    door = make_door()
    user = await door.user()
    async with door.http() as http:
        body = (await redeem(http, (await Browser(http).code())["code"])).json()
        body = (await refresh(http, body["refresh_token"])).json()
        await client_credentials(http, assertion(door))
        await client_credentials(http, assertion(door, jti="2"), scope="git:read")
        await http.post("/revoke", data={"token": body["refresh_token"], "client_id": CIMD_URL})
    claims = jwt.parse_compact(body["access_token"].encode()).claims
    issued = door.named("identity.token.issued")
    assert [facts["grant_type"] for facts in issued] == ["authorization_code", "refresh_token", "client_credentials"]
    assert issued[1] == {
        "tenant": "acme",
        "sub": user.subject,
        "client_id": CIMD_URL,
        "resource": TIME,
        "scope": "time:read",
        "gid": claims["gid"],
        "jti": claims["jti"],
        "grant_type": "refresh_token",
    }
    assert door.named("identity.token.refused") == [
        {"error": "invalid_scope", "code": "scope_empty", "grant_type": "client_credentials", "client_id": "svc-batch"}
    ]
    revoked = door.named("identity.grant.revoked")
    assert [(facts["gid"], facts["reason"]) for facts in revoked] == [(claims["gid"], "revoked_by_client")]


@pytest.mark.parametrize("grant_type", ["authorization_code", "refresh_token", "client_credentials"])
async def test_op_06_what_cannot_be_recorded_is_not_given(grant_type: str) -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        code = (await Browser(http).code())["code"]
        first = (await redeem(http, (await Browser(http).code())["code"])).json()
        door.audit_down = True
        reply = await {
            "authorization_code": lambda: redeem(http, code),
            "refresh_token": lambda: refresh(http, first["refresh_token"]),
            "client_credentials": lambda: client_credentials(http, assertion(door)),
        }[grant_type]()
        assert reply.status_code == 503
        assert "access_token" not in reply.text
        door.audit_down = False
        # The twin: with a record it would have been given.
        assert (await client_credentials(http, assertion(door, jti="2"))).status_code == 200


def test_op_06_a_rotation_is_recorded(tmp_path: Path) -> None:
    clock, events = FakeClock(), list[tuple[str, JSONObject]]()
    tmp_path.chmod(0o700)
    keys = KeyRing(tmp_path)
    store, marks = MemoryStore(clock), SharedMarks(None)
    rotation = KeyRotation(keys, store, marks, clock, lambda event, facts: events.append((event, facts)))
    kid = rotation.rotate(by="uid:1000")
    assert events == [("identity.key.rotated", {"kid": kid, "by": "uid:1000", "compromised": False})]

    def down(_event: str, _facts: JSONObject) -> None:
        raise AuditUnavailable("audit_unavailable")

    with pytest.raises(AuditUnavailable):
        KeyRotation(keys, store, marks, clock, down).rotate(by="uid:1000")


# -- OP-09 -------------------------------------------------------------------------------------------------


async def test_op_09_what_is_not_there_is_not_advertised() -> None:
    door = make_door()
    async with door.http() as http:
        told = (await http.get(WELL_KNOWN)).json()
    assert told["response_types_supported"] == ["code"]
    assert told["response_modes_supported"] == ["query"]
    assert told["code_challenge_methods_supported"] == ["S256"]
    assert not {"password", "implicit"} & set(told["grant_types_supported"])
    for name, methods in told.items():
        if name.endswith("_auth_methods_supported"):
            assert not {"client_secret_post", "client_secret_jwt"} & set(methods)
    assert "none" not in told["introspection_endpoint_auth_methods_supported"]
    for name, algorithms in told.items():
        if name.endswith("_alg_values_supported"):
            assert not [alg for alg in algorithms if alg == "none" or alg.startswith("HS")], name


@pytest.mark.parametrize("response_type", ["token", "id_token", "code token", "code id_token", "none", "Code"])
async def test_op_09_no_other_response_type_works(response_type: str) -> None:
    door = make_door()
    async with door.http() as http:
        reply = await Browser(http).open(authorize_query(response_type=response_type))
        assert callback_of(reply)["error"] == "unsupported_response_type"
        assert "#" not in reply.headers["location"]


@pytest.mark.parametrize("mode", ["fragment", "form_post", "query.jwt", "web_message"])
async def test_op_09_no_other_response_mode_works(mode: str) -> None:
    door = make_door()
    async with door.http() as http:
        reply = await Browser(http).open({**authorize_query(), "response_mode": mode})
        assert callback_of(reply)["error"] == "invalid_request"
        assert "#" not in reply.headers["location"]


async def test_op_09_no_password_buys_a_token() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        form = {"grant_type": "password", "username": "ada", "password": "correct horse battery staple"}
        reply = await http.post("/token", data={**form, "client_id": "tool", "scope": "time:read"})
    assert reply.json()["error"] == "unsupported_grant_type"


@pytest.mark.parametrize("uri", ["https://tool.example/*", "https://*.tool.example/cb", "*", CALLBACK + "*"])
def test_op_09_no_redirect_has_a_wildcard(uri: str) -> None:
    with pytest.raises(Exception, match="redirect"):
        make_door(clients=(ClientSettings("wild", "Wild", redirect_uris=(uri,)),))


async def test_op_09_no_token_is_taken_from_a_url() -> None:
    door = make_door()
    async with door.http() as http:
        form = {"grant_type": "client_credentials", "resource": TIME}
        auth = ("svc-basic", "a-long-random-secret")
        assert (await http.post("/token", params=form, auth=auth)).json()["error"] == "invalid_request"
        assert (await http.get("/token", params=form, auth=auth)).status_code == 405
        assert (await http.post("/token", data=form, auth=auth)).status_code == 200
