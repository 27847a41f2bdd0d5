"""Workloads as clients: JWT-SVIDs and Kubernetes service account tokens, signed for real, through the front door."""

from __future__ import annotations

import base64
from pathlib import Path

import httpx2
import pytest
from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

from firewall.core.errors import ConfigFault, UpstreamFault
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.identity.rfc7523.assertions import ASSERTION_TYPE
from firewall.identity.rfc7523.workloads import SPIFFE_TYPE, WorkloadKeys
from firewall.identity.settings import ClientSettings, WorkloadSettings
from firewall.net.dial import Dialler, Fetched, Purpose
from firewall.net.runtime import SystemClock
from firewall.wire import jwt, strict_json
from tests.net.certificates import authority
from tests.support.door import CLIENT_KEY, ORIGIN, TIME, Door, assertion, make_door, public_jwks
from tests.support.site import site

SPIRE = ECKey.generate_key("P-256", private=True)
CLUSTER = RSAKey.generate_key(2048, private=True)
STRANGER = ECKey.generate_key("P-256", private=True)
DOMAIN = "prod.example"
BATCH = f"spiffe://{DOMAIN}/ns/jobs/sa/batch"
ISSUER = "https://kubernetes.default.svc.cluster.local"
ACCOUNT = "system:serviceaccount:jobs:batch"
KEYS = "https://oidc.cluster.example/openid/v1/jwks"


def entry(key: jwt.Key, kid: str, **members: str) -> JSONObject:
    return {**{n: str(v) for n, v in key.as_dict(private=False).items() if n != "kid"}, "kid": kid, **members}


# A bundle as SPIRE publishes it: X.509 authorities beside the JWT ones, under uses that JWK Sets do not know.
BUNDLE: JSONObject = {
    "spiffe_sequence": 7,
    "spiffe_refresh_hint": 300,
    "keys": [
        {**entry(ECKey.generate_key("P-256", private=True), "x"), "use": "x509-svid", "x5c": ["MIIB"]},
        entry(SPIRE, "s1", use="jwt-svid"),
    ],
}


def spiffe(**changes: object) -> WorkloadSettings:
    values: dict[str, object] = {"jwks": BUNDLE, **changes}
    if "jwks_uri" in changes or "jwks_file" in changes:
        values.pop("jwks")
    return WorkloadSettings("prod", "spiffe", DOMAIN, {BATCH: "batch"}, **values)  # type: ignore[arg-type]


def kubernetes(**changes: object) -> WorkloadSettings:
    values: dict[str, object] = {"jwks_uri": KEYS, **changes}
    return WorkloadSettings("cluster", "kubernetes", ISSUER, {ACCOUNT: "batch"}, **values)  # type: ignore[arg-type]


def hosted(client_id: str = "batch", **changes: object) -> ClientSettings:
    values: dict[str, object] = {
        "auth_method": "workload",
        "grant_types": ("client_credentials",),
        "scopes": ("time:*",),
        "tenant": "acme",
        **changes,
    }
    return ClientSettings(client_id, "Batch", **values)  # type: ignore[arg-type]


def open_door(*workloads: WorkloadSettings, clients: tuple[ClientSettings, ...] = ()) -> Door:
    door = make_door(workloads=workloads or (spiffe(), kubernetes()), clients=clients or (hosted(),))
    body = strict_json.dumps({"keys": [entry(CLUSTER, "k1", use="sig", alg="RS256")]})
    door.fetcher.answers[KEYS] = Fetched(200, {}, body)
    return door


def sign(claims: JSONObject, key: jwt.Key, kid: str, alg: str = "ES256", header: JSONObject | None = None) -> str:
    head: JSONObject = {"alg": alg, "kid": kid, **(header or {})}
    registry = jws.JWSRegistry(algorithms=[alg], strict_check_header=False)
    return jws.serialize_compact(
        head, strict_json.dumps({k: v for k, v in claims.items() if v is not None}), key, registry=registry
    )


def svid(
    door: Door, *, key: jwt.Key = SPIRE, alg: str = "ES256", header: JSONObject | None = None, **changes: JSON
) -> str:
    now_s = door.clock.now_us() // 1_000_000
    claims: JSONObject = {"sub": BATCH, "aud": [ORIGIN], "exp": now_s + 300, "iat": now_s, **changes}
    return sign(claims, key, "s1", alg, {"typ": "JWT", **(header or {})})


def account_token(
    door: Door, *, key: jwt.Key = CLUSTER, alg: str = "RS256", header: JSONObject | None = None, **changes: JSON
) -> str:
    now_s = door.clock.now_us() // 1_000_000
    claims: JSONObject = {
        "iss": ISSUER,
        "sub": ACCOUNT,
        "aud": [ORIGIN],
        "iat": now_s,
        "nbf": now_s,
        "exp": now_s + 3600,
        "jti": "6e5f",
        "kubernetes.io": {"namespace": "jobs", "serviceaccount": {"name": "batch", "uid": "1"}},
        **changes,
    }
    return sign(claims, key, "k1", alg, header)


async def ask(door: Door, credential: str, **form: str) -> httpx2.Response:
    values = {
        "grant_type": "client_credentials",
        "client_assertion_type": ASSERTION_TYPE,
        "client_assertion": credential,
        "resource": TIME,
        "scope": "time:read",
        **form,
    }
    async with door.http() as http:
        return await http.post("/token", data=values)


async def refused(door: Door, credential: str, **form: str) -> str:
    """Return the operator's code; the peer is told ``invalid_client`` whatever it was."""
    reply = await ask(door, credential, **form)
    assert (reply.status_code, reply.json()["error"]) == (401, "invalid_client")
    return str(door.named("identity.token.refused")[-1]["code"])


# -- what works ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ASSERTION_TYPE, SPIFFE_TYPE])
async def test_a_jwt_svid_gets_its_client_a_token(kind: str) -> None:
    door = open_door()
    reply = await ask(door, svid(door), client_assertion_type=kind)
    assert reply.status_code == 200
    principal = door.verified(reply.json()["access_token"])
    assert (principal.subject, principal.client_id, principal.tenant) == ("batch", "batch", "acme")


async def test_a_service_account_token_gets_its_client_a_token() -> None:
    door = open_door()
    reply = await ask(door, account_token(door), client_id="batch")
    assert door.verified(reply.json()["access_token"]).client_id == "batch"
    assert door.fetcher.asked == [(Purpose.JWKS, KEYS)]


async def test_a_credential_serves_for_its_whole_life_because_the_platform_hands_out_one() -> None:
    door = open_door()
    credential = account_token(door)
    assert [(await ask(door, credential)).status_code for _ in range(3)] == [200] * 3


async def test_a_credential_serves_once_where_configuration_says_so() -> None:
    door = open_door(spiffe(once=True))
    credential = svid(door, jti="one")
    assert (await ask(door, credential)).status_code == 200
    assert await refused(door, credential) == "assertion_replayed"
    assert await refused(door, svid(door)) == "jwt_claims"  # without an identifier there is no once


async def test_a_svid_need_not_say_when_it_was_issued_nor_of_what_type_it_is() -> None:
    door = open_door()
    now_s = door.clock.now_us() // 1_000_000
    bare = sign({"sub": BATCH, "aud": ORIGIN, "exp": now_s + 300}, SPIRE, "s1")
    assert (await ask(door, bare)).status_code == 200


async def test_a_bundle_is_read_from_a_file_and_read_again(tmp_path: Path) -> None:
    file = tmp_path / "bundle.json"
    door = open_door(spiffe(jwks_file=str(file)))
    assert await refused(door, svid(door)) == "jwt_key"
    file.write_bytes(strict_json.dumps(BUNDLE))
    door.clock.advance(30)
    assert (await ask(door, svid(door))).status_code == 200
    turned = ECKey.generate_key("P-256", private=True)
    file.write_bytes(strict_json.dumps({"keys": [entry(turned, "s2", use="jwt-svid")]}))
    door.clock.advance(600)
    assert await refused(door, svid(door)) == "jwt_key"
    now_s = door.clock.now_us() // 1_000_000
    assert (await ask(door, sign({"sub": BATCH, "aud": [ORIGIN], "exp": now_s + 60}, turned, "s2"))).status_code == 200


async def test_keys_of_a_private_cluster_are_fetched_on_its_network_under_its_own_authority(tmp_path: Path) -> None:
    async def resolve(_name: str) -> list[str]:
        return ["127.0.0.1"]

    files = authority(tmp_path, "cluster.test")
    async with site(files) as made:
        made.says("/openid/v1/jwks", strict_json.dumps({"keys": [entry(CLUSTER, "k1")]}))
        uri = f"https://cluster.test:{made.port}/openid/v1/jwks"
        dialler = Dialler(SystemClock(), resolver=resolve)
        found = {}
        for network, ca_file in (("loopback", str(files.ca)), ("loopback", ""), ("public", str(files.ca))):
            given = kubernetes(jwks_uri=uri, network=network, ca_file=ca_file)
            source = WorkloadKeys((given,), dialler)
            try:
                found[network, ca_file] = b"keys" in await source.read("cluster")
            except UpstreamFault as fault:
                found[network, ca_file] = fault.code
        await dialler.close()
    assert list(found.values()) == [True, "unreachable", "blocked_address"]
    assert made.names[0] == "cluster.test"


# -- what does not ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "subject",
    [
        "spiffe://other.example/ns/jobs/sa/batch",
        "spiffe://prod.example.evil.example/ns/jobs/sa/batch",
        "spiffe://PROD.example/ns/jobs/sa/batch",
        "spiffe://evil@prod.example/ns/jobs/sa/batch",
        "spiffe:///ns/jobs/sa/batch",
        "SPIFFE://prod.example/ns/jobs/sa/batch",
    ],
)
async def test_a_svid_of_another_trust_domain_is_nobody_even_under_our_key(subject: str) -> None:
    door = open_door()
    assert await refused(door, svid(door, sub=subject)) == "client_unknown"


@pytest.mark.parametrize(
    "subject",
    [BATCH + "/", BATCH + "2", f"spiffe://{DOMAIN}", f"spiffe://{DOMAIN}/", f"spiffe://{DOMAIN}/ns/jobs/sa/*"],
)
async def test_a_workload_that_is_not_written_down_is_nobody(subject: str) -> None:
    door = open_door()
    assert await refused(door, svid(door, sub=subject)) == "workload_unknown"


@pytest.mark.parametrize(
    "subject", ["system:serviceaccount:jobs:other", "system:serviceaccount:jobs2:batch", "system:node:n1", "batch"]
)
async def test_another_service_account_is_nobody(subject: str) -> None:
    door = open_door()
    assert await refused(door, account_token(door, sub=subject)) == "workload_unknown"


@pytest.mark.parametrize("issuer", [ISSUER + "/", ISSUER.upper(), "https://other.cluster.example", "", None])
async def test_a_token_of_another_cluster_is_nobody_even_under_our_key(issuer: str | None) -> None:
    door = open_door()
    assert await refused(door, account_token(door, iss=issuer)) == "client_unknown"


@pytest.mark.parametrize("kind", ["spiffe", "kubernetes"])
@pytest.mark.parametrize(
    "audience",
    [
        [ORIGIN, "https://kubernetes.default.svc"],
        ["https://kubernetes.default.svc"],
        [ORIGIN + "/token"],
        ORIGIN + "/",
        [],
        "",
        None,
        [[ORIGIN]],
    ],
    ids=str,
)
async def test_as_20_a_credential_must_be_meant_for_us_alone(kind: str, audience: JSON) -> None:
    door = open_door()
    made = svid(door, aud=audience) if kind == "spiffe" else account_token(door, aud=audience)
    assert await refused(door, made) == "jwt_claims"


@pytest.mark.parametrize("kind", ["spiffe", "kubernetes"])
@pytest.mark.parametrize(
    "changes",
    [
        {"exp": None},
        {"exp": "x"},
        {"exp": 1.5e9},
        {"exp": -1},
        {"exp": 2_000_000_000_000},
        {"nbf": 4_000_000_000},
        {"iat": 4_000_000_000},
    ],
    ids=str,
)
async def test_a_credential_out_of_its_time_is_refused(kind: str, changes: dict[str, JSON]) -> None:
    door = open_door()
    made = svid(door, **changes) if kind == "spiffe" else account_token(door, **changes)
    assert await refused(door, made) == "jwt_claims"


async def test_a_credential_ends_with_its_time_and_is_never_longer_than_accepted() -> None:
    door = open_door(spiffe(max_age_s=300), kubernetes(max_age_s=3600))
    now_s = door.clock.now_us() // 1_000_000
    assert await refused(door, svid(door, exp=now_s + 301)) == "jwt_claims"
    assert await refused(door, account_token(door, exp=now_s + 3601)) == "jwt_claims"
    good = svid(door)
    door.clock.advance(331)
    assert await refused(door, good) == "jwt_claims"


async def test_a_service_account_token_without_a_beginning_is_refused() -> None:
    door = open_door()
    assert await refused(door, account_token(door, iat=None)) == "jwt_claims"


async def test_a_stranger_s_signature_is_refused() -> None:
    door = open_door()
    assert await refused(door, svid(door, key=STRANGER)) == "jwt_signature"
    stranger = RSAKey.generate_key(2048, private=True)
    assert await refused(door, account_token(door, key=stranger)) == "jwt_signature"


async def test_one_platform_s_key_signs_nothing_for_the_other() -> None:
    door = open_door()
    assert await refused(door, svid(door, key=CLUSTER, alg="RS256", header={"kid": "k1"})) == "jwt_key"
    assert await refused(door, account_token(door, key=SPIRE, alg="ES256", header={"kid": "s1"})) == "jwt_key"


async def test_an_x509_authority_of_the_bundle_verifies_no_svid() -> None:
    authority = ECKey.generate_key("P-256", private=True)
    door = open_door(spiffe(jwks={"keys": [*BUNDLE["keys"], entry(authority, "x2", use="x509-svid")]}))  # type: ignore[misc]
    assert await refused(door, svid(door, key=authority, header={"kid": "x2"})) == "jwt_key"


@pytest.mark.parametrize(
    "header",
    [
        {"jwk": entry(STRANGER, "s1")},
        {"jku": "https://evil.example/k"},
        {"x5u": "https://evil.example/c"},
        {"x5c": ["MIIB"]},
    ],
)
async def test_a_key_that_comes_with_the_credential_is_never_used(header: JSONObject) -> None:
    door = open_door()
    assert await refused(door, svid(door, key=STRANGER, header=header)) == "jwt_header"


@pytest.mark.parametrize("alg", ["HS256", "none", "RS256"])
async def test_the_algorithm_is_of_the_list_and_of_the_key(alg: str) -> None:
    door = open_door()
    made = svid(door)
    head = strict_json.dumps({"alg": alg, "kid": "s1"})
    forged = f"{_b64(head)}.{made.split('.')[1]}.{made.split('.')[2]}"
    assert await refused(door, forged) == ("jwt_key" if alg == "RS256" else "jwt_alg")


@pytest.mark.parametrize("typ", ["at+jwt", "oauth-id-jag+jwt", "client-authentication+jwt", "dpop+jwt"])
async def test_a_token_of_another_kind_is_no_workload_credential(typ: str) -> None:
    door = open_door()
    assert await refused(door, svid(door, header={"typ": typ})) == "jwt_claims"
    assert await refused(door, account_token(door, header={"typ": typ})) == "jwt_claims"


# -- the client that it stands for --------------------------------------------------------------------------------


async def test_as_21_a_client_with_keys_of_its_own_is_not_reached_by_a_workload() -> None:
    keyed = hosted(auth_method="private_key_jwt", jwks=public_jwks(CLIENT_KEY))
    door = open_door(clients=(keyed,))
    assert await refused(door, svid(door)) == "client_method"


async def test_as_21_a_workload_s_client_is_reached_by_nothing_else() -> None:
    door = open_door()
    own = assertion(door, key=CLIENT_KEY, iss="batch", sub="batch")
    assert await refused(door, own) == "client_method"
    async with door.http() as http:
        form = {"grant_type": "client_credentials", "resource": TIME, "client_id": "batch"}
        assert (await http.post("/token", data=form)).status_code == 401
        assert (await http.post("/token", data=form, auth=("batch", "x"))).status_code == 401


async def test_a_workload_speaks_for_the_client_that_is_written_down_and_no_other() -> None:
    door = open_door(clients=(hosted(), hosted("other")))
    assert await refused(door, svid(door), client_id="other") == "client_mismatch"
    assert (await ask(door, svid(door), client_id="batch")).status_code == 200


async def test_a_workload_whose_client_is_gone_is_nobody() -> None:
    door = open_door(clients=(hosted("other"),))
    assert await refused(door, svid(door)) == "client_method"


async def test_rs_03_invented_key_ids_cause_one_fetch_of_the_cluster_s_keys() -> None:
    door = open_door()
    assert (await ask(door, account_token(door))).status_code == 200
    for number in range(50):
        assert await refused(door, account_token(door, header={"kid": f"k{number + 2}"})) == "jwt_key"
    assert door.fetcher.asked == [(Purpose.JWKS, KEYS)]


async def test_rs_05_an_outage_of_the_cluster_is_bridged_for_a_day() -> None:
    door = open_door()
    assert (await ask(door, account_token(door))).status_code == 200
    door.fetcher.answers.clear()
    door.clock.advance(23 * 3600)
    assert (await ask(door, account_token(door))).status_code == 200
    door.clock.advance(3600)
    assert await refused(door, account_token(door)) == "jwt_key"


# -- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (WorkloadSettings("w", "spiffe", DOMAIN, {}), "workload_keys"),
        (WorkloadSettings("w", "spiffe", DOMAIN, {}, jwks=BUNDLE, jwks_uri=KEYS), "workload_keys"),
        (WorkloadSettings("w", "spiffe", "spiffe://prod.example", {}, jwks=BUNDLE), "workload_issuer"),
        (WorkloadSettings("w", "spiffe", "", {}, jwks=BUNDLE), "workload_issuer"),
        (WorkloadSettings("w", "spiffe", DOMAIN, {"spiffe://other.example/a": "c"}, jwks=BUNDLE), "workload_subject"),
        (WorkloadSettings("w", "spiffe", DOMAIN, {f"spiffe://{DOMAIN}/*": "c"}, jwks=BUNDLE), "workload_subject"),
        (WorkloadSettings("w", "spiffe", DOMAIN, {f"spiffe://{DOMAIN}/a/../b": "c"}, jwks=BUNDLE), "workload_subject"),
        (WorkloadSettings("w", "spiffe", DOMAIN, {f"spiffe://{DOMAIN}/": "c"}, jwks=BUNDLE), "workload_subject"),
        (WorkloadSettings("w", "kubernetes", "cluster", {}, jwks_uri=KEYS), "workload_issuer"),
        (WorkloadSettings("w", "kubernetes", ISSUER, {"jobs:batch": "c"}, jwks_uri=KEYS), "workload_subject"),
        (WorkloadSettings("w", "kubernetes", ISSUER, {"system:serviceaccount:jobs": "c"}, jwks_uri=KEYS), "workload_subject"),
        (WorkloadSettings("w", "kubernetes", ISSUER, {"system:serviceaccount:*:batch": "c"}, jwks_uri=KEYS), "workload_subject"),
        (WorkloadSettings("w", "kubernetes", ISSUER, {}, jwks_uri=KEYS, max_age_s=86_401), "workload_lifetime"),
        (WorkloadSettings("w", "spiffe", DOMAIN, {}, jwks={"keys": [{"kty": "oct", "k": "AA", "use": "sig"}]}), "workload_keys"),
    ],
)  # fmt: skip
def test_settings_that_say_too_little_or_too_much_stop_the_start(given: WorkloadSettings, code: str) -> None:
    with pytest.raises(ConfigFault) as caught:
        make_door(workloads=(given,))
    assert caught.value.code == code


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
