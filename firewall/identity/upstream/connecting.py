"""The leg of a browser through somebody else's authorization server: what is remembered of it, and its end.

One-time and short: a random ``state`` whose digest is the only key, bound to the sign-in session and to a
cookie of this browser that is set after the person agreed on our page (oauth reference AS-15, and the
confused-deputy rule of MCP). What is remembered is sealed: it holds the PKCE verifier.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Final

from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import Clock, Ids, Store
from firewall.identity import opaque, records
from firewall.identity.people.sessions import LoginSession
from firewall.identity.records import SECOND_US
from firewall.identity.settings import IdentitySettings, TokenBytes
from firewall.identity.throttle import NODE
from firewall.identity.upstream.discovery import Found
from firewall.identity.upstream.grants import Place
from firewall.identity.upstream.metadata import ServerMetadata
from firewall.identity.upstream.our_client import OurClient
from firewall.identity.web import WebRequest, set_cookie
from firewall.state.envelope import Envelopes
from firewall.wire import oauth

LIVES_S: Final = 600
COOKIE: Final = "bz_up_"


@dataclass(frozen=True, slots=True)
class Leg:
    """One person on the way to one upstream's authorization server."""

    place: Place
    session_id: str
    verifier: str = field(repr=False)
    scopes: tuple[str, ...]
    cookie: str


class Legs:
    """The legs of a node."""

    def __init__(
        self,
        store: Store,
        envelopes: Envelopes,
        clock: Clock,
        ids: Ids,
        settings: IdentitySettings,
        token_bytes: TokenBytes,
    ) -> None:
        self._rows = store.collection("upstream_legs")
        self._envelopes = envelopes
        self._clock = clock
        self._ids = ids
        self._settings = settings
        self._token_bytes = token_bytes

    def begin(
        self, session: LoginSession, place: Place, scopes: tuple[str, ...]
    ) -> tuple[str, str, tuple[bytes, bytes]]:
        """Remember a leg; return (state, PKCE challenge, Set-Cookie header)."""
        state, verifier, secret = (self._random() for _ in range(3))
        cookie = self._settings.cookie(COOKIE + self._ids.new("l")[-8:].lower())
        value: JSONObject = {
            "tenant": place.tenant,
            "subject": place.subject,
            "upstream": place.upstream,
            "resource": place.resource,
            "issuer": place.issuer,
            "client_id": place.client_id,
            "session_id": session.session_id,
            "verifier": verifier,
            "scopes": list(scopes),
            "cookie": cookie,
            "secret_sha256": opaque.digest(secret),
        }
        key = opaque.digest(state)
        data = self._envelopes.seal(NODE, f"upstream_legs/{key}", value)
        self._rows.put(NODE, key, data, expires_us=self._clock.now_us() + LIVES_S * SECOND_US)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        return state, challenge, set_cookie(cookie, secret, secure=self._settings.secure, max_age_s=LIVES_S)

    def end(self, request: WebRequest, state: str, session: LoginSession | None, upstream: str) -> Leg | None:
        """Take a leg; None unless this browser, this session and this callback are the ones it began with.

        It is gone afterwards in any case: a state is looked at once.
        """
        key = opaque.digest(state)
        entry = self._rows.take(NODE, key) if state else None
        if entry is None or session is None:
            return None
        value = self._envelopes.open(NODE, f"upstream_legs/{key}", entry.value)
        row = value if isinstance(value, dict) else {}
        cookie = records.text(row, "cookie")
        secret = request.cookies.get(cookie, "")
        mine = hmac.compare_digest(opaque.digest(secret), records.text(row, "secret_sha256"))
        place = Place(
            records.text(row, "tenant"),
            records.text(row, "subject"),
            records.text(row, "upstream"),
            records.text(row, "resource"),
            records.text(row, "issuer"),
            records.text(row, "client_id"),
        )
        person = (session.user.tenant, session.user.subject, session.session_id)
        if not mine or place.upstream != upstream:
            return None
        if person != (place.tenant, place.subject, records.text(row, "session_id")):
            return None
        return Leg(place, session.session_id, records.text(row, "verifier"), records.texts(row, "scopes"), cookie)

    def expired_cookie(self, leg: Leg) -> tuple[bytes, bytes]:
        """Return the header that removes a leg's cookie."""
        return set_cookie(leg.cookie, "", secure=self._settings.secure, max_age_s=0)

    def _random(self) -> str:
        return base64.urlsafe_b64encode(self._token_bytes(32)).rstrip(b"=").decode()


def authorization_url(
    found: Found,
    client: OurClient,
    *,
    redirect_uri: str,
    state: str,
    challenge: str,
    scopes: tuple[str, ...],
    send_resource: bool,
    parameters: dict[str, str],
) -> str:
    """Return where the browser goes (OAuth 2.1 §4.1.1, RFC 7636, RFC 8707)."""
    wanted = scopes
    more = dict(parameters)
    if "offline_access" in found.server.scopes and "offline_access" not in wanted:
        # Listed there means: without it no refresh token (MCP 2026-07-28, SEP-2207); it needs asking.
        wanted = (*wanted, "offline_access")
        more.setdefault("prompt", "consent")
    return oauth.build_redirect(
        found.server.authorization_endpoint,
        {
            **more,
            "response_type": "code",
            "client_id": client.client_id,
            "redirect_uri": redirect_uri,
            "scope": " ".join(wanted),
            "state": state,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            "resource": found.resource if send_resource else "",
        },
    )


def is_issuer(told: str, server: ServerMetadata) -> bool:
    """Return whether an authorization response is its server's own (RFC 9207 §2.4): missing where promised is not."""
    return told == server.issuer if told else not server.tells_issuer
