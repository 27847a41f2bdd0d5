"""Agent cards: read, verify, pin by digest, rebuild as ours, sign. Pure; keys are arguments.

    bytes ─parse─▶ UncheckedCard ─verify─▶ Card ─rebuild─▶ our card ─sign─▶ what we serve

- Verification runs over the received JSON (RFC 8785 of the card without ``signatures``), not over
  a re-parsed object: members that a typed reader ignores stay covered (a2a reference §3.4).
- Trust comes from the operator's pinned key alone; ``jku`` and keys in a header are never used.
- What we serve holds our URL, our security schemes and the members of `OFFERED` only: no upstream
  host, no ``provider``, no documentation or icon address, no extension but our provenance.
- Empty members are left out of what we sign, so that readers that strip empties (the Python SDK)
  and readers that take the JSON as it stands verify the same bytes.

Source: A2A 1.0 §8.2–§8.4; RFC 7515 appendix F (detached content); RFC 8785.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from a2a_gateway.shapes import Parser, Shape
from a2a_gateway.versions import VERSION, is_current
from firewall.core.bounds import CARD_BYTES
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.wire import canonical, strict_json
from firewall.wire.http import parse_host, parse_url
from firewall.wire.jwt import Key, check_key

PROVENANCE: Final = "urn:bartizan:a2a:provenance:1"
SIGNATURES: Final = 8
HEADER_BYTES: Final = 4096
CARD_DEPTH: Final = 24
NAME_CHARS: Final = 128
DESCRIPTION_CHARS: Final = 2048
SKILLS: Final = 64
TAGS: Final = 16
INTERFACES: Final = 16

# Name in a JWS header → the name `wire.jwt` knows. EdDSA is the older name of Ed25519 (RFC 9864).
ALGORITHMS: Final[dict[str, str]] = {
    "ES256": "ES256",
    "RS256": "RS256",
    "PS256": "PS256",
    "EdDSA": "Ed25519",
    "Ed25519": "Ed25519",
}
_HEADER: Final = frozenset({"alg", "kid", "typ", "jku"})


class _Registry(jws.JWSRegistry):
    max_header_length = HEADER_BYTES
    max_payload_length = CARD_BYTES

    def check_header(self, header: dict[str, Any]) -> None:
        """`_header` has judged it; the library would refuse the ``"jku": null`` that the SDK's signer writes."""

    def get_alg(self, name: str) -> Any:  # its type is not exported
        """Return the algorithm; EdDSA with our Ed25519 keys is Ed25519."""
        return super().get_alg(ALGORITHMS.get(name, name))


def _text(most: int) -> Parser:
    def parse(value: JSON) -> JSON:
        if not isinstance(value, str) or len(value) > most:
            raise Malformed("card_invalid", "text")
        return value

    return parse


def _texts(most: int, chars: int) -> Parser:
    def parse(value: JSON) -> JSON:
        if not isinstance(value, list) or len(value) > most:
            raise Malformed("card_invalid", "list")
        if not all(isinstance(item, str) and 0 < len(item) <= chars for item in value):
            raise Malformed("card_invalid", "list")
        return list(value)

    return parse


def _flag(value: JSON) -> JSON:
    if not isinstance(value, bool):
        raise Malformed("card_invalid", "flag")
    return value


def _shape(name: str, members: dict[str, Parser], required: set[str]) -> Shape:
    return Shape(name, members, frozenset(required), foreign=frozenset())


def _objects(shape: Shape, most: int, least: int) -> Parser:
    def parse(value: JSON) -> JSON:
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise Malformed("card_invalid", shape.name)
        return [shape.read(item) for item in value]

    return parse


INTERFACE: Final = _shape(
    "AgentInterface",
    {"url": _text(2048), "protocolBinding": _text(64), "protocolVersion": _text(16), "tenant": _text(128)},
    {"url", "protocolBinding", "protocolVersion"},
)
CAPABILITIES: Final = _shape("AgentCapabilities", {"streaming": _flag}, set())
SKILL: Final = _shape(
    "AgentSkill",
    {
        "id": _text(NAME_CHARS),
        "name": _text(NAME_CHARS),
        "description": _text(DESCRIPTION_CHARS),
        "tags": _texts(TAGS, NAME_CHARS),
        "examples": _texts(TAGS, DESCRIPTION_CHARS),
        "inputModes": _texts(TAGS, 255),
        "outputModes": _texts(TAGS, 255),
    },
    {"id", "name", "description"},
)
OFFERED: Final = _shape(
    "AgentCard",
    {
        "name": _text(NAME_CHARS),
        "description": _text(DESCRIPTION_CHARS),
        "version": _text(64),
        "capabilities": CAPABILITIES.read,
        "defaultInputModes": _texts(TAGS, 255),
        "defaultOutputModes": _texts(TAGS, 255),
        "skills": _objects(SKILL, SKILLS, 1),
        "supportedInterfaces": _objects(INTERFACE, INTERFACES, 1),
    },
    {"name", "description", "version", "capabilities", "skills", "supportedInterfaces"},
)


@dataclass(frozen=True, slots=True)
class UncheckedCard:
    """A card of the right shape that nobody vouches for yet. ``raw`` is the whole received JSON."""

    raw: JSONObject
    offered: JSONObject
    digest: str


@dataclass(frozen=True, slots=True)
class Card:
    """A card we may act on. kid: the pinned key that signed it, "" for one allowed unsigned.

    digest: ``sha256:…`` of the canonical card without its signatures; what a pin holds.
    url, tenant: the JSON-RPC 1.0 interface, on the agent's registered origin.
    """

    offered: JSONObject
    digest: str
    kid: str
    url: str
    tenant: str
    streaming: bool


def parse(data: bytes) -> UncheckedCard:
    """Return the card in a response body; raises Malformed("card_invalid")."""
    if len(data) > CARD_BYTES:
        raise Malformed("card_invalid", "size")
    try:
        raw = strict_json.loads(data, max_depth=CARD_DEPTH)
        if not isinstance(raw, dict):
            raise Malformed("card_invalid", "object")
        offered = OFFERED.read(raw)
    except Malformed as error:
        raise Malformed("card_invalid", error.detail or error.code) from None
    ids = [skill["id"] for skill in _list(offered["skills"])]
    if len(set(map(str, ids))) != len(ids):
        raise Malformed("card_invalid", "skill ids")
    return UncheckedCard(raw, offered, canonical.digest(_unsigned(raw)))


def verify(card: UncheckedCard, keys: Mapping[str, Key]) -> str:
    """Return the kid of the pinned key whose signature over the whole card holds.

    keys: the operator's pinned keys by kid. One good signature is enough (spec §8.4.3).
    Raises Malformed: card_unsigned (no signatures), card_signature (none by a pinned key).
    """
    signatures = card.raw.get("signatures")
    if signatures in (None, []):
        raise Malformed("card_unsigned")
    if not isinstance(signatures, list) or len(signatures) > SIGNATURES:
        raise Malformed("card_signature", "list")
    payload = _b64(canonical.encode(_unsigned(card.raw)))
    for signature in signatures:
        kid = _verified_by(signature, payload, keys)
        if kid is not None:
            return kid
    raise Malformed("card_signature")


def _verified_by(signature: JSON, payload: str, keys: Mapping[str, Key]) -> str | None:
    if not isinstance(signature, dict):
        return None
    protected, value = signature.get("protected"), signature.get("signature")
    if not isinstance(protected, str) or not isinstance(value, str) or "." in protected or "." in value:
        return None
    header = _header(protected)
    if header is None:
        return None
    alg, kid = header.get("alg"), header.get("kid")
    known = ALGORITHMS.get(alg) if isinstance(alg, str) else None
    key = keys.get(kid) if isinstance(kid, str) else None
    if known is None or key is None or not isinstance(alg, str) or not isinstance(kid, str):
        return None
    try:
        check_key(key, known)
        registry = _Registry(algorithms=[known])
        jws.deserialize_compact(f"{protected}.{payload}.{value}", key, algorithms=[known], registry=registry)
    except (JoseError, Malformed, ValueError):
        return None
    return kid


def _header(protected: str) -> JSONObject | None:
    """Return a protected header with no members but those of the spec; ``crit`` and keys refuse it."""
    if len(protected) > HEADER_BYTES:
        return None
    try:
        header = strict_json.loads(base64.urlsafe_b64decode(protected + "=" * (-len(protected) % 4)), max_depth=4)
    except (Malformed, binascii.Error, ValueError):
        return None
    return header if isinstance(header, dict) and header.keys() <= _HEADER else None


def accept(card: UncheckedCard, kid: str, *, card_url: str, origins: frozenset[str] = frozenset()) -> Card:
    """Return the card with the interface we shall call.

    card_url: where the operator registered the agent; its origin, and ``origins``, are the only
    ones an interface may name (A2A-01, GW-11).
    Raises Malformed: card_origin, card_interface (no JSON-RPC 1.0 among them).
    """
    allowed = origins | {origin(card_url)}
    hosts = {parse_url(one).host for one in allowed}
    chosen: JSONObject | None = None
    for interface in _list(card.offered["supportedInterfaces"]):
        url = str(interface["url"])
        if "://" in url:
            fits = origin(url) in allowed
        else:  # gRPC names an authority without a scheme
            fits = _host(url) in hosts
        if not fits:
            raise Malformed("card_origin")
        if (
            chosen is None
            and interface["protocolBinding"] == "JSONRPC"
            and is_current(str(interface["protocolVersion"]))
        ):
            chosen = interface
    if chosen is None:
        raise Malformed("card_interface")
    capabilities = card.offered["capabilities"]
    streaming = isinstance(capabilities, dict) and capabilities.get("streaming") is True
    return Card(card.offered, card.digest, kid, str(chosen["url"]), str(chosen.get("tenant", "")), streaming)


def origin(url: str) -> str:
    """Return ``scheme://authority`` of a URL in normal form; raises Malformed("card_origin")."""
    try:
        return parse_url(url).origin
    except Malformed:
        raise Malformed("card_origin") from None


def _host(authority: str) -> str:
    try:
        return parse_host(authority.encode())[0]
    except Malformed:
        return ""


@dataclass(frozen=True, slots=True)
class Offer:
    """What our card says about us. scope: the OAuth scope the agent needs (``NAME:send``).

    device_url: where devices ask (RFC 8628), "" where they may not.
    """

    url: str
    scope: str
    authorization_url: str
    token_url: str
    metadata_url: str
    device_url: str = ""


def rebuild(card: Card, offer: Offer) -> JSONObject:
    """Return our card for a verified one, unsigned, without empty members."""
    offered = card.offered
    scopes: JSONObject = {offer.scope: "Send messages to this agent"}
    user: JSONObject = {
        "authorizationUrl": offer.authorization_url,
        "tokenUrl": offer.token_url,
        "scopes": scopes,
        "pkceRequired": True,
    }
    machine: JSONObject = {"tokenUrl": offer.token_url, "scopes": scopes}
    ways: list[tuple[str, str, JSONObject]] = [
        ("user", "authorizationCode", user),
        ("service", "clientCredentials", machine),
    ]
    if offer.device_url:
        ways.append(("device", "deviceCode", {"deviceAuthorizationUrl": offer.device_url, **machine}))
    schemes: JSONObject = {
        name: {"oauth2SecurityScheme": {"flows": {flow: facts}, "oauth2MetadataUrl": offer.metadata_url}}
        for name, flow, facts in ways
    }
    source: JSONObject = {"upstreamCardSha256": card.digest.removeprefix("sha256:")}
    if card.kid:
        source["upstreamKid"] = card.kid
    built: JSONObject = {
        **{name: offered[name] for name in ("name", "description", "version") if name in offered},
        "supportedInterfaces": [{"url": offer.url, "protocolBinding": "JSONRPC", "protocolVersion": VERSION}],
        "capabilities": {
            "streaming": card.streaming,
            "pushNotifications": False,
            "extensions": [{"uri": PROVENANCE, "params": source}],
        },
        "securitySchemes": schemes,
        "securityRequirements": [{"schemes": {name: {"list": [offer.scope]}}} for name in schemes],
        **{name: offered[name] for name in ("defaultInputModes", "defaultOutputModes", "skills") if name in offered},
    }
    lean = _without_empties(built)
    assert isinstance(lean, dict)
    return lean


def sign(card: JSONObject, key: ECKey, *, kid: str, jku: str) -> JSONObject:
    """Return the card with one ES256 signature of ours; earlier signatures are dropped."""
    body = _unsigned(card)
    header = {"alg": "ES256", "kid": kid, "typ": "JOSE", "jku": jku}
    registry = _Registry(algorithms=["ES256"])
    token = jws.serialize_compact(header, canonical.encode(body), key, algorithms=["ES256"], registry=registry)
    protected, _, signature = token.split(".")
    return {**body, "signatures": [{"protected": protected, "signature": signature}]}


def _without_empties(value: JSON) -> JSON:
    if isinstance(value, dict):
        cleaned = {k: _without_empties(v) for k, v in value.items()}
        return {k: v for k, v in cleaned.items() if v not in ("", [], {}) and v is not None}
    return [_without_empties(item) for item in value] if isinstance(value, list) else value


def _unsigned(card: JSONObject) -> JSONObject:
    return {name: value for name, value in card.items() if name != "signatures"}


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _list(value: JSON) -> list[JSONObject]:
    assert isinstance(value, list)
    return [item for item in value if isinstance(item, dict)]
