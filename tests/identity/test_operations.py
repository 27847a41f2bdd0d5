"""OP-03…OP-06, OP-09: what the front door refuses to start with, never tells, always records, and does not have."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from firewall.core.errors import AuditUnavailable, ConfigFault
from firewall.core.jsonvalue import JSONObject
from firewall.identity import serve, settings
from firewall.identity.rfc9068.rotation import KeyRotation
from firewall.identity.settings import ClientSettings, IdentitySettings
from firewall.net.runtime import FakeClock
from firewall.state import keys as keys_module
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


@pytest.mark.parametrize("secret", ["", "changeme", "0" * 63, "g" * 64, "a" * 32 + "é" + "a" * 31])
def test_op_03_a_client_secret_that_is_no_digest_stops_the_start(secret: str) -> None:
    client = ClientSettings("a", "A", auth_method="client_secret_basic", secret_sha256=secret)
    with pytest.raises(ConfigFault):
        IdentitySettings(public_url="https://fw.example", clients=(client,))


@pytest.mark.parametrize("secret", ["secret", "changeme", "password", ""])
def test_op_03_a_client_secret_that_everybody_knows_stops_the_start(secret: str) -> None:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    for known in (digest, digest.upper()):
        client = ClientSettings("a", "A", auth_method="client_secret_basic", secret_sha256=known)
        with pytest.raises(ConfigFault) as caught:
            IdentitySettings(public_url="https://fw.example", clients=(client,))
        assert (caught.value.code, digest in caught.value.diagnostics()) == ("client_secret", False)


async def test_op_03_twin_without_the_check_a_password_goes_over_the_network_in_clear(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings, "check_public_url", lambda _url: None)
    door = make_door(public_url="http://fw.example")
    await door.user()
    query = authorize_query(resource="http://fw.example/mcp/time")
    async with door.http() as http:
        browser = Browser(http, origin="http://fw.example")
        done = await browser.sign_in(await browser.open(query))
    assert (done.status_code, done.url.scheme) == (200, "http")
    assert "secure" not in str(done.request.headers).lower()


def test_op_03_twin_without_the_check_a_key_that_others_read_would_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    KeyRing(tmp_path).ec_signing_key("as")
    (tmp_path / "ec-as.1").chmod(0o644)
    with pytest.raises(ConfigFault):
        KeyRing(tmp_path).ec_signing_key("as")
    monkeypatch.setattr(keys_module, "_read", lambda directory, file: (tmp_path / file).read_bytes())
    assert KeyRing(tmp_path).ec_signing_key("as")


async def test_op_03_twin_without_the_check_a_secret_that_everybody_knows_signs_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings, "KNOWN_SECRETS", frozenset())
    digest = hashlib.sha256(b"changeme").hexdigest()
    client = ClientSettings(
        "a",
        "A",
        auth_method="client_secret_basic",
        grant_types=("client_credentials",),
        tenant="acme",
        secret_sha256=digest,
    )
    door = make_door(clients=(client,))
    async with door.http() as http:
        form = {"grant_type": "client_credentials", "resource": TIME, "scope": "time:read"}
        assert (await http.post("/token", data=form, auth=("a", "changeme"))).status_code == 200


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


def weak_in(told: JSONObject) -> list[str]:
    """Return what a server metadata document offers that OAuth 2.1 has done away with, as ``member: value``."""
    forbidden = {
        "response_types_supported": lambda value: value != "code",
        "response_modes_supported": lambda value: value != "query",
        "code_challenge_methods_supported": lambda value: value != "S256",
        "grant_types_supported": lambda value: value in ("password", "implicit"),
        "_auth_methods_supported": lambda value: value in ("client_secret_post", "client_secret_jwt"),
        "introspection_endpoint_auth_methods_supported": lambda value: value == "none",
        "_alg_values_supported": lambda value: value == "none" or value.startswith("HS"),
    }
    return [
        f"{name}: {value}"
        for name, values in told.items()
        for ending, is_weak in forbidden.items()
        if name.endswith(ending) and isinstance(values, list)
        for value in values
        if is_weak(value)
    ]


async def test_op_09_what_is_not_there_is_not_advertised() -> None:
    door = make_door()
    async with door.http() as http:
        told = (await http.get(WELL_KNOWN)).json()
    assert weak_in(told) == []
    assert told["response_types_supported"] == ["code"]
    assert told["response_modes_supported"] == ["query"]
    assert told["code_challenge_methods_supported"] == ["S256"]


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("grant_types_supported", "password"),
        ("grant_types_supported", "implicit"),
        ("response_types_supported", "token"),
        ("response_modes_supported", "fragment"),
        ("code_challenge_methods_supported", "plain"),
        ("token_endpoint_auth_methods_supported", "client_secret_post"),
        ("introspection_endpoint_auth_methods_supported", "none"),
        ("token_endpoint_auth_signing_alg_values_supported", "HS256"),
    ],
)
async def test_op_09_the_check_finds_each_of_them_where_it_is_planted(
    member: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = serve.server_metadata
    monkeypatch.setattr(
        serve, "server_metadata", lambda *given: {**real(*given), member: [*real(*given)[member], value]}
    )
    door = make_door()
    async with door.http() as http:
        told = (await http.get(WELL_KNOWN)).json()
    assert weak_in(told) == [f"{member}: {value}"]


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
