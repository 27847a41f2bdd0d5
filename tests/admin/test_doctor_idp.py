"""``bartizan doctor idp``: direct mode only for an issuer that proves every need, each shown missing once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import ECKey

from firewall import config as configuration
from firewall.admin.doctor.idp import Report, examine_idp, shape_of
from firewall.cli.main import main
from firewall.config import front_door
from firewall.core.errors import ConfigFault
from firewall.core.jsonvalue import JSONObject
from firewall.identity.issuers.preflight import Preflights
from firewall.identity.oidc.findings import candidates
from firewall.net.dial import Fetched
from firewall.net.runtime import FakeClock
from firewall.state.sqlite import SQLiteStore
from firewall.wire import jwt, strict_json
from tests.support.door import public_jwks
from tests.support.idp import ISSUER, Idp, Idps

PUBLIC = "https://fw.example"
FILES = f"{PUBLIC}/mcp/files"
CLOCK = FakeClock()
NOW_S = CLOCK.now_us() // 1_000_000


class Good(Idp):
    """An issuer that meets every need; `probe` is what it answers to a silent request."""

    probe: str = "https://client.invalid/callback?error=login_required&state=probe"

    def answer(self, url: str, headers: Any, body: bytes | None) -> Fetched:
        if url.startswith(f"{self.base}/authorize?"):
            return Fetched(303, {"location": self.probe})
        if url == f"{self.base}/introspect":
            assert b"Basic " in dict(headers)[b"authorization"]
            return Fetched(200, {}, strict_json.dumps(self.userinfo))
        return super().answer(url, headers, body)


def issuer(**metadata: Any) -> Good:
    more = {
        "client_id_metadata_document_supported": True,
        "token_endpoint_auth_methods_supported": ["none", "private_key_jwt"],
        **metadata,
    }
    return Good(metadata=more)


def token(idp: Idp, *, typ: str = "at+jwt", key: ECKey | None = None, **changes: Any) -> str:
    claims: JSONObject = {
        "iss": ISSUER,
        "aud": FILES,
        "sub": "00u1",
        "client_id": "app",
        "iat": NOW_S,
        "exp": NOW_S + 300,
        "jti": "1",
        **changes,
    }
    kept = {name: value for name, value in claims.items() if value is not None}
    return jwt.sign(kept, key or idp.key, alg="ES256", typ=typ, kid=idp.kid)


def profile(**changes: Any) -> dict[str, Any]:
    return {"issuer": ISSUER, "jwks_uri": f"{ISSUER}/jwks", "audiences": {"/mcp/files": [FILES]}, **changes}


def provider(**changes: Any) -> dict[str, Any]:
    return {"issuer": ISSUER, "client_id": "bartizan", "client_secret": "env:S", **changes}


def ask(
    state: Path,
    idp: Idp,
    *,
    identity: dict[str, Any] | None = None,
    sample: str = "",
    named: str = ISSUER,
    resource: str = "",
) -> Report:
    raw = {"public_url": PUBLIC, "state_dir": str(state), "identity": identity or {}}
    config = configuration.build({**raw, "mcp": {"files": {"url": "https://files.example/mcp"}}})
    environment = {"S": "a secret"}
    more: dict[str, Any] = {"clock": CLOCK, "environment": environment, "token": sample, "fetcher": Idps([idp])}
    return examine_idp(config, named, resource=resource, **more)


def outcomes(report: Report) -> dict[str, str]:
    return {found.need: found.outcome for found in report.examined.findings}


def test_an_issuer_that_meets_every_need_is_proved_and_told_how_to_be_configured(tmp_path: Path) -> None:
    idp = issuer()
    first = ask(tmp_path, idp, sample=token(idp))
    assert first.verdict() == "direct: yes"
    assert f"audiences:\n        /mcp/files: [{FILES}]" in first.snippet
    assert first.proved == ()  # there is no profile yet that could be proved
    written = configuration.build({"public_url": PUBLIC, **strict_yaml(first.snippet)})
    (made,) = front_door.issuers(written)
    assert (made.issuer, made.jwks_uri) == (ISSUER, f"{ISSUER}/jwks")
    again = ask(tmp_path, idp, identity={"issuers": {"corp": profile()}}, sample=token(idp))
    assert again.proved == ("corp",)
    assert proof(tmp_path, profile()).direct


def strict_yaml(text: str) -> dict[str, Any]:
    import yaml

    value = yaml.safe_load(text)
    assert isinstance(value, dict)
    return value


def proof(state: Path, given: dict[str, Any]) -> Any:
    config = configuration.build({"public_url": PUBLIC, "identity": {"issuers": {"corp": given}}})
    store = SQLiteStore(state / "state.db")
    try:
        return Preflights(store, CLOCK).read(front_door.issuers(config)[0])
    finally:
        store.close()


@pytest.mark.parametrize(
    ("metadata", "need"),
    [
        ({"issuer": ISSUER + "/"}, "issuer"),
        ({"issuer": None}, "issuer"),
        ({"token_endpoint": "http://idp.acme.example/token"}, "endpoints"),
        ({"jwks_uri": None}, "endpoints"),
        ({"code_challenge_methods_supported": ["plain"]}, "s256"),
        ({"code_challenge_methods_supported": None}, "s256"),
        ({"jwks_uri": f"{ISSUER}/nowhere"}, "keys"),
    ],
)
def test_every_need_of_the_documents_is_missed_when_it_is_not_met(
    tmp_path: Path, metadata: dict[str, Any], need: str
) -> None:
    idp = issuer(**metadata)
    report = ask(tmp_path, idp, identity={"issuers": {"corp": profile()}}, sample=token(idp))
    assert need in report.examined.missing
    assert report.verdict().startswith("direct: no because ")
    assert report.proved == ()
    assert need in proof(tmp_path, profile()).missing


@pytest.mark.parametrize(
    ("made", "need"),
    [
        (None, "token"),
        ({"typ": "JWT"}, "typ"),
        ({"aud": "account"}, "aud"),
        ({"aud": FILES + "/"}, "aud"),
        ({"aud": None}, "aud"),
        ({"iss": "https://other.example"}, "issuer"),
        ({"exp": NOW_S + 10 * 365 * 24 * 3600}, "lifetime"),
        ({"exp": NOW_S - 1, "iat": NOW_S - 300}, "lifetime"),
        ({"iat": None}, "lifetime"),
        ({"key": ECKey.generate_key("P-256", private=True)}, "token"),
    ],
)
def test_what_a_token_says_is_proved_by_a_token_alone(tmp_path: Path, made: dict[str, Any] | None, need: str) -> None:
    idp = issuer()
    report = ask(tmp_path, idp, sample=token(idp, **made) if made is not None else "")
    assert need in report.examined.missing


def test_an_opaque_token_is_asked_about_where_the_profile_says_so(tmp_path: Path) -> None:
    idp = issuer(introspection_endpoint=f"{ISSUER}/introspect")
    assert "token" in ask(tmp_path, idp, sample="opaque").examined.missing
    asks = {"url": f"{ISSUER}/introspect", "client_id": "fw", "client_secret": "env:S"}
    given = {"issuers": {"corp": profile(introspection=asks)}}
    idp.userinfo = {"active": True, "aud": FILES, "exp": NOW_S + 300}
    assert ask(tmp_path, idp, identity=given, sample="opaque").verdict() == "direct: yes"
    for answer, need in (({"active": False}, "token"), ({"active": True, "aud": "x", "exp": NOW_S + 9}, "aud")):
        idp.userinfo = answer
        assert need in ask(tmp_path, idp, identity=given, sample="opaque").examined.missing


def test_a_provider_that_refuses_the_resource_is_found_out_before_anybody_signs_in(tmp_path: Path) -> None:
    idp = issuer()
    given = {"providers": {"corp": provider()}}
    assert outcomes(ask(tmp_path, idp, identity=given, sample=token(idp)))["resource"] == "ok"
    idp.probe = "https://client.invalid/callback?error=invalid_target&state=probe"
    report = ask(tmp_path, idp, identity=given, sample=token(idp))
    assert "resource" in report.examined.missing
    idp.probe = "https://client.invalid/error?code=7"
    assert outcomes(ask(tmp_path, idp, identity=given, sample=token(idp)))["resource"] == "warn"


def test_a_profile_that_names_other_keys_than_the_issuer_is_not_proved(tmp_path: Path) -> None:
    idp = issuer()
    other = profile(jwks_uri="https://elsewhere.example/jwks")
    report = ask(tmp_path, idp, identity={"issuers": {"corp": other}}, sample=token(idp))
    assert report.examined.missing == ("profile",)
    assert not proof(tmp_path, other).direct


def test_what_is_only_worth_knowing_does_not_forbid_direct_mode(tmp_path: Path) -> None:
    idp = issuer(
        authorization_response_iss_parameter_supported=None,
        client_id_metadata_document_supported=None,
        registration_endpoint=f"{ISSUER}/register",
    )
    report = ask(tmp_path, idp, sample=token(idp, aud=[FILES, "other"], exp=NOW_S + 7200))
    assert report.examined.direct
    assert {need for need, outcome in outcomes(report).items() if outcome == "warn"} == {
        "iss",
        "registration",
        "resource",
        "aud",
        "lifetime",
    }


def test_an_issuer_that_is_down_or_says_nonsense_is_a_finding(tmp_path: Path) -> None:
    idp = issuer()
    idp.down = True
    assert ask(tmp_path, idp).examined.missing == ("discovery",)
    for body in (b"<html>", b"[]", b'{"issuer":1,"issuer":2}'):
        idp = issuer()
        idp.answer = lambda *_a, body=body: Fetched(200, {}, body)  # type: ignore[method-assign]
        report = ask(tmp_path, idp)
        assert report.examined.missing == ("discovery",)
        assert "<html>" not in report.verdict()


def test_broker_mode_is_what_everybody_else_is_told(tmp_path: Path) -> None:
    report = ask(tmp_path, issuer(code_challenge_methods_supported=None))
    assert "providers:" in report.snippet
    assert "unadvertised_s256: true" in report.snippet
    assert f"{PUBLIC}/callback/corp" in report.snippet
    assert not (tmp_path / "state.db").exists()
    configuration.build({"public_url": PUBLIC, **strict_yaml(report.snippet)})


def test_the_three_addresses_are_tried_in_the_order_of_clients() -> None:
    assert candidates("https://idp.example/tenant") == (
        "https://idp.example/.well-known/oauth-authorization-server/tenant",
        "https://idp.example/.well-known/openid-configuration/tenant",
        "https://idp.example/tenant/.well-known/openid-configuration",
    )
    assert len(candidates("https://idp.example")) == len(candidates("https://idp.example/")) == 2


def test_products_are_known_by_their_addresses() -> None:
    for address, shape in (
        ("https://login.microsoftonline.com/x/v2.0", "entra"),
        ("https://acme.okta.com", "okta"),
        ("https://acme.eu.auth0.com/", "auth0"),
        ("https://accounts.google.com", "google"),
        ("https://sso.example/realms/staff", "keycloak"),
        ("https://okta.com.evil.example", "generic"),
        ("https://evilokta.com", "generic"),
    ):
        assert shape_of(address) == shape


def test_the_command_says_yes_or_no_and_its_exit_code_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    idp = issuer()
    sample = tmp_path / "token"
    sample.write_text(token(idp, exp=4102444800, iat=4102444500))
    monkeypatch.setattr("firewall.admin.doctor.idp.Dialler", lambda _clock, _settings: _Closing([idp]))
    file = tmp_path / "bartizan.yaml"
    file.write_text(f"public_url: {PUBLIC}\nstate_dir: {tmp_path}/state\n")
    line = ["--config", str(file), "doctor", "idp", ISSUER, "--resource", "/mcp/files", "--token", str(sample)]
    assert main(line) == 1
    told = capsys.readouterr().out
    assert "direct: no because the token is not valid now" in told
    assert sample.read_text() not in told
    assert main([*line[:-2], "--json"]) == 1
    document = strict_json.loads(capsys.readouterr().out.encode())
    assert isinstance(document, dict)
    assert document["missing"] == ["token"]
    assert main(["--config", str(file), "doctor", "idp"]) == 4
    sample.write_text(" \n")
    assert main(line) == 4
    assert f"{sample} is empty" in capsys.readouterr().err
    with pytest.raises(ConfigFault):
        ask_bad(tmp_path)


class _Closing(Idps):
    async def close(self) -> None:
        return None


def ask_bad(state: Path) -> None:
    config = configuration.build({"public_url": PUBLIC, "state_dir": str(state)})
    examine_idp(config, "not an address", clock=CLOCK, environment={}, fetcher=Idps([issuer()]))


def test_symmetric_keys_in_a_key_set_are_no_keys(tmp_path: Path) -> None:
    idp = issuer()
    idp.keys = {"keys": [{"kty": "oct", "k": "AAAA", "kid": "k1"}]}
    assert "keys" in ask(tmp_path, idp, sample=token(idp)).examined.missing
    idp.keys = public_jwks(idp.key, idp.kid)  # type: ignore[assignment]
    assert "keys" not in ask(tmp_path, idp, sample=token(idp)).examined.missing


def test_what_is_suggested_overwrites_nothing_and_names_the_issuer_as_it_names_itself(tmp_path: Path) -> None:
    others = {"providers": {name: provider(issuer=f"https://{name}.example") for name in ("corp", "corp2")}}
    report = ask(tmp_path, issuer(), identity=others, named=f"{ISSUER}/")
    assert "\n    corp3:\n" in report.snippet
    assert f"\n      issuer: {ISSUER}\n" in report.snippet
    assert f"{PUBLIC}/callback/corp3" in report.snippet
    elsewhere = ask(tmp_path, issuer(issuer="https://evil.example"))
    assert f"\n      issuer: {ISSUER}\n" in elsewhere.snippet


def test_what_is_suggested_for_an_issuer_on_this_machine_says_so_and_can_be_used(tmp_path: Path) -> None:
    idp = Good("http://127.0.0.1:9", metadata={"code_challenge_methods_supported": ["S256"]})
    report = ask(tmp_path, idp, named="http://127.0.0.1:9")
    assert "\n      network: loopback\n" in report.snippet
    made = configuration.build({"public_url": PUBLIC, **strict_yaml(report.snippet)})
    assert made.identity.providers["corp"].network == "loopback"


def test_a_resource_that_is_none_is_told(tmp_path: Path) -> None:
    for path, wrong in (
        ("/mcp/files", False),
        ("/mcp", False),
        ("/mcp/flies", True),
        ("https://fw.example/mcp/files", True),
    ):
        report = ask(tmp_path, issuer(), resource=path)
        assert (outcomes(report).get("here") == "warn") == wrong, path
