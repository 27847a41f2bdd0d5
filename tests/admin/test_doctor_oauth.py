"""Each of the twenty complaints (oauth reference §13) turns its check red where it would come true, and only there."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from firewall import config as configuration
from firewall.admin import doctor
from firewall.admin.doctor import machine, node, oauth
from firewall.admin.doctor.check import Check, Patient
from firewall.admin.doctor.oauth import trace, upstreams
from firewall.config import front_door
from firewall.core.errors import ConfigFault
from firewall.identity.issuers.preflight import Preflights
from firewall.net.runtime import FakeClock, RandomIds
from firewall.record.audit import AuditWriter
from firewall.state.sqlite import SQLiteStore
from tests.support.composed import free_port
from tests.support.door import CLIENT_KEY, public_jwks

CLOCK = FakeClock()
KEY = Ed25519PrivateKey.generate()
PUBLIC = "https://fw.example"
FILES = {"files": {"url": "https://files.example/mcp"}}
ISSUER = {
    "issuer": "https://idp.acme.example",
    "jwks_uri": "https://idp.acme.example/jwks",
    "audiences": {"/mcp/files": [f"{PUBLIC}/mcp/files"], "/mcp": [f"{PUBLIC}/mcp"]},
}
PROVIDER = {"issuer": "https://idp.acme.example", "client_id": "bartizan", "client_secret": "env:IDP_SECRET"}
ENTRA = "https://login.microsoftonline.com/9188040d/v2.0"
LOOKS = dict(oauth.EXAMINATIONS)


def patient(state: Path, *, running: bool = False, reach: bool = False, **raw: Any) -> Patient:
    values = {"state_dir": str(state), "public_url": PUBLIC, "mcp": FILES, **raw}
    return Patient(configuration.build(values), CLOCK, running, reach)


def seen(check: str, who: Patient) -> Check:
    """Return what one check says; whatever is not well says by what it was seen, and how to mend it."""
    (found,) = list(LOOKS[check](who))
    assert found.name == check
    assert found.text
    if found.status != "ok":
        assert found.mend
        assert found.evidence or check == "oauth-13", found
    return found


def client(**given: Any) -> dict[str, Any]:
    return {"clients": {"tool": {"redirect_uris": ["http://127.0.0.1/callback"], **given}}}


@dataclass(frozen=True)
class Case:
    """What is wrong, and the same put right."""

    check: str
    status: str
    wrong: dict[str, Any]
    right: dict[str, Any] = field(default_factory=dict)
    about: str = ""


CASES = [
    Case(
        "oauth-01",
        "warn",
        {"public_url": "http://127.0.0.1:8700", "trusted_proxies": ["10.0.0.1"]},
        {"trusted_proxies": ["10.0.0.1"]},
    ),
    Case("oauth-02", "fail", {"identity": client(redirect_uris=["http://0.0.0.0:3000/cb"])}, {"identity": client()}),
    Case("oauth-02", "fail", {"identity": client(redirect_uris=["http://tool.example/cb"])}, about="clear"),
    Case("oauth-02", "warn", {"identity": client(redirect_uris=["https://localhost:3000/cb"])}, about="https"),
    Case(
        "oauth-03",
        "fail",
        {"identity": client(resource="/mcp/files/", grants=["client_credentials"], jwks=public_jwks(CLIENT_KEY))},
        {"identity": client(resource="/mcp/files", grants=["client_credentials"], jwks=public_jwks(CLIENT_KEY))},
    ),
    Case("oauth-03", "fail", {"identity": {"issuers": {"corp": {**ISSUER, "audiences": {"/mcp/file": ["x"]}}}}}),
    Case("oauth-03", "fail", {"identity": {"dpop": {"required_at": ["/mcp/file"]}}}, about="dpop"),
    Case("oauth-04", "warn", {"mcp": {"files": {"url": "https://files.example/mcp?project=7"}}}, {"mcp": FILES}),
    Case(
        "oauth-04", "fail", {"mcp": {"files": {"url": "https://files.example/mcp?project=7", "auth": {}}}}, about="auth"
    ),
    Case(
        "oauth-05",
        "fail",
        {"identity": {"providers": {"corp": {**PROVIDER, "issuer": ENTRA}}}},
        {"identity": {"providers": {"corp": {**PROVIDER, "issuer": ENTRA, "shape": "entra"}}}},
    ),
    Case("oauth-05", "warn", {"identity": {"providers": {"corp": {**PROVIDER, "issuer": "https://acme.okta.com"}}}}),
    Case("oauth-05", "fail", {"identity": {"issuers": {"corp": {**ISSUER, "issuer": ENTRA}}}}, about="direct"),
    Case(
        "oauth-05",
        "fail",
        {"mcp": {"files": {"url": "https://files.example/mcp", "auth": {"issuer": ENTRA}}}},
        {"mcp": {"files": {"url": "https://files.example/mcp", "auth": {"issuer": ENTRA, "send_resource": False}}}},
        about="upstream",
    ),
    Case("oauth-06", "warn", {"identity": client(grants=["authorization_code"])}, {"identity": client()}),
    Case("oauth-09", "warn", {"hosts": ["fw-internal.example"]}, {"hosts": ["fw.example"]}),
    Case(
        "oauth-10",
        "warn",
        {"identity": {"trusted_issuers": {"https://idp.acme.example": {"jwks": public_jwks(CLIENT_KEY)}}}},
        {"identity": {"trusted_issuers": {"https://idp.acme.example": {"jwks_uri": "https://idp.acme.example/jwks"}}}},
    ),
    Case(
        "oauth-11",
        "warn",
        {"mcp": {"files": {**FILES["files"], "tenants": ["a", "b"], "credential": {"env": "TOKEN"}}}},
        {"mcp": {"files": {**FILES["files"], "tenants": ["a"], "credential": {"env": "TOKEN"}}}},
    ),
    Case(
        "oauth-12",
        "fail",
        {"identity": {"issuers": {"corp": {**ISSUER, "audiences": {"/mcp/files": ["https://files.example/mcp"]}}}}},
        {"identity": {"issuers": {"corp": ISSUER}}},
    ),
    Case(
        "oauth-12",
        "fail",
        {"identity": {"issuers": {"corp": {**ISSUER, "audiences": {"/mcp/files": ["api"], "/mcp": ["api"]}}}}},
        about="blend",
    ),
    Case("oauth-13", "fail", {"identity": {"issuers": {"corp": ISSUER}}}),
    Case("oauth-13", "fail", {"identity": {"providers": {"corp": {**PROVIDER, "trusted_audiences": [PUBLIC]}}}}),
    Case("oauth-16", "warn", {"identity": {"registration": "on"}}, {"identity": {"registration": "off"}}),
    Case("oauth-16", "ok", {"public_url": "http://127.0.0.1:8700", "identity": {"registration": "on"}}),
    Case(
        "oauth-18",
        "fail",
        {"identity": {"cimd": {"pinned": {"https://app.example/c": {"client_id": "https://app.example/c/"}}}}},
        {
            "identity": {
                "cimd": {
                    "pinned": {
                        "https://app.example/c": {
                            "client_id": "https://app.example/c",
                            "client_name": "App",
                            "redirect_uris": ["http://localhost/callback"],
                            "nobody_knows_this": {"x": 1},
                        }
                    }
                }
            }
        },
    ),
    Case("oauth-19", "fail", {"identity": client(scopes=["file:read"])}, {"identity": client(scopes=["files:*"])}),
    Case(
        "oauth-19",
        "fail",
        {"mcp": {"files": {**FILES["files"], "step_up": {"acr": "urn:acme:gold"}}}},
        {
            "mcp": {"files": {**FILES["files"], "step_up": {"acr": "urn:acme:gold"}}},
            "identity": {"providers": {"corp": {**PROVIDER, "acr": {"3": "urn:acme:gold"}}}},
        },
        about="step-up",
    ),
    Case("oauth-19", "fail", {"identity": {"providers": {"corp": {**PROVIDER, "scopes_of": {"g": "file:*"}}}}}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.check}-{case.about or case.status}")
def test_a_misconfiguration_turns_its_check_red_and_putting_it_right_turns_it_back(case: Case, tmp_path: Path) -> None:
    assert seen(case.check, patient(tmp_path, **case.wrong)).status == case.status
    if case.right:
        assert seen(case.check, patient(tmp_path, **case.right)).status == "ok"


def test_registration_on_loopback_is_well_for_what_it_is(tmp_path: Path) -> None:
    here = patient(tmp_path, public_url="http://127.0.0.1:8700", identity={"registration": "on"})
    assert "those of this machine" in seen("oauth-16", here).text
    assert "known by their documents" in seen("oauth-16", patient(tmp_path)).text


def test_every_complaint_has_a_check_and_a_sound_installation_passes_them_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [name for name, _ in oauth.EXAMINATIONS] == [f"oauth-{n:02}" for n in range(1, 21)]
    who = patient(tmp_path, demo=True, public_url="http://127.0.0.1:8700")
    assert {seen(name, who).status for name in LOOKS} == {"ok"}
    monkeypatch.setattr(machine, "EXAMINATIONS", ())
    monkeypatch.setattr(node, "EXAMINATIONS", ())
    document = doctor.as_json(doctor.examine(who.config, clock=CLOCK))
    named = [row["name"] for row in document["checks"]]  # type: ignore[union-attr, index, call-overload]
    assert set(LOOKS) <= set(named)


# -- what a running node sees of itself ------------------------------------------------------------------------


@contextmanager
def site(pages: dict[str, Any], port: int = 0) -> Iterator[int]:
    """Serve JSON on a port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = pages.get(self.path)
            self.send_response(200 if page is not None else 404)
            self.end_headers()
            self.wfile.write(json.dumps(page).encode())

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join(5)
        server.server_close()


def metadata(issuer: str) -> dict[str, str]:
    return {"issuer": issuer, "token_endpoint": f"{issuer}/token", "jwks_uri": f"{issuer}/.well-known/jwks.json"}


@pytest.mark.parametrize(
    ("told", "status"),
    [
        (lambda public: metadata(public), "ok"),
        (lambda public: metadata("http://internal:8080"), "fail"),
        (lambda public: {**metadata(public), "token_endpoint": "http://internal:8080/token"}, "fail"),
        (lambda public: {**metadata(public), "issuer": public.replace("http", "https")}, "fail"),
        (lambda public: None, "warn"),
    ],
)
def test_oauth_01_what_a_proxy_makes_of_our_metadata_is_seen_from_outside(
    told: Any, status: str, tmp_path: Path
) -> None:
    port = free_port()
    public = f"http://127.0.0.1:{port}"
    with site({"/.well-known/oauth-authorization-server": told(public)}, port):
        assert seen("oauth-01", patient(tmp_path, running=True, public_url=public)).status == status


def test_oauth_01_a_public_address_that_leads_nowhere_is_told(tmp_path: Path) -> None:
    public = f"http://127.0.0.1:{free_port()}"
    assert seen("oauth-01", patient(tmp_path, running=True, public_url=public)).status == "warn"


def test_oauth_15_a_proxy_that_swallows_the_inserted_path_is_seen(tmp_path: Path) -> None:
    port = free_port()
    public = f"http://127.0.0.1:{port}"
    well_known = "/.well-known/oauth-protected-resource"
    whole = {f"{well_known}{path}": {"resource": public + path} for path in ("/mcp/files", "/mcp")}
    who = patient(tmp_path, running=True, public_url=public)
    with site(whole, port):
        assert seen("oauth-15", who).status == "ok"
    with site({well_known: {"resource": public}}, port):
        assert seen("oauth-15", who).status == "fail"
    with site({**whole, f"{well_known}/mcp": {"resource": public + "/mcp/"}}, port):
        assert seen("oauth-15", who).status == "fail"


# -- providers ------------------------------------------------------------------------------------------------------


def test_oauth_14_a_provider_that_does_not_answer_as_it_must_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IDP_SECRET", "a secret")
    port = free_port()
    issuer = f"http://127.0.0.1:{port}"
    given = {**PROVIDER, "issuer": issuer, "network": "loopback"}
    who = patient(tmp_path, reach=True, identity={"providers": {"corp": given}})
    good = {
        **metadata(issuer),
        "jwks_uri": f"{issuer}/jwks",
        "authorization_endpoint": f"{issuer}/authorize",
        "code_challenge_methods_supported": ["S256"],
    }
    page, keys = "/.well-known/openid-configuration", {"/jwks": public_jwks(CLIENT_KEY)}
    with site({page: good, **keys}, port):
        assert seen("oauth-14", who).status == "ok"
    for pages, why in (
        ({page: {**good, "issuer": issuer + "/"}, **keys}, "issuer"),
        ({page: {**good, "code_challenge_methods_supported": []}, **keys}, "s256"),
        ({page: good, "/jwks": {"keys": []}}, "jwks_invalid"),
        ({}, "status 404"),
    ):
        with site(pages, port):
            found = seen("oauth-14", who)
        assert found.status == "fail"
        assert why in found.text
    assert seen("oauth-14", who).status == "fail"  # nobody answers at all
    assert "not asked" in seen("oauth-14", Patient(who.config, CLOCK)).text


@pytest.mark.parametrize(
    ("where", "given"),
    [
        ("client svc", {"clients": {"svc": {"grants": ["client_credentials"]}}}),
        ("trusted issuer https://idp.example", {"trusted_issuers": {"https://idp.example": {}}}),
        ("transmitter corp", {"signals": {"corp": {"issuer": "https://i.example", "push_secret": "env:IDP_SECRET"}}}),
        (
            "platform prod",
            {
                "workloads": {
                    "prod": {"kind": "spiffe", "issuer": "prod.example", "clients": {"spiffe://prod.example/a": "b"}}
                }
            },
        ),
    ],
    ids=["client", "trusted_issuer", "transmitter", "platform"],
)
def test_oauth_14_every_key_set_that_is_fetched_is_asked_for_on_its_own_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, given: dict[str, Any]
) -> None:
    monkeypatch.setenv("IDP_SECRET", "a secret of some length")
    port = free_port()
    ((entry,),) = (table.values() for table in given.values())
    entry |= {"jwks_uri": f"http://127.0.0.1:{port}/keys", "network": "loopback"}
    given |= {"clients": {**given.get("clients", {}), "b": {"grants": ["client_credentials"]}}}
    who = patient(tmp_path, reach=True, identity=given)
    with site({"/keys": public_jwks(CLIENT_KEY)}, port):
        assert seen("oauth-14", who).status == "ok"
        assert "1 key set " in seen("oauth-14", who).text
        entry["network"] = "private"
        found = seen("oauth-14", patient(tmp_path, reach=True, identity=given))
    assert found.status == "fail"
    assert f"{where} cannot be used: blocked_address" in found.text


@pytest.mark.parametrize("network", ["private", "loopback", "public"])
@pytest.mark.parametrize(
    "given",
    [
        {"clients": {"svc": {"grants": ["client_credentials"], "jwks_uri": "http://127.0.0.1/k"}}},
        {"trusted_issuers": {"https://idp.example": {"jwks_uri": "http://127.0.0.1/k"}}},
    ],
    ids=["client", "trusted_issuer"],
)
def test_keys_over_plain_http_are_refused_in_the_configuration_unless_they_are_near(network: str, given: Any) -> None:
    ((kind, table),) = given.items()
    ((name, entry),) = table.items()
    text = {"version": 1, "identity": {kind: {name: {**entry, "network": network}}}}
    if network == "public":
        with pytest.raises(ConfigFault) as refused:
            configuration.build(text)
        assert "plain http is for network private or loopback" in refused.value.detail
    else:
        assert configuration.build(text)


def test_oauth_14_a_missing_secret_is_told_before_anybody_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IDP_SECRET", raising=False)
    given = {"identity": {"providers": {"corp": PROVIDER}}}
    assert seen("oauth-14", patient(tmp_path, **given)).status == "warn"  # not the environment that the node will have
    assert seen("oauth-14", patient(tmp_path, running=True, **given)).status == "fail"
    file = tmp_path / "secret"
    file.write_text("a secret")
    file.chmod(0o644)
    loose = {"identity": {"providers": {"corp": {**PROVIDER, "client_secret": f"file:{file}"}}}}
    found = seen("oauth-14", patient(tmp_path, **loose))
    assert found.status == "fail"
    assert "readable by others" in found.evidence
    file.chmod(0o600)
    assert seen("oauth-14", patient(tmp_path, **loose)).status == "ok"


def test_oauth_13_an_issuer_is_well_once_it_is_proved_and_covers_every_resource(tmp_path: Path) -> None:
    who = patient(tmp_path, identity={"issuers": {"corp": ISSUER}})
    store = SQLiteStore(tmp_path / "state.db")
    Preflights(store, CLOCK).write(front_door.issuers(who.config)[0], ())
    store.close()
    assert seen("oauth-13", who).status == "ok"
    part = {"issuers": {"corp": {**ISSUER, "audiences": {"/mcp/files": [f"{PUBLIC}/mcp/files"]}}}}
    half = patient(tmp_path, identity=part)
    assert "changed since" in seen("oauth-13", half).text
    store = SQLiteStore(tmp_path / "state.db")
    Preflights(store, CLOCK).write(front_door.issuers(half.config)[0], ())
    store.close()
    found = seen("oauth-13", half)
    assert (found.status, found.evidence) == ("warn", "/mcp")


# -- the machine ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mounts", "kind", "status"),
    [
        ("overlay / overlay rw 0 0\ntmpfs /run tmpfs rw 0 0\n", "overlay", "warn"),
        ("/dev/sda1 / ext4 rw 0 0\ntmpfs /srv tmpfs rw 0 0\n", "tmpfs", "warn"),
        (
            "overlay / overlay rw 0 0\n/dev/sdb /srv/with\\040space ext4 rw 0 0\n/dev/sdc /srv ext4 rw 0 0\n",
            "ext4",
            "ok",
        ),
        ("/dev/sda1 / btrfs rw 0 0\nbroken line\n", "btrfs", "ok"),
    ],
)
def test_oauth_08_state_that_a_restart_forgets_is_told(
    mounts: str, kind: str, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mounts"
    file.write_text(mounts)
    assert upstreams.filesystem(Path("/srv/state"), file) == kind
    monkeypatch.setattr(upstreams, "filesystem", lambda _path: kind)
    assert seen("oauth-08", patient(tmp_path)).status == status
    assert seen("oauth-08", patient(tmp_path, demo=True)).status == "ok"


def test_oauth_17_a_web_proxy_that_nobody_uses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert seen("oauth-17", patient(tmp_path)).status == "ok"
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy.example:3128")
    found = seen("oauth-17", patient(tmp_path))
    assert found.status == "warn"
    assert "secret" not in repr(found)
    assert seen("oauth-17", patient(tmp_path, identity={"cimd": {"policy": "off"}})).status == "ok"


def test_oauth_17_known_documents_that_cannot_be_fetched_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from firewall.admin.doctor.oauth import clients

    for name in clients.PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(clients, "KNOWN", ("https://localhost/oauth/client.json",))
    who = {"identity": {"cimd": {"policy": "any"}}}
    found = seen("oauth-17", patient(tmp_path, reach=True, **who))
    assert (found.status, found.evidence) == ("warn", "https://localhost/oauth/client.json: blocked_address")


# -- the records ------------------------------------------------------------------------------------------------------


def written(directory: Path, *events: dict[str, Any], before: int = 0, clock: FakeClock = CLOCK) -> None:
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    writer = AuditWriter(directory, KEY, clock, RandomIds(), hmac_key=b"k" * 32)
    for number in range(before):
        writer.append({"v": 1, "kind": "auth", "event": "identity.login", "tenant": "acme", "sub": f"u_{number}"})
    for event in events:
        writer.append({"v": 1, "kind": "auth", **event})
    writer.close()


@pytest.mark.parametrize("before", [0, 600, 3000])
def test_oauth_07_refresh_tokens_that_came_back_too_late_are_counted(before: int, tmp_path: Path) -> None:
    who = patient(tmp_path)
    ended = {
        "event": "identity.grant.revoked",
        "tenant": "acme",
        "sub": "u_1",
        "gid": "g_1",
        "reason": "refresh_reused",
    }
    written(who.config.audit_dir, {**ended, "reason": "revoked_by_user"}, before=before)
    assert seen("oauth-07", who).status == "ok"
    written(who.config.audit_dir, ended, ended)
    found = seen("oauth-07", who)
    assert found.status == "warn"
    assert found.text.startswith("2 OAuth grants")
    assert "g_1" in found.evidence


def test_oauth_20_why_sign_ins_failed_is_told_without_reading_the_records_by_hand(tmp_path: Path) -> None:
    who = patient(tmp_path)
    refused = {"event": "identity.token.refused", "error": "invalid_client", "code": "client_secret"}
    failed = {"event": "identity.idp.failed", "idp": "corp", "code": "jwt_claims", "detail": "aud"}
    assert seen("oauth-20", who).status == "ok"
    written(who.config.audit_dir, {"event": "identity.login", "tenant": "acme", "sub": "u_1"})
    assert "1 event of" in seen("oauth-20", who).text
    written(who.config.audit_dir, failed, failed, refused)
    found = seen("oauth-20", who)
    assert found.status == "warn"
    assert found.evidence.startswith("2 × identity.idp.failed corp jwt_claims aud; 1 × identity.token.refused")
    later = Patient(who.config, FakeClock(CLOCK.now_us() + 2 * trace.DAY_US))
    assert seen("oauth-20", later).status == "ok"


def test_oauth_20_a_client_that_asks_silently_or_is_told_a_nonce_has_no_complaint(tmp_path: Path) -> None:
    who = patient(tmp_path)
    silent = {"event": "identity.authorize.refused", "client_id": "tool", "error": "login_required"}
    nonce = {"event": "identity.token.refused", "client_id": "tool", "error": "use_dpop_nonce", "code": "dpop_nonce"}
    written(who.config.audit_dir, silent, nonce)
    assert seen("oauth-20", who).status == "ok"
    written(who.config.audit_dir, {**silent, "error": "invalid_request", "code": "redirect_unknown"})
    assert seen("oauth-20", who).evidence.startswith("1 × identity.authorize.refused invalid_request redirect_unknown")


def test_oauth_19_a_program_that_is_told_again_and_again_what_it_lacks_is_named(tmp_path: Path) -> None:
    """It renews its token in place of asking for more: what a call recorded, read back from the log."""
    who = patient(tmp_path)
    refused = {"kind": "decision", "fault": "scope_missing", "gid": "g_1", "scope": "files:write", "tenant": "acme"}
    others = [{**refused, "gid": f"g_{n}"} for n in range(2, 12)]
    written(who.config.audit_dir, *others, *[refused] * (trace.ROUNDS - 1), {**refused, "scope": "files:read"})
    assert seen("oauth-19", who).status == "ok"
    written(who.config.audit_dir, {**refused, "fault": "denied"}, {**refused, "gid": ""}, {**refused, "scope": ""})
    assert seen("oauth-19", who).status == "ok"
    written(who.config.audit_dir, refused)
    found = seen("oauth-19", who)
    assert found.status == "warn"
    assert f"{trace.ROUNDS} times" in found.text
    assert found.evidence.startswith("gid g_1 lacks files:write; bartizan doctor trace g_1")
    later = Patient(who.config, FakeClock(CLOCK.now_us() + 2 * trace.DAY_US))
    assert seen("oauth-19", later).status == "ok"


def test_a_damaged_log_is_no_traceback(tmp_path: Path) -> None:
    who = patient(tmp_path)
    written(who.config.audit_dir, before=300)
    (bundle,) = [p for p in who.config.audit_dir.glob("log_*/tile/entries/**/*") if p.is_file()][:1]
    bundle.chmod(0o600)
    bundle.write_bytes(b"\xff")
    assert seen("oauth-20", who).status == "ok"
