"""Client authentication at the token and revocation endpoints: exactly the registered method (AS-21).

A JWT assertion (RFC 7523 with the audience rule of rfc7523bis) names our issuer and nothing else as
its audience, lives for at most 300 s, and is used once: its ``jti`` is burnt in the store that all
workers share, per client (AS-20).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote_plus

from firewall.core.errors import BartizanError, Conflict, Malformed
from firewall.core.ports import Clock, Store
from firewall.identity.cimd.documents import FETCH_S, DocumentFetcher
from firewall.identity.clients.registry import Client, Clients
from firewall.identity.records import SECOND_US
from firewall.identity.throttle import NODE
from firewall.net.dial import Purpose
from firewall.wire import jwt
from firewall.wire.oauth import Form, OAuthError

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ASSERTION_S = 300
LEEWAY_S = 30
KEYS_FRESH_S = 600
KEYS_KEPT_S = 24 * 3600
REFETCH_S = 30
_TYPES = ("", "jwt", "client-authentication+jwt")


@dataclass(slots=True)
class _KeySet:
    keys: Mapping[str, jwt.Key]
    fetched_us: int
    tried_us: int


class ClientKeys:
    """Public keys of clients: inline, or from their pinned ``jwks_uri`` (RS-03, RS-05, RS-06)."""

    def __init__(self, fetcher: DocumentFetcher, clock: Clock) -> None:
        self._fetcher = fetcher
        self._clock = clock
        self._sets: dict[str, _KeySet] = {}

    async def find(self, client: Client, kid: str) -> jwt.Key:
        """Return the key of a client; without ``kid`` only a lone key will do. Raises Malformed("jwt_key")."""
        keys: Mapping[str, jwt.Key]
        keys = jwt.keys_of(client.jwks) if client.jwks is not None else await self._fetched(client.jwks_uri, kid)
        if not kid and len(keys) == 1:
            return next(iter(keys.values()))
        key = keys.get(kid)
        if key is None:
            raise Malformed("jwt_key", "kid")
        return key

    async def _fetched(self, uri: str, kid: str) -> Mapping[str, jwt.Key]:
        now_us = self._clock.now_us()
        known = self._sets.get(uri)
        if known is not None:
            fresh = now_us < known.fetched_us + KEYS_FRESH_S * SECOND_US
            if (fresh and kid in known.keys) or now_us < known.tried_us + REFETCH_S * SECOND_US:
                return known.keys
            known.tried_us = now_us
        try:
            fetched = await self._fetcher.fetch(Purpose.JWKS, uri, max_bytes=jwt.JWKS_BYTES, timeout_s=FETCH_S)
            if fetched.status != 200:
                raise Malformed("jwks_invalid", "status")
            keys = jwt.parse_jwks(fetched.body)
        except BartizanError:
            # An outage of the client's host is bridged; nothing bad ever replaces what was good.
            if known is not None and now_us < known.fetched_us + KEYS_KEPT_S * SECOND_US:
                return known.keys
            raise Malformed("jwt_key", "fetch") from None
        self._sets[uri] = _KeySet(keys, now_us, now_us)
        if len(self._sets) > 1000:
            self._sets.pop(next(iter(self._sets)))
        return keys


class ClientAuthenticator:
    """Turns the credentials of a request into a Client, or raises OAuthError invalid_client."""

    def __init__(self, issuer: str, clients: Clients, keys: ClientKeys, store: Store, clock: Clock) -> None:
        self._issuer = issuer
        self._clients = clients
        self._keys = keys
        self._used = store.collection("assertion_jti")
        self._clock = clock

    async def authenticate(self, form: Form, authorization: bytes | None) -> Client:
        """Return the authenticated client. Exactly one kind of credentials may be presented."""
        client_id, method, credential = self._presented(form, authorization)
        try:
            client = await self._clients.find(client_id, allow_stale=True)
        except Malformed as error:
            raise OAuthError("invalid_client", error.code) from None
        if client is None:
            raise OAuthError("invalid_client", "client_unknown")
        if method != client.auth_method:
            raise OAuthError("invalid_client", "client_method")
        if method == "client_secret_basic":
            digest = hashlib.sha256(credential.encode()).hexdigest()
            if not hmac.compare_digest(digest, client.secret_sha256):
                raise OAuthError("invalid_client", "client_secret")
        elif method == "private_key_jwt":
            try:
                await self._check_assertion(client, credential.encode())
            except OAuthError:
                raise
            except Malformed as error:
                raise OAuthError("invalid_client", error.code) from None
        return client

    def _presented(self, form: Form, authorization: bytes | None) -> tuple[str, str, str]:
        """Return (client id, method, credential) as presented; nothing is verified yet."""
        if form.get("client_secret"):
            raise OAuthError("invalid_client", "client_method")
        assertion = form.get("client_assertion")
        if authorization is not None:
            if assertion:
                raise OAuthError("invalid_request", "client_methods")
            client_id, secret = _basic(authorization)
            if form.get("client_id") not in ("", client_id):
                raise OAuthError("invalid_client", "client_mismatch")
            return client_id, "client_secret_basic", secret
        if assertion:
            if form.get("client_assertion_type") != ASSERTION_TYPE:
                raise OAuthError("invalid_client", "assertion_type")
            try:
                subject = jwt.parse_compact(assertion.encode("utf-8", "surrogatepass")).claims.get("sub")
            except Malformed as error:
                raise OAuthError("invalid_client", error.code) from None
            if not isinstance(subject, str) or form.get("client_id") not in ("", subject):
                raise OAuthError("invalid_client", "client_mismatch")
            return subject, "private_key_jwt", assertion
        if not form.get("client_id"):
            raise OAuthError("invalid_client", "client_missing")
        return form.get("client_id"), "none", ""

    async def _check_assertion(self, client: Client, assertion: bytes) -> None:
        unchecked = jwt.parse_compact(assertion)
        if unchecked.typ not in _TYPES:
            raise Malformed("jwt_claims", "typ")
        claims = jwt.verify(unchecked, await self._keys.find(client, unchecked.kid))
        now_s = self._clock.now_us() // SECOND_US
        rules = jwt.ClaimRules(
            issuer=client.client_id,
            audience=self._issuer,
            max_age_s=ASSERTION_S,
            leeway_s=LEEWAY_S,
            iat_required=False,
            required=("sub", "jti"),
        )
        jwt.check_claims(claims, rules, now_s)
        token_id, expires = claims["jti"], claims["exp"]
        if claims["sub"] != client.client_id or not isinstance(token_id, str) or not isinstance(expires, int):
            raise Malformed("jwt_claims", "sub")
        key = hashlib.sha256(f"{client.client_id}\0{token_id}".encode()).hexdigest()
        try:
            self._used.put(NODE, key, b"", expires_us=(expires + LEEWAY_S + 1) * SECOND_US, if_version=0)
        except Conflict:
            raise Malformed("assertion_replayed") from None


def _basic(value: bytes) -> tuple[str, str]:
    """Return id and secret of HTTP Basic (RFC 7617), form-decoded as RFC 6749 §2.3.1 demands."""
    scheme, _, encoded = value.partition(b" ")
    try:
        if scheme.lower() != b"basic":
            raise ValueError
        name, colon, secret = base64.b64decode(encoded, validate=True).decode("utf-8").partition(":")
        if not colon:
            raise ValueError
        return unquote_plus(name, errors="strict"), unquote_plus(secret, errors="strict")
    except (binascii.Error, ValueError):
        raise OAuthError("invalid_client", "basic_shape") from None
