"""Refresh tokens: rotated on every use, reuse ends the grant, a short grace forgives lost answers (AS-11).

A token is stored as its digest. Its successor is stored beside it for the grace period, sealed under
a key that only the old token's holder has (HKDF of the old token): the store alone opens nothing.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from firewall.core.errors import Conflict
from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import Clock, Store
from firewall.core.run import run_ends_s
from firewall.identity import opaque, records, standing
from firewall.identity.grants import OAuthGrants
from firewall.identity.opaque import Opaque
from firewall.identity.records import SECOND_US
from firewall.identity.settings import IdentitySettings, TokenBytes
from firewall.wire.oauth import OAuthError

PREFIX = "bzr"


@dataclass(frozen=True, slots=True)
class RefreshFacts:
    """What a refresh token may renew.

    created_s: of the first of the family; it bounds them all. jkt: the key that the family is bound to
    (RFC 9449 §5); "" for a bearer token.
    """

    tenant: str
    subject: str
    client_id: str
    resource: str
    scopes: tuple[str, ...]
    grant_id: str
    session_id: str
    auth_time: int
    acr: str
    created_s: int
    standing: int = 0
    amr: tuple[str, ...] = ()
    jkt: str = ""
    authorization_details: tuple[JSONObject, ...] = ()
    run: str = ""


class RefreshTokens:
    """Issues and rotates refresh tokens."""

    def __init__(
        self, store: Store, clock: Clock, grants: OAuthGrants, token_bytes: TokenBytes, settings: IdentitySettings
    ) -> None:
        self._tokens = store.collection("oauth_refresh")
        self._clock = clock
        self._grants = grants
        self._token_bytes = token_bytes
        self._settings = settings

    def issue(self, facts: RefreshFacts) -> str:
        """Return a new token; it lives until it idles too long or its family is too old."""
        token = opaque.mint(PREFIX, facts.tenant, self._token_bytes)
        self._tokens.put(facts.tenant, token.key, records.encode(_value(facts)), expires_us=self._expiry(facts))
        return token.text

    def find(self, text: str, client_id: str) -> RefreshFacts:
        """Return what a presented token stands for, without using it.

        Raises OAuthError invalid_grant: refresh_unknown, refresh_foreign, grant_revoked, grant_ended, run_ended.
        """
        token = opaque.locate(PREFIX, text)
        entry = self._tokens.get(token.tenant, token.key) if token else None
        if token is None or entry is None:
            raise OAuthError("invalid_grant", "refresh_unknown")
        facts = _facts(token.tenant, records.decode(entry.value))
        if facts.client_id != client_id:
            raise OAuthError("invalid_grant", "refresh_foreign")
        if self._grants.is_revoked(facts.tenant, facts.grant_id):
            raise OAuthError("invalid_grant", "grant_revoked")
        if not self._grants.stands(facts.tenant, facts.subject, facts.resource, facts.scopes, facts.standing):
            raise OAuthError("invalid_grant", "grant_ended")
        names = (standing.client(facts.client_id), standing.session(facts.session_id))
        if self._grants.standing.ended(facts.tenant, names, facts.created_s):
            raise OAuthError("invalid_grant", "grant_ended")
        # Where the operator allows longer connections by now, those from before keep the end that they were given.
        if not self._grants.is_kept(facts.tenant, facts.subject, facts.grant_id):
            raise OAuthError("invalid_grant", "grant_ended")
        if facts.run and run_ends_s(facts.run) * SECOND_US <= self._clock.now_us():
            raise OAuthError("invalid_grant", "run_ended")
        return facts

    def live(self, text: str, client_id: str) -> tuple[RefreshFacts, int]:
        """Return what an unused token stands for, and when it ends (Unix seconds); see `find`.

        Raises OAuthError invalid_grant, also for a token that has a successor: refresh_used.
        """
        facts = self.find(text, client_id)
        token = opaque.locate(PREFIX, text)
        entry = self._tokens.get(token.tenant, token.key) if token else None
        if entry is None or records.number(records.decode(entry.value), "used_us"):
            raise OAuthError("invalid_grant", "refresh_used")
        return facts, entry.expires_us // SECOND_US

    def rotate(self, text: str) -> str:
        """Use the token and return its successor; within the grace a repeat returns the same successor.

        Raises OAuthError invalid_grant: refresh_unknown, refresh_reused (the whole grant has ended by then).
        """
        token = opaque.locate(PREFIX, text)
        if token is None:
            raise OAuthError("invalid_grant", "refresh_unknown")
        for _ in range(4):
            entry = self._tokens.get(token.tenant, token.key)
            if entry is None:
                raise OAuthError("invalid_grant", "refresh_unknown")
            value = records.decode(entry.value)
            facts = _facts(token.tenant, value)
            if records.number(value, "used_us"):
                return self._successor(token, value, facts)
            successor = opaque.mint(PREFIX, facts.tenant, self._token_bytes)
            used: JSONObject = {
                **value,
                "used_us": self._clock.now_us(),
                "successor": _seal(token, successor.text, self._token_bytes(12)),
            }
            # First the successor, then the claim: whoever sees the claim finds the successor. What the loser of a
            # race made nobody has ever been told, and it is gone again.
            expires_us = self._expiry(facts)
            self._tokens.put(facts.tenant, successor.key, records.encode(_value(facts)), expires_us=expires_us)
            try:
                self._tokens.put(
                    token.tenant, token.key, records.encode(used), expires_us=expires_us, if_version=entry.version
                )
            except Conflict:
                self._tokens.delete(facts.tenant, successor.key)
                continue
            return successor.text
        raise OAuthError("temporarily_unavailable", "refresh_race")

    def _successor(self, token: Opaque, value: JSONObject, facts: RefreshFacts) -> str:
        age_us = self._clock.now_us() - records.number(value, "used_us")
        text = _unseal(token, records.text(value, "successor"))
        if age_us > self._settings.refresh_grace_s * SECOND_US or not text:
            self._grants.revoke(facts.tenant, facts.subject, facts.grant_id, reason="refresh_reused")
            raise OAuthError("invalid_grant", "refresh_reused")
        return text

    def _expiry(self, facts: RefreshFacts) -> int:
        idle_us = self._clock.now_us() + self._settings.refresh_idle_s * SECOND_US
        return min(idle_us, (facts.created_s + self._settings.refresh_lifetime_s) * SECOND_US)


def _value(facts: RefreshFacts) -> JSONObject:
    return {
        "sub": facts.subject,
        "client_id": facts.client_id,
        "resource": facts.resource,
        "scopes": list(facts.scopes),
        "gid": facts.grant_id,
        "sid": facts.session_id,
        "auth_time": facts.auth_time,
        "acr": facts.acr,
        "created_s": facts.created_s,
        "standing": facts.standing,
        "amr": list(facts.amr),
        "jkt": facts.jkt,
        "details": list(facts.authorization_details),
        "run": facts.run,
    }


def _facts(tenant: str, value: JSONObject) -> RefreshFacts:
    return RefreshFacts(
        tenant=tenant,
        subject=records.text(value, "sub"),
        client_id=records.text(value, "client_id"),
        resource=records.text(value, "resource"),
        scopes=records.texts(value, "scopes"),
        grant_id=records.text(value, "gid"),
        session_id=records.text(value, "sid"),
        auth_time=records.number(value, "auth_time"),
        acr=records.text(value, "acr"),
        created_s=records.number(value, "created_s"),
        standing=records.number(value, "standing"),
        amr=records.texts(value, "amr"),
        jkt=records.text(value, "jkt"),
        authorization_details=records.objects(value, "details"),
        run=records.text(value, "run"),
    )


def _key(token: Opaque) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"bartizan refresh successor").derive(
        token.text.encode()
    )


def _seal(token: Opaque, successor: str, nonce: bytes) -> str:
    # The record's own key is authenticated: swapped rows open nothing (CL-08).
    sealed = AESGCM(_key(token)).encrypt(nonce, successor.encode(), token.key.encode())
    return base64.b64encode(nonce + sealed).decode()


def _unseal(token: Opaque, sealed: str) -> str:
    data = base64.b64decode(sealed)
    try:
        return AESGCM(_key(token)).decrypt(data[:12], data[12:], token.key.encode()).decode()
    except (InvalidTag, ValueError):
        return ""
