"""DPoP proofs: each rule of RFC 9449 §4.3 broken one at a time, nonces, and that a proof is used once."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey

from firewall.core.errors import Malformed, StateUnavailable
from firewall.core.ports import UsedProofs
from firewall.identity.rfc9449 import proof as proofs
from firewall.identity.rfc9449.nonces import Nonces
from firewall.identity.rfc9449.proof import NonceWanted
from firewall.identity.rfc9449.signer import DPoPSigner
from firewall.identity.rfc9449.verifier import ProofVerifier, TokenRequestProofs
from firewall.net.runtime import FakeClock
from firewall.state.replays import PERIOD_S, UsedOnce

ORIGIN = "https://fw.example"
PATH = "/mcp/time"
TOKEN = b"a.b.c"
HOLDER = ECKey.generate_key("P-256", private=True)


def public(key: ECKey = HOLDER) -> dict[str, str]:
    facts = key.as_dict(private=False)
    return {name: str(facts[name]) for name in ("kty", "crv", "x", "y")}


def hashed(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def made(clock: FakeClock, *, key: Any = HOLDER, header: dict[str, Any] | None = None, **changes: Any) -> bytes:
    """Return a proof; a claim or header member that is None is left out."""
    claims = {
        "jti": "one",
        "htm": "POST",
        "htu": ORIGIN + PATH,
        "iat": clock.now_us() // 1_000_000,
        "ath": hashed(TOKEN),
        **changes,
    }
    head = {"typ": "dpop+jwt", "alg": "ES256", "jwk": public(), **(header or {})}
    head = {name: value for name, value in head.items() if value is not None}
    claims = {name: value for name, value in claims.items() if value is not None}
    registry = jws.JWSRegistry(algorithms=[head["alg"]], strict_check_header=False)
    return jws.serialize_compact(head, orjson.dumps(claims), key, algorithms=[head["alg"]], registry=registry).encode()


PROOF = made(FakeClock())


def verifier(clock: FakeClock, *, nonce_required: bool = False, used: UsedOnce | None = None) -> ProofVerifier:
    nonces = Nonces([b"k" * 32], clock, "resource")
    return ProofVerifier(ORIGIN, nonces, used or UsedOnce(None, slots=64), clock, nonce_required=nonce_required)


def verified(one: ProofVerifier, data: bytes, **changes: Any) -> str:
    return one.verify(data, **{"method": "POST", "path": PATH, "token": TOKEN, **changes})


def refused(data: bytes, clock: FakeClock, **changes: Any) -> str:
    with pytest.raises(Malformed) as caught:
        verified(verifier(clock), data, **changes)
    return caught.value.code


def test_a_proof_for_this_request_gives_the_thumbprint_of_its_key() -> None:
    clock = FakeClock()
    assert verified(verifier(clock), made(clock)) == HOLDER.thumbprint()


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ({"typ": "JWT"}, "dpop_type"),
        ({"typ": None}, "dpop_type"),
        ({"typ": "at+jwt"}, "dpop_type"),
        ({"jwk": None}, "dpop_shape"),
        ({"jwk": {"kty": "oct", "k": "AAAA"}}, "dpop_key"),
        ({"jwk": {**public(), "d": "AAAA"}}, "dpop_key"),
        ({"jwk": {**public(), "crv": "P-384"}}, "dpop_key"),
        ({"jwk": {**public(), "x": "A" * 43}}, "dpop_key"),
        ({"jwk": {**public(), "use": "enc"}}, "dpop_key"),
        ({"jku": "https://evil.example/jwks"}, "dpop_shape"),
        ({"x5c": ["AAAA"]}, "dpop_shape"),
        ({"crit": ["b64"], "b64": False}, "dpop_shape"),
    ],
)
def test_rs_13_a_header_of_another_kind_is_refused(header: dict[str, Any], code: str) -> None:
    clock = FakeClock()
    if header.get("crit"):
        head, rest = made(clock).split(b".", 1)
        value = {**orjson.loads(base64.urlsafe_b64decode(head + b"==")), **header}
        data = base64.urlsafe_b64encode(orjson.dumps(value)).rstrip(b"=") + b"." + rest
    else:
        data = made(clock, header=header)
    assert refused(data, clock) == code


@pytest.mark.parametrize("alg", ["none", "HS256", "RS256", "nOnE"])
def test_rs_13_another_algorithm_is_refused_before_its_key_is_looked_at(alg: str) -> None:
    clock = FakeClock()
    head = orjson.dumps({"typ": "dpop+jwt", "alg": alg, "jwk": public()})
    body = orjson.dumps({"jti": "1", "htm": "POST", "htu": ORIGIN + PATH, "iat": clock.now_us() // 1_000_000})
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (head, body))
    mac = base64.urlsafe_b64encode(hmac.digest(orjson.dumps(public()), signed, "sha256")).rstrip(b"=")
    assert refused(signed + b"." + mac, clock) == "dpop_alg"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"htm": "GET"}, "dpop_method"),
        ({"htm": "post"}, "dpop_method"),
        ({"htm": None}, "dpop_method"),
        ({"htu": ORIGIN}, "dpop_url"),
        ({"htu": ORIGIN + PATH + "/"}, "dpop_url"),
        ({"htu": "http://fw.example" + PATH}, "dpop_url"),
        ({"htu": "https://fw.example.evil.example" + PATH}, "dpop_url"),
        ({"htu": "https://fw.example@evil.example" + PATH}, "dpop_url"),
        ({"htu": "https://fw.example:8443" + PATH}, "dpop_url"),
        ({"htu": "https://fw.example:port" + PATH}, "dpop_url"),
        ({"htu": None}, "dpop_url"),
        ({"htu": ["x"]}, "dpop_url"),
        ({"iat": None}, "dpop_time"),
        ({"iat": "1"}, "dpop_time"),
        ({"iat": 1.5}, "dpop_time"),
        ({"iat": True}, "dpop_time"),
        ({"ath": None}, "dpop_token"),
        ({"ath": hashed(b"x.y.z")}, "dpop_token"),
        ({"ath": "é"}, "dpop_token"),
        ({"jti": None}, "dpop_id"),
        ({"jti": ""}, "dpop_id"),
        ({"jti": "x" * 257}, "dpop_id"),
        ({"jti": 7}, "dpop_id"),
        ({"nonce": "x"}, "dpop_nonce"),
        ({"nonce": 7}, "dpop_nonce"),
        ({"nonce": "A" * 32}, "dpop_nonce"),
    ],
)
def test_rs_13_one_wrong_claim_is_enough(changes: dict[str, Any], code: str) -> None:
    clock = FakeClock()
    assert refused(made(clock, **changes), clock) == code


@pytest.mark.parametrize(
    "htu", [ORIGIN + PATH + "?x=1#y", "HTTPS://FW.example" + PATH, "https://fw.example:443" + PATH]
)
def test_the_url_may_be_spelt_as_its_rfc_allows(htu: str) -> None:
    clock = FakeClock()
    assert verified(verifier(clock), made(clock, htu=htu))


def test_rs_13_a_url_that_cannot_be_read_equals_no_other_one() -> None:
    clock = FakeClock()
    proof = made(clock, htu="https://a@b.example/mcp/time")
    assert refused(proof, clock, path="@b.example/mcp/time") == "dpop_url"


def test_rs_13_another_key_than_the_one_in_the_header_signed_nothing() -> None:
    clock = FakeClock()
    assert refused(made(clock, key=ECKey.generate_key("P-256", private=True)), clock) == "dpop_signature"


def test_rs_11_a_proof_is_bounded() -> None:
    clock = FakeClock()
    assert verified(verifier(clock), made(clock, pad="x" * 2000))
    assert refused(made(clock, pad="x" * 4096), clock) == "dpop_shape"


@pytest.mark.parametrize("skew", [-60, 60])
def test_a_clock_may_differ_by_a_minute(skew: int) -> None:
    clock = FakeClock()
    assert verified(verifier(clock), made(clock, iat=clock.now_us() // 1_000_000 + skew))


@pytest.mark.parametrize("skew", [-61, 61, -(10**9), 10**12])
def test_rs_13_a_clock_that_differs_more_is_offered_a_nonce_and_good_with_it(skew: int) -> None:
    clock = FakeClock()
    one = verifier(clock)
    wrong = clock.now_us() // 1_000_000 + skew
    with pytest.raises(NonceWanted):
        verified(one, made(clock, iat=wrong))
    assert verified(one, made(clock, iat=wrong, nonce=one.nonces.issue()))


def test_a_nonce_is_good_for_its_minute_and_the_next_in_every_worker_and_under_the_last_key() -> None:
    clock = FakeClock()
    old, new = b"o" * 32, b"n" * 32
    nonce = Nonces([old], clock, "resource").issue()
    clock.advance(59)
    rotated = Nonces([new, old], clock, "resource")
    assert rotated.is_good(nonce)
    assert rotated.issue() != nonce
    assert not Nonces([new], clock, "resource").is_good(nonce)
    assert not Nonces([old], clock, "token").is_good(nonce)
    clock.advance(61)
    assert not rotated.is_good(nonce)


def test_rs_13_where_nonces_are_required_no_proof_is_good_without_one() -> None:
    clock = FakeClock()
    one = verifier(clock, nonce_required=True)
    with pytest.raises(NonceWanted):
        verified(one, made(clock))
    assert verified(one, made(clock, nonce=one.nonces.issue()))


def test_rs_13_a_proof_is_used_once_per_key() -> None:
    clock = FakeClock()
    one = verifier(clock)
    verified(one, made(clock))
    with pytest.raises(Malformed, match="dpop_replayed"):
        verified(one, made(clock))
    other = ECKey.generate_key("P-256", private=True)
    assert verified(one, made(clock, key=other, header={"jwk": public(other)})) == other.thumbprint()
    assert verified(one, made(clock), seen=True)


def test_rs_13_a_proof_is_used_once_on_all_workers_and_after_a_restart(tmp_path: Any) -> None:
    clock = FakeClock()
    tables = [UsedOnce(tmp_path, worker=n, workers=4, slots=64) for n in range(4)]
    verified(verifier(clock, used=tables[0]), made(clock))
    for table in tables:
        with pytest.raises(Malformed, match="dpop_replayed"):
            verified(verifier(clock, used=table), made(clock))
        table.close()
    again = UsedOnce(tmp_path, worker=3, workers=4, slots=64)
    with pytest.raises(Malformed, match="dpop_replayed"):
        verified(verifier(clock, used=again), made(clock))


def node(
    clock: FakeClock, key: bytes, used: UsedProofs | None = None, *, nonce_required: bool = False
) -> ProofVerifier:
    """Return a node of the same address as every other, with a nonce key of its own."""
    nonces = Nonces([key * 32], clock, "resource")
    return ProofVerifier(ORIGIN, nonces, used or UsedOnce(None, slots=64), clock, nonce_required=nonce_required)


def test_rs_13_nodes_share_nothing_so_without_nonces_each_takes_a_proof_once() -> None:
    """A recorded gap (docs/oauth.md): once means once on a node."""
    clock = FakeClock()
    for one in (node(clock, b"a"), node(clock, b"b")):
        verified(one, made(clock))
        with pytest.raises(Malformed, match="dpop_replayed"):
            verified(one, made(clock))


def test_rs_13_with_nonces_a_proof_is_good_at_the_node_that_gave_its_nonce_alone() -> None:
    clock = FakeClock()
    home, other = (node(clock, key, nonce_required=True) for key in (b"a", b"b"))
    proof = made(clock, nonce=home.nonces.issue())
    with pytest.raises(NonceWanted):
        verified(other, proof)
    verified(home, proof)
    # The twin: nodes with the same nonce key take each other's.
    verified(node(clock, b"a", nonce_required=True), proof)


class OneMemory:
    """A memory of used proofs that all nodes share: what would stand behind the port."""

    def __init__(self) -> None:
        self.used: set[bytes] = set()

    def first(self, key: bytes, now_s: int, *, owner: str = "") -> bool:
        new = key not in self.used
        self.used.add(key)
        return new


def test_rs_13_behind_the_port_a_memory_of_all_nodes_makes_once_mean_once() -> None:
    """Keys of the memory are salted with the nonce key, which such nodes therefore have in common."""
    clock, memory = FakeClock(), OneMemory()
    verified(node(clock, b"a", memory), made(clock))
    with pytest.raises(Malformed, match="dpop_replayed"):
        verified(node(clock, b"a", memory), made(clock))


def test_what_was_used_is_remembered_for_longer_than_a_proof_is_good_and_then_forgotten() -> None:
    used = UsedOnce(None, slots=8)
    start = 1_000 * PERIOD_S + PERIOD_S - 1
    assert used.first(b"k" * 16, start)
    assert not used.first(b"k" * 16, start + 121)
    assert used.first(b"k" * 16, start + 2 * PERIOD_S + 1)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_table_of_an_old_period_is_emptied_whoever_wrote_it(tmp_path: Any, restarted: bool) -> None:
    used = UsedOnce(tmp_path, slots=64)
    keys = [bytes([n]) * 16 for n in range(1, 40)]
    assert all(used.first(key, 10 * PERIOD_S) for key in keys)
    if restarted:
        used.close()
        used = UsedOnce(tmp_path, slots=64)
        assert not used.first(keys[0], 10 * PERIOD_S)
    assert all(used.first(key, 12 * PERIOD_S) for key in keys)
    assert not any(used.first(key, 13 * PERIOD_S) for key in keys)


def test_a_full_memory_refuses_and_forgets_nothing() -> None:
    used = UsedOnce(None, slots=8)
    keys = [bytes([n]) * 16 for n in range(1, 8)]
    assert all(used.first(key, 1000) for key in keys[:6])
    with pytest.raises(StateUnavailable):
        used.first(keys[6], 1000)
    assert not used.first(keys[0], 1000)
    assert used.first(keys[6], 1000 + PERIOD_S)
    used.close()
    with pytest.raises(StateUnavailable):
        used.first(keys[0], 1000)


def test_another_number_of_workers_begins_a_new_table(tmp_path: Any) -> None:
    UsedOnce(tmp_path, workers=2, slots=64).close()
    again = UsedOnce(tmp_path, worker=2, workers=3, slots=64)
    assert again.first(b"k" * 16, 1000)
    assert (tmp_path / "used").stat().st_mode & 0o777 == 0o600


def test_keys_of_proofs_are_kept_and_bounded() -> None:
    keys = proofs.ProofKeys(entries=1)
    first = keys.read(public())
    assert keys.read(public()) is first
    keys.read(public(ECKey.generate_key("P-256", private=True)))
    assert keys.read(public()) is not first


@given(st.binary(max_size=300) | st.text(alphabet="abcAB_-.", max_size=300).map(str.encode))
def test_rs_13_no_bytes_are_a_proof_and_no_bytes_break_its_reader(data: bytes) -> None:
    clock = FakeClock()
    refused(data, clock)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_rs_13_a_proof_with_one_byte_changed_is_none(at: int, by: int) -> None:
    clock = FakeClock()
    good = bytearray(PROOF)
    good[at % len(good)] ^= by
    refused(bytes(good), clock)


# -- our own proofs -------------------------------------------------------------------------------------------


def signer(clock: FakeClock) -> DPoPSigner:
    count = iter(range(1, 100))
    return DPoPSigner(b"s" * 32, clock, lambda n: next(count).to_bytes(n))


def test_our_own_proofs_pass_our_own_verifier_and_are_fresh_each_time() -> None:
    clock = FakeClock()
    mine, one = signer(clock), verifier(clock)
    for _ in range(2):
        data = mine.proof("acme", "files", method="POST", url=ORIGIN + PATH + "?q=1", token=TOKEN.decode())
        assert verified(one, data.encode()) == mine.thumbprint("acme", "files")


def test_keys_differ_by_tenant_and_upstream_and_are_the_same_in_every_worker() -> None:
    clock = FakeClock()
    one, two = signer(clock), signer(clock)
    places = [("acme", "files"), ("acme", "mail"), ("other", "files")]
    assert [one.thumbprint(*p) for p in places] == [two.thumbprint(*p) for p in places]
    assert len({one.thumbprint(*p) for p in places}) == 3


def test_a_nonce_that_a_server_tells_is_used_there_and_asked_for_once() -> None:
    clock = FakeClock()
    mine = signer(clock)
    url = "https://files.example/mcp"
    told = {"dpop-nonce": "n1", "www-authenticate": 'DPoP error="use_dpop_nonce"'}
    assert mine.wants_retry("acme", "files", url, 401, told)
    assert not mine.wants_retry("acme", "files", url, 401, told)

    def nonce(place: str) -> object:
        data = mine.proof("acme", "files", method="GET", url=place)
        body = data.split(".")[1]
        return orjson.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))).get("nonce")

    assert nonce(url) == "n1"
    assert nonce("https://auth.example/token") is None
    again = {"dpop-nonce": "n2"}
    token = "https://auth.example/token"
    assert mine.wants_retry("acme", "files", token, 400, again, b'{"error":"use_dpop_nonce"}')
    assert not mine.wants_retry("acme", "files", token, 400, {"dpop-nonce": "n3"}, b'{"error":"invalid_grant"}')
    assert not mine.wants_retry("acme", "files", token, 400, {"dpop-nonce": 'a"b'}, b'{"error":"use_dpop_nonce"}')
    assert mine.headers_for("acme", "files", method="GET", url=url, token="t")[0] == (b"authorization", b"DPoP t")


@pytest.mark.parametrize("shared_out", [True, False])
def test_nobody_fills_the_memory_for_the_others(shared_out: bool) -> None:
    used = UsedOnce(None, slots=1024)
    free, got = 768, dict.fromkeys(("eve", "mallory"), 0)
    for n in range(2 * free):
        owner = ("eve", "mallory")[n % 2]
        try:
            used.first(n.to_bytes(16, "big"), 1000, owner=owner if shared_out else "")
            got[owner] += 1
        except StateUnavailable:
            continue
    assert sum(got.values()) == (2 * free // 3 if shared_out else free)
    if not shared_out:  # the twin
        with pytest.raises(StateUnavailable):
            used.first(b"a" * 16, 1000, owner="ada")
        return
    assert all(used.first(b"a" * 14 + n.to_bytes(2, "big"), 1000, owner="ada") for n in range(100))
    # A new period has new places, for the greedy too.
    assert used.first(b"e" * 16, 1000 + PERIOD_S, owner="eve")


def test_a_proof_of_another_key_takes_no_place_of_a_tokens_subject() -> None:
    """Who stole a bound token cannot use it, and not keep its owner from using it either."""
    clock, thief = FakeClock(), ECKey.generate_key("P-256", private=True)
    used = UsedOnce(None, slots=64)
    one, bound = verifier(clock, used=used), HOLDER.thumbprint()
    for n in range(100):
        forged = made(clock, key=thief, header={"jwk": public(thief)}, jti=f"x{n}")
        with pytest.raises(Malformed, match="dpop_key"):
            verified(one, forged, bound=bound, owner="ada")
    assert all(verified(one, made(clock, jti=f"y{n}"), bound=bound, owner="ada") for n in range(20))


def test_as_19_proofs_that_strangers_send_to_the_token_endpoint_are_counted_by_network() -> None:
    clock, used = FakeClock(), UsedOnce(None, slots=64)
    at_token = TokenRequestProofs(verifier(clock, used=used))

    def send(n: int, address: str) -> bool:
        proof = made(clock, jti=f"{address}{n}", htu=f"{ORIGIN}/token", ath=None)
        try:
            return bool(at_token.thumbprint({b"dpop": proof}, address=address))
        except StateUnavailable:
            return False

    assert sum(send(n, f"2001:db8:0:{n:x}::1") for n in range(100)) == 24
    assert send(0, "203.0.113.1")
