"""What identity providers said about people when they signed in, kept to ask them for more: ID tokens.

An ID-JAG is given for a subject token (draft-ietf-oauth-identity-assertion-authz-grant §4.3): the ID token
of the sign-in, or its refresh token. Whoever signs people in keeps it here; only the broker reads it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final, Literal

from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import Clock, Store
from firewall.identity import records
from firewall.identity.records import SECOND_US
from firewall.state.envelope import Envelopes

ID_TOKEN: Final = "urn:ietf:params:oauth:token-type:id_token"  # noqa: S105  a name
REFRESH_TOKEN: Final = "urn:ietf:params:oauth:token-type:refresh_token"  # noqa: S105  a name
MAX_S: Final = 90 * 24 * 3600

Kind = Literal["id_token", "refresh_token"]


@dataclass(frozen=True, slots=True)
class SubjectToken:
    """A token about a person, and its type as RFC 8693 names it."""

    token: str = field(repr=False)
    token_type: str


class SubjectTokens:
    """One sealed row per (tenant, user, identity provider, kind)."""

    def __init__(self, store: Store, envelopes: Envelopes, clock: Clock) -> None:
        self._rows = store.collection("upstream_subjects")
        self._envelopes = envelopes
        self._clock = clock

    def keep(self, tenant: str, subject: str, issuer: str, kind: Kind, token: str, *, lives_s: int) -> None:
        """Keep a token for as long as it lives (at most 90 days); the one before is replaced."""
        key = _key(subject, issuer, kind)
        value: JSONObject = {"token": token, "issuer": issuer}
        expires_us = self._clock.now_us() + min(max(lives_s, 1), MAX_S) * SECOND_US
        data = self._envelopes.seal(tenant, f"upstream_subjects/{key}", value)
        self._rows.put(tenant, key, data, expires_us=expires_us)

    def find(self, tenant: str, subject: str, issuer: str) -> SubjectToken | None:
        """Return an ID token that still lives, else the refresh token, else None."""
        for kind, name in (("id_token", ID_TOKEN), ("refresh_token", REFRESH_TOKEN)):
            key = _key(subject, issuer, kind)
            entry = self._rows.get(tenant, key)
            if entry is not None:
                value = self._envelopes.open(tenant, f"upstream_subjects/{key}", entry.value)
                if isinstance(value, dict) and records.text(value, "token"):
                    return SubjectToken(records.text(value, "token"), name)
        return None

    def drop(self, tenant: str, subject: str) -> None:
        """Forget what was kept about a person."""
        for entry in list(self._rows.scan(tenant, _person(subject))):
            self._rows.delete(tenant, entry.key)


def _person(subject: str) -> str:
    return hashlib.sha256(subject.encode("utf-8", "surrogatepass")).hexdigest() + "/"


def _key(subject: str, issuer: str, kind: str) -> str:
    return f"{_person(subject)}{hashlib.sha256(issuer.encode()).hexdigest()}/{kind}"
