"""Compact JWS and JWT rules: what is refused before a key is touched, what a key must be, what claims must say."""

import base64
import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from firewall.core.bounds import TOKEN_BYTES
from firewall.core.errors import Malformed
from firewall.wire import jwt

EC = ECKey.generate_key("P-256", private=True)
RSA = RSAKey.generate_key(2048, private=True)
ED = OKPKey.generate_key("Ed25519", private=True)
NOW = 1_795_000_000
CLAIMS = {"iss": "https://as.example", "aud": "https://rs.example/x", "iat": NOW, "exp": NOW + 300, "sub": "u"}
RULES = jwt.ClaimRules("https://as.example", "https://rs.example/x", max_age_s=300, required=("sub",))


def b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def raw(header: object, claims: object = CLAIMS, signature: bytes = b"AAAA") -> bytes:
    return b".".join((b64(json.dumps(header).encode()), b64(json.dumps(claims).encode()), signature))


def good(alg: str = "ES256", key: jwt.Key = EC) -> bytes:
    return jwt.sign(CLAIMS, key, alg=alg, typ="at+jwt", kid="k").encode()


@pytest.mark.parametrize(("alg", "key"), [("ES256", EC), ("RS256", RSA), ("PS256", RSA), ("Ed25519", ED)])
def test_what_we_sign_verifies_and_returns_its_claims(alg: str, key: jwt.Key) -> None:
    unchecked = jwt.parse_compact(good(alg, key))
    assert (unchecked.alg, unchecked.typ, unchecked.kid) == (alg, "at+jwt", "k")
    assert jwt.verify(unchecked, key) == CLAIMS


@pytest.mark.parametrize("alg", ["none", "None", "nOnE", "HS256", "HS512", "ES384", "RS1", "", None, 1, ["ES256"]])
def test_rs_01_an_algorithm_off_the_list_never_reaches_a_key(alg: object) -> None:
    with pytest.raises(Malformed, match="jwt_alg"):
        jwt.parse_compact(raw({"alg": alg, "typ": "at+jwt"}))


def test_rs_01_a_missing_algorithm_is_refused() -> None:
    with pytest.raises(Malformed, match="jwt_alg"):
        jwt.parse_compact(raw({"typ": "at+jwt"}))


def test_rs_01_an_hmac_over_the_public_key_is_refused_even_if_relabelled() -> None:
    head = b64(b'{"alg":"HS256","typ":"at+jwt","kid":"k"}') + b"." + b64(json.dumps(CLAIMS).encode())
    mac = hmac.new(RSA.as_pem(private=False), head, hashlib.sha256).digest()
    with pytest.raises(Malformed, match="jwt_alg"):
        jwt.parse_compact(head + b"." + b64(mac))
    with pytest.raises(Malformed, match="jwt_key"):
        jwt.verify(jwt.parse_compact(good()), RSA)


@pytest.mark.parametrize("name", ["jwk", "jku", "x5u", "x5c", "crit", "b64", "zip"])
def test_rs_02_keys_and_extensions_in_the_header_are_refused(name: str) -> None:
    with pytest.raises(Malformed, match="jwt_header"):
        jwt.parse_compact(raw({"alg": "ES256", name: "https://evil.example"}))


@pytest.mark.parametrize("kid", ["k" * 129, 7, None, {}])
def test_rs_03_a_key_id_is_a_short_string(kid: object) -> None:
    with pytest.raises(Malformed, match="jwt_header"):
        jwt.parse_compact(raw({"alg": "ES256", "kid": kid}))


def test_rs_04_a_key_must_fit_its_algorithm() -> None:
    encryption = ECKey.import_key({**EC.as_dict(private=False), "use": "enc"})
    other = ECKey.import_key({**EC.as_dict(private=False), "alg": "ES512"})
    curve = ECKey.generate_key("P-384", private=True)
    for key in (encryption, other, curve, ED):
        with pytest.raises(Malformed, match="jwt_key"):
            jwt.check_key(key, "ES256")


@pytest.mark.filterwarnings("ignore")
def test_rs_04_a_short_rsa_key_is_refused() -> None:
    with pytest.raises(Malformed, match="jwt_key"):
        jwt.check_key(RSAKey.generate_key(1024, private=True), "RS256")


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b"a.b",
        b"a.b.c.d",
        b"....",
        good() + b"\n",
        good() + b"=",
        b" " + good(),
        good().replace(b".", b"..", 1),
        b"x" * (TOKEN_BYTES + 1),
        raw({"alg": "ES256", "x": "y" * 4100}),
        raw([1]),
        raw({"alg": "ES256"}, [1]),
        raw({"alg": "ES256"}, "text"),
        b64(b'{"alg":"ES256"}') + b"." + b64(b'{"a":1,"a":2}') + b".AAAA",
        b64(b'{"alg":"ES256","alg":"none"}') + b"." + b64(b"{}") + b".AAAA",
        b64(b'{"alg":"ES256"}') + b"." + b64(b'{"a":NaN}') + b".AAAA",
        b64(b'{"alg":"ES256"}') + b"." + b64(b"\xff") + b".AAAA",
        raw({"alg": "ES256"}, CLAIMS, b"AAB"),
        raw({"alg": "ES256"}, CLAIMS, b"A"),
        raw({"alg": "ES256"}, CLAIMS, b""),
    ],
)
def test_rs_11_a_token_of_another_shape_or_spelling_is_refused(token: bytes) -> None:
    with pytest.raises(Malformed, match="jwt_shape"):
        jwt.parse_compact(token)


def test_a_changed_byte_anywhere_is_refused() -> None:
    token = good()
    for index in range(0, len(token), 7):
        changed = token[:index] + (b"A" if token[index : index + 1] != b"A" else b"B") + token[index + 1 :]
        with pytest.raises(Malformed):
            jwt.verify(jwt.parse_compact(changed), EC)


@given(st.binary(max_size=300))
def test_any_bytes_give_a_token_or_one_documented_error(data: bytes) -> None:
    code = "jwt_shape"
    try:
        jwt.parse_compact(data)
    except Malformed as error:
        code = error.code
    assert code in {"jwt_shape", "jwt_header", "jwt_alg"}


@pytest.mark.parametrize(
    "change",
    [
        {"aud": "https://rs.example"},
        {"aud": "https://rs.example/x/"},
        {"aud": "https://rs.example/x/y"},
        {"aud": ["https://rs.example/x"]},
        {"aud": ["https://rs.example/x", "https://other.example"]},
        {"aud": None},
        {"iss": "https://as.example/"},
        {"iss": "https://AS.example"},
        {"exp": NOW},
        {"exp": str(NOW + 300)},
        {"exp": float(NOW + 300)},
        {"exp": True},
        {"exp": None},
        {"exp": NOW + 301},
        {"exp": NOW + 10 * 365 * 86400},
        {"iat": NOW + 31, "exp": NOW + 100},
        {"iat": None},
        {"nbf": NOW + 1},
        {"nbf": "soon"},
        {"sub": ""},
        {"sub": 7},
        {"sub": "u" * 2049},
    ],
)
def test_rs_08_09_10_one_wrong_claim_is_enough(change: dict[str, object]) -> None:
    jwt.check_claims(CLAIMS, RULES, NOW)
    claims = {k: v for k, v in {**CLAIMS, **change}.items() if v is not None}
    with pytest.raises(Malformed, match="jwt_claims"):
        jwt.check_claims(claims, RULES, NOW)  # type: ignore[arg-type]


def test_a_list_of_exactly_the_audience_passes_only_where_it_is_allowed() -> None:
    rules = jwt.ClaimRules("https://as.example", "https://rs.example/x", max_age_s=300, audience_list=True)
    jwt.check_claims({**CLAIMS, "aud": ["https://rs.example/x"]}, rules, NOW)
    with pytest.raises(Malformed):
        jwt.check_claims({**CLAIMS, "aud": ["https://rs.example/x", "z"]}, rules, NOW)


def test_leeway_and_skew_are_bounds_in_seconds() -> None:
    rules = jwt.ClaimRules("https://as.example", "https://rs.example/x", max_age_s=300, leeway_s=30, skew_s=30)
    jwt.check_claims(CLAIMS, rules, NOW + 329)
    jwt.check_claims(CLAIMS, rules, NOW - 30)
    with pytest.raises(Malformed):
        jwt.check_claims(CLAIMS, rules, NOW + 330)
    with pytest.raises(Malformed):
        jwt.check_claims(CLAIMS, rules, NOW - 31)


def jwks(*keys: dict[str, object]) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


def public(key: jwt.Key, **more: object) -> dict[str, object]:
    return {**key.as_dict(private=False), **more}


def test_a_key_set_gives_its_signature_keys_by_id() -> None:
    keys = jwt.parse_jwks(
        jwks(
            public(EC, kid="a"), public(RSA, kid="b"), public(ED, kid="c"), public(EC, kid="d", use="enc"), {"kty": "?"}
        )
    )
    assert list(keys) == ["a", "b", "c"]
    jwt.verify(jwt.parse_compact(good()), keys["a"])


def test_a_key_without_id_is_known_by_its_thumbprint() -> None:
    facts = {k: v for k, v in public(EC).items() if k != "kid"}
    assert list(jwt.parse_jwks(jwks(facts))) == [EC.thumbprint()]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys":[]}',
        b'{"keys":[1]}',
        b'{"keys":{}}',
        b"not json",
        b" " * 65537,
        jwks(*[{"kty": "EC"}] * 51),
        jwks({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}),
        jwks(OctKey.generate_key(256).as_dict()),
        jwks(EC.as_dict(private=True)),
        jwks(public(EC, kid="a"), public(EC, kid="a")),
        jwks(public(EC, kid="k" * 129)),
    ],
    ids=[f"set{n}" for n in range(14)],  # one holds a fresh key: two workers must collect the same names
)
def test_rs_05_a_key_set_that_is_not_one_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed, match="jwks_invalid"):
        jwt.parse_jwks(data)


@pytest.mark.parametrize(("bits", "taken"), [(2048, True), (8192, True), (8193, False), (16384, False)])
def test_rs_05_a_key_that_costs_too_much_to_calculate_with_is_left_out(bits: int, taken: bool) -> None:
    modulus = (1 << (bits - 1)) | 1
    heavy = base64.urlsafe_b64encode(modulus.to_bytes((bits + 7) // 8, "big")).rstrip(b"=").decode()
    keys = jwt.parse_jwks(jwks(public(EC, kid="a"), {"kty": "RSA", "n": heavy, "e": "AQAB", "kid": "b"}))
    assert ("b" in keys) is taken


def test_keys_of_other_curves_or_for_other_algorithms_are_left_out() -> None:
    curve = ECKey.generate_key("P-384", private=True)
    exchange = OKPKey.generate_key("X25519", private=True)
    keys = jwt.parse_jwks(
        jwks(
            public(curve, kid="a"),
            public(exchange, kid="b"),
            public(RSA, kid="c", alg="PS256"),
            public(EC, kid="d", alg="ES512"),
        )
    )
    assert list(keys) == ["c"]
    with pytest.raises(Malformed, match="jwt_key"):
        jwt.check_key(exchange, "Ed25519")
    with pytest.raises(Malformed, match="jwt_key"):
        jwt.verify(jwt.parse_compact(good("RS256", RSA)), keys["c"])


@given(st.text(alphabet="AQgwBRhxCSiy_-0189", max_size=9))
def test_rs_11_a_segment_is_taken_exactly_when_it_is_how_its_bytes_are_written(text: str) -> None:
    segment = text.encode()
    try:
        data = base64.urlsafe_b64decode(segment + b"=" * (-len(segment) % 4))
        canonical = base64.urlsafe_b64encode(data).rstrip(b"=") == segment
    except ValueError:
        canonical = False
    try:
        assert jwt._decode(segment) == data
    except Malformed:
        assert not canonical
    else:
        assert canonical
