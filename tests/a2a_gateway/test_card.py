"""Cards: raw verification against pinned keys, digest, origin, rebuilding and signing (a2a reference §3)."""

import base64
import json
from dataclasses import replace

import jwt
import pytest
import rfc8785
from a2a.client.card_resolver import parse_agent_card
from a2a.server.request_handlers.response_helpers import agent_card_to_dict
from a2a.types import AgentCard
from a2a.utils.signing import create_agent_card_signer, create_signature_verifier
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from joserfc.jwk import ECKey, OKPKey, RSAKey

from a2a_gateway import card as cards
from examples.demo_a2a_agent import DemoAgent
from firewall.core.errors import Malformed
from firewall.wire import canonical
from firewall.wire.jwt import keys_of

URL = "http://127.0.0.1:8791/"
CARD_URL = f"{URL}.well-known/agent-card.json"
OFFER = cards.Offer(
    "https://fw.example/a2a/echo",
    "echo:send",
    "https://fw.example/authorize",
    "https://fw.example/token",
    "https://fw.example/.well-known/oauth-authorization-server",
)


@pytest.fixture(scope="module")
def agent():
    return DemoAgent(URL)


@pytest.fixture(scope="module")
def keys(agent):
    return keys_of(agent.jwks())


def wire(card):
    return json.dumps(agent_card_to_dict(card)).encode()


def code_of(data, keys, card_url=CARD_URL, **kwargs):
    try:
        unchecked = cards.parse(data)
        cards.accept(unchecked, cards.verify(unchecked, keys), card_url=card_url, **kwargs)
    except Malformed as error:
        return error.code
    return ""


def edited(agent, **members):
    raw = json.loads(wire(agent.cards["restore"]))
    raw.update(members)
    return json.dumps(raw).encode()


def test_a_card_that_the_sdk_signed_verifies_over_the_received_json(agent, keys):
    unchecked = cards.parse(wire(agent.cards["restore"]))
    assert cards.verify(unchecked, keys) == agent.kid
    card = cards.accept(unchecked, agent.kid, card_url=CARD_URL)
    assert (card.url, card.tenant, card.streaming) == (URL, "", True)


def test_a_card_that_we_sign_verifies_for_the_sdk_and_for_a_strict_reader(agent, keys):
    unchecked = cards.parse(wire(agent.cards["restore"]))
    card = cards.accept(unchecked, cards.verify(unchecked, keys), card_url=CARD_URL)
    ours = ECKey.generate_key("P-256")
    served = cards.sign(cards.rebuild(card, OFFER), ours, kid="fw-1", jku="https://fw.example/keys")
    public = jwt.PyJWK({**ours.as_dict(private=False), "alg": "ES256"})
    seen = []

    def key_of(kid, jku):
        seen.append((kid, jku))
        return public

    create_signature_verifier(key_of, ["ES256"])(parse_agent_card(json.loads(json.dumps(served))))
    assert seen == [("fw-1", "https://fw.example/keys")]
    body = rfc8785.dumps({k: v for k, v in served.items() if k != "signatures"})
    signature = served["signatures"][0]
    token = f"{signature['protected']}.{base64.urlsafe_b64encode(body).rstrip(b'=').decode()}.{signature['signature']}"
    assert jwt.api_jws.decode(token, public, algorithms=["ES256"]) == body


def test_our_card_names_no_place_of_the_agent(agent, keys):
    raw = json.loads(wire(agent.cards["unsign"]))
    raw |= {
        "documentationUrl": f"{URL}docs",
        "iconUrl": f"{URL}icon",
        "securitySchemes": {"k": {"apiKeySecurityScheme": {"location": "header", "name": "X-Key"}}},
        "url": URL,
        "additionalInterfaces": [{"url": URL, "transport": "JSONRPC"}],
    }
    raw["capabilities"] |= {"extensions": [{"uri": f"{URL}ext"}], "extendedAgentCard": True}
    card = cards.accept(cards.parse(json.dumps(raw).encode()), "", card_url=CARD_URL)
    served = cards.rebuild(card, OFFER)
    assert b"127.0.0.1" not in canonical.encode(served)
    assert b"8791" not in canonical.encode(served)
    assert b"X-Key" not in canonical.encode(served)
    assert served["supportedInterfaces"] == [{"url": OFFER.url, "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}]
    assert served["capabilities"]["pushNotifications"] is False
    assert [e["uri"] for e in served["capabilities"]["extensions"]] == [cards.PROVENANCE]
    assert served["securityRequirements"][0] == {"schemes": {"user": {"list": ["echo:send"]}}}
    parse_agent_card(json.loads(json.dumps(served)))


def test_our_card_leads_to_our_authorization_server_and_says_that_it_wants_pkce(agent):
    """A client that reads the card alone asks for a code as ours demands it (A2A 1.0, AuthorizationCodeOAuthFlow)."""
    card = cards.accept(cards.parse(wire(agent.cards["unsign"])), "", card_url=CARD_URL)
    served = parse_agent_card(cards.rebuild(card, OFFER))
    assert set(served.security_schemes) == {"user", "service"}
    for scheme in served.security_schemes.values():
        assert scheme.oauth2_security_scheme.oauth2_metadata_url == OFFER.metadata_url
    code = served.security_schemes["user"].oauth2_security_scheme.flows.authorization_code
    assert (code.authorization_url, code.token_url) == (OFFER.authorization_url, OFFER.token_url)
    assert code.pkce_required is True
    assert dict(code.scopes) == {OFFER.scope: "Send messages to this agent"}
    machine = served.security_schemes["service"].oauth2_security_scheme.flows.client_credentials
    assert machine.token_url == OFFER.token_url


@pytest.mark.parametrize("device", ["", "https://fw.example/device_authorization"])
def test_our_card_offers_devices_their_flow_where_it_is_on(agent, device):
    card = cards.accept(cards.parse(wire(agent.cards["unsign"])), "", card_url=CARD_URL)
    served = parse_agent_card(cards.rebuild(card, replace(OFFER, device_url=device)))
    assert ("device" in served.security_schemes) is bool(device)
    if device:
        flow = served.security_schemes["device"].oauth2_security_scheme.flows.device_code
        assert (flow.device_authorization_url, flow.token_url) == (device, OFFER.token_url)


@pytest.mark.parametrize(
    ("member", "value"),
    [("url", "https://evil.example/"), ("preferredTransport", "JSONRPC"), ("description", "Pays bills."), ("x", 1)],
)
def test_any_member_added_to_a_signed_card_breaks_it(agent, keys, member, value):
    assert code_of(edited(agent, **{member: value}), keys) == "card_signature"


def test_a_member_that_the_sdk_does_not_cover_would_pass_its_verifier(agent):
    # The twin with the control off: verification over the typed card lets legacy members in.
    public = jwt.PyJWK({**agent.jwks()["keys"][0], "alg": "ES256"})
    card = parse_agent_card(json.loads(edited(agent, url="https://evil.example/")))
    create_signature_verifier(lambda _kid, _jku: public, ["ES256"])(card)


def test_an_unsigned_card_is_told_from_a_badly_signed_one(agent, keys):
    assert code_of(wire(agent.cards["unsign"]), keys) == "card_unsigned"
    assert code_of(edited(agent, signatures=[]), keys) == "card_unsigned"
    assert code_of(wire(agent.cards["tamper"]), keys) == "card_signature"
    assert code_of(edited(agent, signatures="x"), keys) == "card_signature"
    assert (
        code_of(edited(agent, signatures=[None, {}, {"protected": "e30", "signature": "x"}]), keys) == "card_signature"
    )
    assert code_of(edited(agent, signatures=[{}] * 9), keys) == "card_signature"


def test_a_wrong_key_and_a_foreign_kid_are_refused(agent):
    other = DemoAgent(URL)
    assert code_of(wire(other.cards["restore"]), keys_of(agent.jwks())) == "card_signature"
    renamed = {"keys": [{**agent.jwks()["keys"][0], "kid": "another"}]}
    assert code_of(wire(agent.cards["restore"]), keys_of(renamed)) == "card_signature"


def test_one_good_signature_among_several_is_enough_so_that_keys_can_rotate(agent, keys):
    raw = json.loads(wire(agent.cards["restore"]))
    other = json.loads(wire(DemoAgent(URL).cards["restore"]))
    raw["signatures"] = other["signatures"] + raw["signatures"]
    assert code_of(json.dumps(raw).encode(), keys) == ""


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none", "kid": "demo-agent-1"},
        {"alg": "HS256", "kid": "demo-agent-1"},
        {"alg": "ES256"},
        {"alg": "ES256", "kid": "demo-agent-1", "crit": ["x"], "x": 1},
        {"alg": "ES256", "kid": "demo-agent-1", "b64": False},
        {"alg": "ES256", "kid": "demo-agent-1", "jwk": {}},
    ],
)
def test_a_header_outside_the_rules_never_reaches_a_key(agent, keys, header):
    raw = json.loads(wire(agent.cards["unsign"]))
    body = base64.urlsafe_b64encode(rfc8785.dumps(raw)).rstrip(b"=").decode()
    protected = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()
    public = json.dumps(agent.jwks()).encode()
    signature = {
        "none": "",
        "HS256": jwt.api_jws.PyJWS().get_algorithm_by_name("HS256").sign(f"{protected}.{body}".encode(), public),
    }.get(header["alg"])
    if signature is None:
        signature = jwt.api_jws.PyJWS().get_algorithm_by_name("ES256").sign(f"{protected}.{body}".encode(), agent.key)
    if isinstance(signature, bytes):
        signature = base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
    raw["signatures"] = [{"protected": protected, "signature": signature}]
    assert code_of(json.dumps(raw).encode(), keys) == "card_signature"


@pytest.mark.parametrize("kind", ["EdDSA", "RS256", "PS256", "ES256"])
def test_every_allowed_algorithm_verifies_what_the_sdk_signs_with_it(kind):
    made = {
        "EdDSA": lambda: (ed25519.Ed25519PrivateKey.generate(), OKPKey),
        "RS256": lambda: (rsa.generate_private_key(65537, 2048), RSAKey),
        "PS256": lambda: (rsa.generate_private_key(65537, 2048), RSAKey),
        "ES256": lambda: (ec.generate_private_key(ec.SECP256R1()), ECKey),
    }[kind]()
    pem = made[0].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    card = AgentCard()
    card.CopyFrom(DemoAgent(URL).cards["unsign"])
    create_agent_card_signer(pem.decode(), {"alg": kind, "kid": "k", "typ": "JOSE", "jku": None})(card)
    jwks = {"keys": [{**made[1].import_key(pem).as_dict(private=False), "kid": "k"}]}
    assert code_of(wire(card), keys_of(jwks)) == ""


def test_the_digest_is_of_the_content_not_of_its_signature_or_spelling(agent):
    signed, unsigned = cards.parse(wire(agent.cards["restore"])), cards.parse(wire(agent.cards["unsign"]))
    again = json.dumps(json.loads(wire(agent.cards["restore"])), indent=3, sort_keys=True).encode()
    assert signed.digest == unsigned.digest == cards.parse(again).digest
    assert cards.parse(wire(agent.cards["change"])).digest != signed.digest


@pytest.mark.parametrize(
    "interfaces",
    [
        [{"url": "http://127.0.0.1:9999/", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}],
        [{"url": "http://10.0.0.1/", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}],
        [
            {"url": URL, "protocolBinding": "JSONRPC", "protocolVersion": "1.0"},
            {"url": "http://evil.example/", "protocolBinding": "HTTP+JSON", "protocolVersion": "1.0"},
        ],
        [{"url": "evil.example:50051", "protocolBinding": "GRPC", "protocolVersion": "1.0"}],
        [{"url": "http://127.0.0.1:8791@evil.example/", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}],
    ],
)
def test_an_interface_on_another_origin_is_refused(agent, interfaces):
    raw = json.loads(wire(agent.cards["unsign"])) | {"supportedInterfaces": interfaces}
    with pytest.raises(Malformed) as caught:
        cards.accept(cards.parse(json.dumps(raw).encode()), "", card_url=CARD_URL)
    assert caught.value.code == "card_origin"


def test_another_origin_passes_only_when_the_operator_wrote_it_down(agent):
    there = [{"url": "http://127.0.0.1:9999/", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}]
    raw = json.loads(wire(agent.cards["unsign"])) | {"supportedInterfaces": there}
    unchecked = cards.parse(json.dumps(raw).encode())
    assert (
        cards.accept(unchecked, "", card_url=CARD_URL, origins=frozenset({"http://127.0.0.1:9999"})).url
        == there[0]["url"]
    )


@pytest.mark.parametrize("version", ["0.3.0", "2.0"])
def test_a_card_without_a_json_rpc_one_dot_zero_interface_is_refused(agent, version):
    raw = json.loads(wire(agent.cards["unsign"]))
    raw["supportedInterfaces"][0]["protocolVersion"] = version
    with pytest.raises(Malformed) as caught:
        cards.accept(cards.parse(json.dumps(raw).encode()), "", card_url=CARD_URL)
    assert caught.value.code == "card_interface"


@pytest.mark.parametrize(
    "members",
    [
        {"name": "n" * 129},
        {"description": "d" * 2049},
        {"skills": []},
        {"skills": [{"id": "a", "name": "a", "description": "a"}] * 2},
        {"skills": [{"id": str(i), "name": "a", "description": "a"} for i in range(65)]},
        {"skills": [{"id": "a", "name": "a", "description": "a", "tags": ["t"] * 17}]},
        {"skills": [{"id": "a", "name": "a", "description": "a", "input_modes": []}]},
        {"supported_interfaces": []},
        {"capabilities": {"streaming": 1}},
        {"version": ""},
    ],
)
def test_a_card_beyond_its_bounds_is_refused(agent, members):
    raw = json.loads(wire(agent.cards["unsign"])) | members
    with pytest.raises(Malformed) as caught:
        cards.parse(json.dumps(raw).encode())
    assert caught.value.code == "card_invalid"


@pytest.mark.parametrize("data", [b"", b"[]", b'{"name":"a","name":"b"}', b"{" * 40, b" " * 300_000])
def test_bytes_that_are_no_card_are_refused(data):
    with pytest.raises(Malformed) as caught:
        cards.parse(data)
    assert caught.value.code == "card_invalid"
