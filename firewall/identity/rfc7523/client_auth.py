"""Client authentication at the token and revocation endpoints: exactly the registered method (AS-21).

A JWT assertion (RFC 7523 with the audience rule of rfc7523bis) is checked in `assertions`; credentials of
workloads (JWT-SVID, Kubernetes) in `workloads`. What fails is ``invalid_client``, whatever the reason was.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from urllib.parse import unquote_plus

from firewall.core.errors import Malformed
from firewall.core.ports import Clock, Store
from firewall.identity.clients.registry import Client, Clients
from firewall.identity.records import SECOND_US
from firewall.identity.rfc7523.assertions import ASSERTION_TYPE, TYPES, UsedOnce, check_client_claims
from firewall.identity.rfc7523.client_keys import ClientKeys
from firewall.identity.throttle import Throttle
from firewall.wire import jwt
from firewall.wire.oauth import Form, OAuthError

__all__ = ["ASSERTION_TYPE", "ClientAuthenticator", "ClientKeys"]


class ClientAuthenticator:
    """Turns the credentials of a request into a Client, or raises OAuthError invalid_client."""

    def __init__(
        self,
        issuer: str,
        clients: Clients,
        keys: ClientKeys,
        store: Store,
        clock: Clock,
        throttle: Throttle | None = None,
    ) -> None:
        """throttle: delays who guesses secrets, per client and address (AS-19)."""
        self._issuer = issuer
        self._clients = clients
        self._keys = keys
        self._used = UsedOnce(store)
        self._clock = clock
        self._throttle = throttle

    async def authenticate(self, form: Form, authorization: bytes | None, *, address: str = "") -> Client:
        """Return the authenticated client. Exactly one kind of credentials may be presented.

        address: who asks, "" when that is not known. Raises OAuthError: invalid_client, invalid_request,
        slow_down.
        """
        client_id, method, credential = _presented(form, authorization)
        try:
            client = await self._clients.find(client_id, allow_stale=True, address=address)
        except Malformed as error:
            raise OAuthError("invalid_client", error.code, error.detail) from None
        if client is None:
            raise OAuthError("invalid_client", "client_unknown")
        if method != client.auth_method:
            raise OAuthError("invalid_client", "client_method")
        if method == "client_secret_basic":
            self._check_secret(client, credential, address)
        elif method == "private_key_jwt":
            try:
                await self._check_assertion(client, credential.encode())
            except Malformed as error:
                raise OAuthError("invalid_client", error.code, error.detail) from None
        return client

    def _check_secret(self, client: Client, secret: str, address: str) -> None:
        throttle = self._throttle if address else None
        if throttle is not None and throttle.wait_s(client.client_id, address):
            raise OAuthError("slow_down", "client_delayed")
        digest = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
        if hmac.compare_digest(digest, client.secret_sha256):
            return
        if throttle is not None:
            throttle.failed(client.client_id, address)
        raise OAuthError("invalid_client", "client_secret")

    async def _check_assertion(self, client: Client, assertion: bytes) -> None:
        unchecked = jwt.parse_compact(assertion)
        if unchecked.typ not in TYPES:
            raise Malformed("jwt_claims", "typ")
        await self._keys.verify(client, unchecked)
        now_s = self._clock.now_us() // SECOND_US
        token_id, expires_s = check_client_claims(unchecked.claims, client.client_id, self._issuer, now_s)
        self._used.burn(client.client_id, token_id, expires_s)


def _presented(form: Form, authorization: bytes | None) -> tuple[str, str, str]:
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
        # Read before it is verified, to know whose key verifies it, and for nothing else.
        try:
            subject = jwt.parse_compact(assertion.encode("utf-8", "surrogatepass")).claims.get("sub")
        except Malformed as error:
            raise OAuthError("invalid_client", error.code) from None
        if not isinstance(subject, str) or form.get("client_id") not in ("", subject):
            raise OAuthError("invalid_client", "client_mismatch")
        return subject, "private_key_jwt", assertion
    if form.get("client_assertion_type"):
        raise OAuthError("invalid_client", "assertion_missing")
    if not form.get("client_id"):
        raise OAuthError("invalid_client", "client_missing")
    return form.get("client_id"), "none", ""


def presented_id(form: Form, authorization: bytes | None) -> str:
    """Return what a request calls its client, in whichever place; "" where it does not say. Nothing is verified."""
    try:
        return _presented(form, authorization)[0]
    except OAuthError:
        return form.get("client_id")


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
