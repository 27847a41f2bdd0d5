"""Client authentication: AS-20 and AS-21, tricks with keys in headers, floods of keys. Real signatures throughout."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import warnings
from pathlib import Path

import pytest
from joserfc import jws
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.ports import Store
from firewall.identity.cimd.documents import ClientDocuments
from firewall.identity.clients.registry import Clients
from firewall.identity.clients.stranger import caller, digest_of
from firewall.identity.rfc7523.assertions import UsedOnce
from firewall.identity.rfc7523.client_auth import ASSERTION_TYPE, ClientAuthenticator, ClientKeys
from firewall.identity.settings import ClientSettings, IdentitySettings
from firewall.identity.throttle import Throttle
from firewall.net.dial import Fetched, Network, Purpose
from firewall.net.runtime import FakeClock
from firewall.state.memory import MemoryStore
from firewall.state.sqlite import SQLiteStore
from firewall.wire import jwt, strict_json
from firewall.wire.oauth import Form, OAuthError
from tests.support.door import ORIGIN, NoNetwork, public_jwks

KEY = ECKey.generate_key("P-256", private=True)
OTHER = ECKey.generate_key("P-256", private=True)
RSA = RSAKey.generate_key(2048, private=True)
with warnings.catch_warnings(action="ignore"):  # of too small a key, which is what it is for
    SMALL_RSA = RSAKey.generate_key(1024, private=True)
EDWARDS = OKPKey.generate_key("Ed25519", private=True)
SECRET = "a-long-random-secret"
URI = "https://svc.example/jwks.json"


def public(key: jwt.Key, kid: str = "", **members: str) -> JSONObject:
    entry: JSONObject = {name: str(value) for name, value in key.as_dict(private=False).items() if name != "kid"}
    return {**entry, **({"kid": kid} if kid else {}), **members}


def keys(*entries: JSONObject) -> JSON:
    return {"keys": list(entries)}


class Desk:
    """One worker's authenticator over a shared store."""

    def __init__(self, *clients: ClientSettings, store: Store | None = None, clock: FakeClock | None = None):
        self.clock = clock or FakeClock()
        self.store = store or MemoryStore(self.clock)
        self.network = NoNetwork()
        settings = IdentitySettings(ORIGIN, clients=clients or (service(),))
        found = Clients(settings, ClientDocuments(settings, self.network, self.clock))
        self.authenticator = ClientAuthenticator(
            ORIGIN,
            found,
            ClientKeys(self.network, self.clock),
            self.store,
            self.clock,
            Throttle(self.store, self.clock),
        )

    def claims(self, **changes: JSON) -> JSONObject:
        now_s = self.clock.now_us() // 1_000_000
        claims: JSONObject = {
            "iss": "svc",
            "sub": "svc",
            "aud": ORIGIN,
            "iat": now_s,
            "exp": now_s + 60,
            "jti": "one",
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def sign(
        self, *, key: jwt.Key | OctKey = KEY, alg: str = "ES256", header: JSONObject | None = None, **changes: JSON
    ) -> str:
        full: JSONObject = {"alg": alg, "typ": "JWT", "kid": "c1", **(header or {})}
        head = {name: value for name, value in full.items() if value is not None}
        registry = jws.JWSRegistry(algorithms=[alg], strict_check_header=False)
        return jws.serialize_compact(head, strict_json.dumps(self.claims(**changes)), key, registry=registry)

    async def present(self, assertion: str = "", *, basic: tuple[str, str] | None = None, **form: str) -> str:
        """Return the client id, or ``error code`` of the refusal."""
        values = dict(form)
        if assertion:
            values = {"client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion, **form}
        header = None
        if basic is not None:
            header = b"Basic " + base64.b64encode(":".join(basic).encode())
        try:
            return (
                await self.authenticator.authenticate(Form(values, frozenset()), header, address="192.0.2.7")
            ).client_id
        except OAuthError as error:
            return f"{error.error} {error.code}"


def service(**changes: object) -> ClientSettings:
    values: dict[str, object] = {
        "client_id": "svc",
        "name": "Service",
        "auth_method": "private_key_jwt",
        "grant_types": ("client_credentials",),
        "tenant": "acme",
        "jwks": public_jwks(KEY),
        **changes,
    }
    return ClientSettings(**values)  # type: ignore[arg-type]


def fetched(*entries: JSONObject) -> Fetched:
    return Fetched(200, {}, strict_json.dumps(keys(*entries)))


# -- AS-20: what an assertion says --------------------------------------------------------------------------


async def test_a_good_assertion_is_its_client() -> None:
    desk = Desk()
    assert await desk.present(desk.sign()) == "svc"
    assert await desk.present(desk.sign(jti="2"), client_id="svc") == "svc"


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": ORIGIN + "/token"},
        {"aud": ORIGIN + "/"},
        {"aud": "https://other.example"},
        {"aud": [ORIGIN]},
        {"aud": [ORIGIN, "https://other.example"]},
        {"aud": []},
        {"aud": None},
        {"aud": 1},
        {"iss": "other"},
        {"iss": None},
        {"exp": None},
        {"exp": "soon"},
        {"exp": 1e30},
        {"exp": True},
        {"jti": None},
        {"jti": ""},
        {"jti": 7},
        {"jti": "x" * 257},
    ],
    ids=str,
)
async def test_as_20_an_assertion_for_somebody_else_or_without_its_claims_is_refused(changes: dict[str, JSON]) -> None:
    desk = Desk()
    assert (await desk.present(desk.sign(**changes))).startswith("invalid_client jwt_")


@pytest.mark.parametrize(
    ("iat", "exp", "good"),
    [
        (0, 300, True),
        (0, 301, False),
        (None, 300, True),
        (None, 301, False),
        (0, 86_400, False),
        (-3600, 60, False),
        (31, 60, False),
        (-60, -31, False),
        (-60, -29, True),
        (10, 5, False),
    ],
)
async def test_as_20_an_assertion_lives_for_at_most_five_minutes(iat: int | None, exp: int, good: bool) -> None:
    desk = Desk()
    now_s = desk.clock.now_us() // 1_000_000
    found = await desk.present(desk.sign(iat=None if iat is None else now_s + iat, exp=now_s + exp))
    assert found == ("svc" if good else "invalid_client jwt_claims")


async def test_as_20_two_workers_take_an_assertion_once_between_them() -> None:
    first = Desk()
    second = Desk(store=first.store, clock=first.clock)
    for number in range(10):
        assertion = first.sign(jti=f"n{number}")
        order = (first, second) if number % 2 else (second, first)
        assert [await worker.present(assertion) for worker in order] == ["svc", "invalid_client assertion_replayed"]


async def test_as_20_two_workers_on_one_database_race_for_an_assertion(tmp_path: Path) -> None:
    clock = FakeClock()
    workers = [Desk(store=SQLiteStore(tmp_path / "state.db", clock=clock), clock=clock) for _ in range(2)]
    assertion = workers[0].sign()
    answers = await asyncio.gather(*(worker.present(assertion) for worker in workers * 10))
    assert sorted(answers) == ["invalid_client assertion_replayed"] * 19 + ["svc"]
    for worker in workers:
        worker.store.close()  # type: ignore[attr-defined]


async def test_as_20_twin_workers_with_stores_of_their_own_would_take_it_twice() -> None:
    first = Desk()
    second = Desk(clock=first.clock)
    assertion = first.sign()
    assert [await worker.present(assertion) for worker in (first, second)] == ["svc", "svc"]


async def test_as_20_an_assertion_is_remembered_until_it_could_not_be_used_anyway() -> None:
    desk = Desk()
    assertion = desk.sign()
    assert await desk.present(assertion) == "svc"
    desk.clock.advance(60 + 29)  # within the leeway after its end
    assert await desk.present(assertion) == "invalid_client assertion_replayed"
    desk.clock.advance(2)
    assert await desk.present(assertion) == "invalid_client jwt_claims"


async def test_as_20_one_client_cannot_use_up_the_identifiers_of_another() -> None:
    desk = Desk(service(), service(client_id="other", jwks=public_jwks(OTHER)))
    assert await desk.present(desk.sign(jti="same")) == "svc"
    assert await desk.present(desk.sign(key=OTHER, iss="other", sub="other", jti="same")) == "other"
    used = UsedOnce(desk.store)
    used.burn("a", "b\0c", 2_000_000_000)
    used.burn("a\0b", "c2", 2_000_000_000)


async def test_as_20_a_bad_assertion_uses_nothing_up() -> None:
    desk = Desk()
    assert await desk.present(desk.sign(key=OTHER)) == "invalid_client jwt_signature"
    assert await desk.present(desk.sign(aud="x")) == "invalid_client jwt_claims"
    assert await desk.present(desk.sign()) == "svc"


@pytest.mark.parametrize(
    "typ", ["at+jwt", "oauth-id-jag+jwt", "dpop+jwt", "secevent+jwt", "logout+jwt", "entity-statement+jwt"]
)
async def test_as_20_a_token_of_another_kind_is_no_client_assertion(typ: str) -> None:
    desk = Desk()
    assert await desk.present(desk.sign(header={"typ": typ})) == "invalid_client jwt_claims"


@pytest.mark.parametrize("typ", [None, "JWT", "client-authentication+jwt", "application/client-authentication+jwt"])
async def test_the_types_of_client_assertions_are_accepted(typ: str | None) -> None:
    desk = Desk()
    assert await desk.present(desk.sign(header={"typ": typ})) == "svc"


# -- AS-21: the registered method and no other ----------------------------------------------------------------


CLIENTS = (
    service(),
    ClientSettings("public", "Public", ("http://127.0.0.1/cb",), tenant=""),
    ClientSettings(
        "secret",
        "Secret",
        auth_method="client_secret_basic",
        grant_types=("client_credentials",),
        tenant="acme",
        secret_sha256=hashlib.sha256(SECRET.encode()).hexdigest(),
    ),
    ClientSettings("hosted", "Hosted", auth_method="workload", grant_types=("client_credentials",), tenant="acme"),
)


@pytest.mark.parametrize("client", ["svc", "public", "secret", "hosted"])
@pytest.mark.parametrize("way", ["none", "basic", "basic_empty", "post", "assertion", "assertion_by_none"])
async def test_as_21_only_the_registered_method_authenticates(client: str, way: str) -> None:
    desk = Desk(*CLIENTS)
    ways = {"svc": "assertion", "public": "none", "secret": "basic"}
    found = {
        "none": lambda: desk.present(client_id=client),
        "basic": lambda: desk.present(basic=(client, SECRET)),
        "basic_empty": lambda: desk.present(basic=(client, "")),
        "post": lambda: desk.present(client_id=client, client_secret=SECRET),
        "assertion": lambda: desk.present(desk.sign(iss=client, sub=client)),
        "assertion_by_none": lambda: desk.present(client_id=client, client_assertion_type=ASSERTION_TYPE),
    }
    answer = await found[way]()
    if ways.get(client) == way:
        assert answer == client
    else:
        assert answer.startswith("invalid_client ")


async def test_as_21_two_kinds_of_credentials_are_refused() -> None:
    desk = Desk(*CLIENTS)
    assert (await desk.present(desk.sign(), basic=("secret", SECRET))) == "invalid_request client_methods"
    assert (await desk.present(desk.sign(), client_secret=SECRET)).startswith("invalid_client")
    assert (await desk.present(basic=("secret", SECRET), client_id="public")) == "invalid_client client_mismatch"
    assert (await desk.present(desk.sign(), client_id="public")) == "invalid_client client_mismatch"


@pytest.mark.parametrize("kind", ["", "urn:ietf:params:oauth:client-assertion-type:saml2-bearer", ASSERTION_TYPE + "/"])
async def test_as_21_an_assertion_of_another_type_is_refused(kind: str) -> None:
    desk = Desk()
    assert await desk.present(desk.sign(), client_assertion_type=kind) == "invalid_client assertion_type"


async def test_as_19_guesses_of_a_secret_wait_longer_each_time_and_the_client_elsewhere_does_not() -> None:
    desk = Desk(*CLIENTS)
    answers = [await desk.present(basic=("secret", f"guess{number}")) for number in range(6)]
    assert answers[:4] == ["invalid_client client_secret"] * 4
    assert answers[4:] == ["slow_down client_delayed"] * 2
    assert await desk.present(basic=("secret", SECRET)) == "slow_down client_delayed"
    elsewhere = Form({}, frozenset())
    header = b"Basic " + base64.b64encode(f"secret:{SECRET}".encode())
    assert (await desk.authenticator.authenticate(elsewhere, header, address="198.51.100.1")).client_id == "secret"
    desk.clock.advance(301)
    assert await desk.present(basic=("secret", SECRET)) == "secret"


# -- tricks with algorithms and keys -------------------------------------------------------------------------


async def test_every_listed_algorithm_works_with_its_key() -> None:
    desk = Desk(service(jwks=keys(public(KEY, "e"), public(RSA, "r"), public(EDWARDS, "o"))))
    for number, (key, alg, kid) in enumerate(
        ((KEY, "ES256", "e"), (RSA, "RS256", "r"), (RSA, "PS256", "r"), (EDWARDS, "Ed25519", "o"))
    ):
        assert await desk.present(desk.sign(key=key, alg=alg, header={"kid": kid}, jti=str(number))) == "svc"


def unsigned(desk: Desk, header: JSONObject) -> str:
    parts = (strict_json.dumps(header), strict_json.dumps(desk.claims()), b"signature")
    return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts).decode()


@pytest.mark.parametrize(
    "alg", ["none", "None", "nOnE", "HS256", "HS512", "ES384", "ES256K", "RS1", "EdDSA", "", None, 1]
)
async def test_as_20_an_algorithm_that_is_not_on_the_list_is_refused_before_a_key_is_touched(alg: JSON) -> None:
    desk = Desk(service(jwks=None, jwks_uri=URI))
    header: JSONObject = {"typ": "JWT", "kid": "c1"} if alg is None else {"alg": alg, "typ": "JWT", "kid": "c1"}
    assert await desk.present(unsigned(desk, header)) == "invalid_client jwt_alg"
    assert desk.network.asked == []


async def test_as_20_a_public_key_is_no_secret_of_hs256() -> None:
    desk = Desk()
    secret = OctKey.import_key(base64.urlsafe_b64encode(KEY.as_pem(private=False)).decode())
    assert await desk.present(desk.sign(key=secret, alg="HS256")) == "invalid_client jwt_alg"


@pytest.mark.parametrize(
    "trick",
    [
        {"jwk": public(OTHER)},
        {"jku": "https://evil.example/jwks.json"},
        {"x5u": "https://evil.example/cert.pem"},
        {"x5c": ["MIIB"]},
        {"crit": ["exp"], "exp": 1},
        {"crit": []},
        {"b64": False},
        {"zip": "DEF"},
    ],
    ids=lambda trick: next(iter(trick)),
)
@pytest.mark.parametrize("key", [KEY, OTHER], ids=["own_key", "attackers_key"])
async def test_as_20_a_key_that_comes_with_the_assertion_is_never_used(trick: JSONObject, key: ECKey) -> None:
    desk = Desk(service(jwks=None, jwks_uri=URI))
    desk.network.answers[URI] = fetched(public(KEY, "c1"))
    head = unsigned(desk, {"alg": "ES256", "typ": "JWT", "kid": "c1", **trick}).split(".")[0]
    body = desk.sign(key=key).split(".")[1]
    assert await desk.present(f"{head}.{body}.c2ln") == "invalid_client jwt_header"
    assert desk.network.asked == []


@pytest.mark.parametrize("kid", ["../../etc/passwd", "' OR 1=1 --", "c1\0", "C1", "c1 ", "x" * 128])
async def test_rs_03_a_key_id_is_a_word_to_look_up_and_nothing_else(kid: str) -> None:
    desk = Desk()
    assert await desk.present(desk.sign(header={"kid": kid})) == "invalid_client jwt_key"


@pytest.mark.parametrize("kid", ["x" * 129, "x" * 2000, 1, [], {}])
async def test_rs_03_a_key_id_that_is_no_word_is_refused(kid: JSON) -> None:
    desk = Desk()
    assert await desk.present(unsigned(desk, {"alg": "ES256", "kid": kid})) == "invalid_client jwt_header"


async def test_a_client_that_names_no_key_is_tried_with_those_that_fit() -> None:
    entries = [public(ECKey.generate_key("P-256", private=True), f"k{n}") for n in range(3)]
    desk = Desk(service(jwks=keys(*entries, public(RSA, "r"), public(KEY, "mine"))))
    assert await desk.present(desk.sign(header={"kid": None})) == "svc"
    assert await desk.present(desk.sign(key=OTHER, header={"kid": None}, jti="2")) == "invalid_client jwt_signature"


async def test_a_client_that_names_no_key_of_very_many_is_refused_without_trying_them() -> None:
    entries = [public(ECKey.generate_key("P-256", private=True), f"k{n}") for n in range(4)]
    desk = Desk(service(jwks=keys(*entries, public(KEY, "mine"))))
    assert await desk.present(desk.sign(header={"kid": None})) == "invalid_client jwt_key"
    assert await desk.present(desk.sign(header={"kid": "mine"})) == "svc"


@pytest.mark.parametrize(
    ("entry", "key", "alg", "code"),
    [
        (public(KEY, "c1", use="enc"), KEY, "ES256", "jwt_key"),
        (public(KEY, "c1", alg="ES384"), KEY, "ES256", "jwt_key"),
        (public(RSA, "c1", alg="RS256"), RSA, "PS256", "jwt_key"),
        (public(SMALL_RSA, "c1"), SMALL_RSA, "RS256", "jwt_key"),
        (public(ECKey.generate_key("P-384", private=True), "c1"), KEY, "ES256", "jwt_key"),
        (public(RSA, "c1"), KEY, "ES256", "jwt_key"),
    ],
    ids=["for_encryption", "another_alg", "alg_of_the_key_wins", "small_rsa", "another_curve", "another_kind"],
)
@pytest.mark.filterwarnings("ignore")
async def test_rs_04_a_key_that_does_not_fit_is_not_used(entry: JSONObject, key: jwt.Key, alg: str, code: str) -> None:
    spare = public(ECKey.generate_key("P-256", private=True), "spare")
    desk = Desk(service(jwks=keys(entry, spare)))
    assert await desk.present(desk.sign(key=key, alg=alg)) == f"invalid_client {code}"


# -- key sets by address: floods, outages, poison -----------------------------------------------------------------


async def test_rs_03_a_thousand_invented_key_ids_cause_one_fetch_in_thirty_seconds() -> None:
    desk = Desk(service(jwks=None, jwks_uri=URI))
    desk.network.answers[URI] = fetched(public(KEY, "c1"))
    assert await desk.present(desk.sign()) == "svc"
    for number in range(1000):
        desk.clock.advance(0.02)
        answer = await desk.present(unsigned(desk, {"alg": "ES256", "kid": f"k{number}"}))
        assert answer == "invalid_client jwt_key"
    assert desk.network.asked == [(Purpose.JWKS, URI)]
    desk.clock.advance(30)
    await desk.present(unsigned(desk, {"alg": "ES256", "kid": "kx"}))
    assert len(desk.network.asked) == 2
    assert await desk.present(desk.sign(jti="2")) == "svc"


async def test_rs_03_a_new_key_is_found_after_at_most_thirty_seconds() -> None:
    desk = Desk(service(jwks=None, jwks_uri=URI))
    desk.network.answers[URI] = fetched(public(KEY, "c1"))
    assert await desk.present(desk.sign()) == "svc"
    desk.network.answers[URI] = fetched(public(KEY, "c1"), public(OTHER, "c2"))
    turned = desk.sign(key=OTHER, header={"kid": "c2"}, jti="2")
    assert await desk.present(turned) == "invalid_client jwt_key"
    desk.clock.advance(30)
    assert await desk.present(turned) == "svc"


async def test_rs_06_a_key_that_was_taken_away_is_refused_after_ten_minutes() -> None:
    desk = Desk(service(jwks=None, jwks_uri=URI))
    desk.network.answers[URI] = fetched(public(KEY, "c1"), public(OTHER, "c2"))
    assert await desk.present(desk.sign()) == "svc"
    desk.network.answers[URI] = fetched(public(OTHER, "c2"))
    desk.clock.advance(600)
    assert await desk.present(desk.sign(jti="2")) == "invalid_client jwt_key"


@pytest.mark.parametrize(
    "bad",
    [
        None,
        Fetched(500, {}, b"{}"),
        Fetched(302, {"location": "https://evil.example/"}, b""),
        Fetched(200, {}, b'{"keys":[]}'),
        Fetched(200, {}, b"<html>"),
        Fetched(200, {}, strict_json.dumps(keys(*(public(KEY, f"k{n}") for n in range(51))))),
        Fetched(200, {}, strict_json.dumps({"keys": [public(KEY, "c1")], "pad": "x" * 65_536})),
        Fetched(200, {}, strict_json.dumps(keys({"kty": "oct", "k": "AAAA", "kid": "c1"}))),
        Fetched(200, {}, strict_json.dumps(keys(public(KEY, "c1"), public(OTHER, "c1")))),
    ],
    ids=["gone", "error", "redirect", "empty", "html", "many", "large", "secret", "twice"],
)  # fmt: skip
async def test_rs_05_nothing_bad_replaces_keys_that_were_good_for_a_day(bad: Fetched | None) -> None:
    desk = Desk(service(jwks=None, jwks_uri=URI))
    desk.network.answers[URI] = fetched(public(KEY, "c1"))
    assert await desk.present(desk.sign()) == "svc"
    desk.network.answers.pop(URI)
    if bad is not None:
        desk.network.answers[URI] = bad
    desk.clock.advance(3600)
    assert await desk.present(desk.sign(jti="2")) == "svc"
    desk.clock.advance(23 * 3600)
    assert await desk.present(desk.sign(jti="3")) == "invalid_client jwt_key"


async def test_a_host_that_never_answered_is_asked_again_only_after_thirty_seconds() -> None:
    desk = Desk(service(jwks=None, jwks_uri=URI))
    for number in range(20):
        assert await desk.present(desk.sign(jti=str(number))) == "invalid_client jwt_key"
    assert len(desk.network.asked) == 1


async def test_an_outage_of_one_client_does_not_hold_up_another() -> None:
    desk = Desk(service(jwks=None, jwks_uri=URI), service(client_id="other", jwks=public_jwks(OTHER)))
    assert await desk.present(desk.sign()) == "invalid_client jwt_key"
    assert await desk.present(desk.sign(key=OTHER, iss="other", sub="other")) == "other"


async def test_many_who_come_first_wait_for_one_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(service(jwks=None, jwks_uri=URI))
    desk.network.answers[URI] = fetched(public(KEY, "c1"))
    fetch, gate = desk.network.fetch, asyncio.Event()

    async def slow(*args: object, **more: object) -> Fetched:
        await gate.wait()
        return await fetch(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(desk.network, "fetch", slow)
    callers = [asyncio.create_task(desk.present(desk.sign(jti=str(number)))) for number in range(20)]
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(*callers) == ["svc"] * 20
    assert len(desk.network.asked) == 1


async def test_slow_addresses_of_strangers_hold_up_no_registered_client(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(service(jwks=None, jwks_uri=URI))
    desk.network.answers[URI] = fetched(public(KEY, "c1"))
    keys_of = desk.authenticator._keys
    fetch, gate = desk.network.fetch, asyncio.Event()

    async def slow(purpose: Purpose, url: str, **more: object) -> Fetched:
        if "stranger" in url:
            await gate.wait()
        return await fetch(purpose, url, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(desk.network, "fetch", slow)
    strangers = [asyncio.create_task(keys_of._strangers.get(f"https://stranger{n}.example/k", "x")) for n in range(8)]
    await asyncio.sleep(0)
    assert await desk.present(desk.sign()) == "svc"
    gate.set()
    await asyncio.gather(*strangers, return_exceptions=True)


async def test_keys_of_a_thousand_addresses_are_kept_and_no_more() -> None:
    keys_of = ClientKeys(NoNetwork(), FakeClock())
    for number in range(1010):
        with pytest.raises(Malformed, match="jwt_key"):
            await keys_of._sets["public"].get(f"https://h{number}.example/k", "x")
    assert len(keys_of._sets["public"]._sets) == 1000


@pytest.mark.parametrize("network", ["public", "private", "loopback"])
async def test_keys_are_fetched_on_the_one_network_that_the_operator_wrote_down(network: Network) -> None:
    desk = Desk(service(jwks=None, jwks_uri=URI, network=network))
    desk.network.answers[URI] = fetched(public(KEY, "c1"))
    assert await desk.present(desk.sign()) == "svc"
    assert desk.network.networks == [network]


async def test_a_refusal_says_for_the_record_why_there_were_no_keys_and_which_claim_was_wrong() -> None:
    desk = Desk(service(jwks=None, jwks_uri=URI))
    form = {"client_assertion_type": ASSERTION_TYPE, "client_assertion": desk.sign()}
    with pytest.raises(OAuthError) as refused:
        await desk.authenticator.authenticate(Form(form, frozenset()), None)
    assert (refused.value.code, refused.value.detail) == ("jwt_key", "no keys: unreachable")
    form["client_assertion"] = desk.sign(aud="https://elsewhere.example")
    desk.clock.advance(31)
    desk.network.answers[URI] = fetched(public(KEY, "c1"))
    with pytest.raises(OAuthError) as refused:
        await desk.authenticator.authenticate(Form(form, frozenset()), None)
    assert (refused.value.code, refused.value.detail) == ("jwt_claims", "aud")


async def test_the_record_of_a_refused_assertion_or_secret_finds_its_client_by_digest() -> None:
    desk = Desk(service())
    for form, header in (
        ({"client_id": "svc"}, None),
        ({"client_assertion_type": ASSERTION_TYPE, "client_assertion": desk.sign()}, None),
        ({}, b"Basic " + base64.b64encode(b"svc:guess")),
    ):
        assert caller("", Form(form, frozenset()), header) == {"client_sha256": digest_of("svc")}
    for form, header in (({}, None), ({"client_assertion": "x.y.z"}, None), ({}, b"Basic ???")):
        assert caller("", Form(form, frozenset()), header) == {}
