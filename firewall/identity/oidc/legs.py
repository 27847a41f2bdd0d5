"""The way to a provider and back, for one browser, once, within ten minutes (AS-15, AS-17, UI-07).

A leg begins when a person presses the provider's button on our own page, which names who is asking; only
the answer to that press sets the cookie. Coming back needs all of: the state, the cookie of this leg, the
callback path of the provider that was asked on the origin that it began at, and the first use of it. So a provider's answer that somebody
else obtained, or meant for another provider, ends here.

The store holds digests only. The PKCE verifier and the nonce are made from the cookie's secret and the
state each time: whoever reads the store can finish nobody's sign-in.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass, field

from firewall.core.ports import Clock, Store
from firewall.identity import opaque, records
from firewall.identity.places import Places
from firewall.identity.records import SECOND_US
from firewall.identity.settings import TokenBytes
from firewall.identity.throttle import NODE
from firewall.identity.web import WebRequest, set_cookie

COOKIE = "bz_idp_"
LEG_S = 600
STATE_CHARS = 43


@dataclass(frozen=True, slots=True)
class Leg:
    """One way under way.

    origin: ours that it began at and comes back to. txn: id of the transaction that it serves, "" for none.
    to: where to go on without one; whoever began it knows what that means. fresh_since: see `IdTokenRules`.
    """

    origin: str

    provider: str
    txn: str
    to: str
    fresh_since: int
    state: str = field(repr=False)
    secret: str = field(repr=False)

    @property
    def nonce(self) -> str:
        """What the ID token must repeat."""
        return self._derived("nonce")

    @property
    def verifier(self) -> str:
        """The PKCE verifier: 43 characters of the unreserved set (RFC 7636 §4.1)."""
        return self._derived("verifier")

    @property
    def challenge(self) -> str:
        """The S256 challenge of the verifier."""
        return _b64(hashlib.sha256(self.verifier.encode()).digest())

    def _derived(self, purpose: str) -> str:
        return _b64(hmac.new(self.secret.encode(), f"{purpose}\0{self.state}".encode(), hashlib.sha256).digest())


class Legs:
    """Opens legs and takes them back, each once."""

    def __init__(self, store: Store, clock: Clock, token_bytes: TokenBytes) -> None:
        self._legs = store.collection("idp_legs")
        self._clock = clock
        self._token_bytes = token_bytes
        self._places = Places(
            store,
            clock,
            token_bytes,
            "idp_legs",
            alive=lambda key: self._legs.get(NODE, key) is not None,
            remove=lambda key: self._legs.delete(NODE, key),
        )

    def open(
        self, origin: str, provider: str, *, address: str, txn: str = "", to: str = "", fresh_since: int = -1
    ) -> tuple[Leg, tuple[bytes, bytes]]:
        """Return a new leg and the Set-Cookie header that ties it to this browser.

        address: whose place it takes (`places`). Raises StateUnavailable.
        """
        state, secret = _b64(self._token_bytes(32)), _b64(self._token_bytes(32))
        value = records.encode(
            {
                "origin": origin,
                "idp": provider,
                "txn": txn,
                "to": to,
                "fresh_since": fresh_since,
                "secret_sha256": opaque.digest(secret),
            }
        )
        expires_us = self._clock.now_us() + LEG_S * SECOND_US
        self._places.take(address, opaque.digest(state), size=len(value), expires_us=expires_us)
        self._legs.put(NODE, opaque.digest(state), value, expires_us=expires_us)
        cookie = set_cookie(_cookie(origin, state), secret, secure=_is_secure(origin), max_age_s=LEG_S)
        return Leg(origin, provider, txn, to, fresh_since, state, secret), cookie

    def take(self, request: WebRequest, origin: str, provider: str, state: str) -> Leg | None:
        """Return the leg that this browser began towards this provider; None for anything else.

        Of several answers with one state the first counts. A wrong browser or provider takes nothing.
        """
        if len(state) != STATE_CHARS:
            return None
        entry = self._legs.get(NODE, opaque.digest(state))
        if entry is None:
            return None
        value = records.decode(entry.value)
        secret = request.cookies.get(_cookie(origin, state), "")
        if not hmac.compare_digest(opaque.digest(secret), records.text(value, "secret_sha256")):
            return None
        if (records.text(value, "origin"), records.text(value, "idp")) != (origin, provider):
            return None
        if self._legs.take(NODE, opaque.digest(state)) is None:
            return None
        txn, to = records.text(value, "txn"), records.text(value, "to")
        return Leg(origin, provider, txn, to, records.number(value, "fresh_since"), state, secret)

    def expired_cookie(self, leg: Leg) -> tuple[bytes, bytes]:
        """Return the header that removes the leg's cookie."""
        return set_cookie(_cookie(leg.origin, leg.state), "", secure=_is_secure(leg.origin), max_age_s=0)


def _is_secure(origin: str) -> bool:
    return origin.startswith("https://")


def _cookie(origin: str, state: str) -> str:
    name = COOKIE + opaque.digest(state)[:8]
    return f"__Host-{name}" if _is_secure(origin) else name


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
