"""One authorization request on its way through the pages: kept by us, tied to one browser (AS-15, UI-06).

The browser holds a secret in a cookie of its own per transaction; the forms carry a token made from
it. Reloading a page makes another token, and all of them stay good until the transaction is taken.
How many may wait is bounded (`places`): anybody can begin one.

No address carries a transaction's id (AS-24): it stands in its cookie and in the forms. A redirect to the consent page
says in a cookie of a minute which one it is about (`onward`); without it, a reload finds what this browser has under way.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass, field

from firewall.core.errors import Conflict
from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import Clock, Ids, Store
from firewall.identity import opaque, records
from firewall.identity.places import Places
from firewall.identity.records import SECOND_US
from firewall.identity.settings import IdentitySettings, TokenBytes
from firewall.identity.throttle import NODE
from firewall.identity.web import WebRequest, set_cookie
from firewall.wire.oauth import AuthorizationRequest

COOKIE = "bz_txn_"
ONWARD = "bz_onward"
ONWARD_S = 60
COOKIES = 24  # of one browser; `web.parse_cookies` reads 64 of all kinds, and the newest are the last


@dataclass(frozen=True, slots=True)
class Transaction:
    """A request under way.

    cross_site: how it began was not the person's own doing (UI-02). signed_in: id of the session that
    a sign-in within this transaction began, "" before that. pushed_sha256: digest of the ``request_uri`` that it began
    with, "" where its parameters stood in the address.
    """

    txn_id: str
    request: AuthorizationRequest
    created_s: int
    cross_site: bool
    signed_in: str
    secret: str = field(repr=False)
    pushed_sha256: str = ""


class Transactions:
    """Opens, reads and takes transactions; makes and checks form tokens."""

    def __init__(
        self, store: Store, clock: Clock, ids: Ids, settings: IdentitySettings, token_bytes: TokenBytes
    ) -> None:
        self._transactions = store.collection("oauth_transactions")
        self._clock = clock
        self._ids = ids
        self._settings = settings
        self._token_bytes = token_bytes
        self._places = Places(
            store,
            clock,
            token_bytes,
            "oauth_transactions",
            alive=lambda key: self._transactions.get(NODE, key) is not None,
            remove=lambda key: self._transactions.delete(NODE, key),
        )

    def open(
        self, request: AuthorizationRequest, *, cross_site: bool, address: str, request_uri: str = ""
    ) -> tuple[Transaction, tuple[bytes, bytes]]:
        """Keep a checked request; return it with the Set-Cookie header that ties it to this browser.

        address: whose place it takes. request_uri: the pushed request it began with. Raises StateUnavailable.
        """
        txn_id = self._ids.new("t")
        secret = base64.urlsafe_b64encode(self._token_bytes(32)).rstrip(b"=").decode()
        now_us = self._clock.now_us()
        lifetime_s = self._settings.transaction_lifetime_s
        value: JSONObject = {
            "client_id": request.client_id,
            "redirect_uri": request.redirect_uri,
            "scope": list(request.scope),
            "state": request.state,
            "code_challenge": request.code_challenge,
            "resource": request.resource,
            "prompt": list(request.prompt),
            "max_age": request.max_age,
            "acr_values": list(request.acr_values),
            "authorization_details": request.authorization_details,
            "dpop_jkt": request.dpop_jkt,
            "login_hint": request.login_hint,
            "created_s": now_us // SECOND_US,
            "cross_site": cross_site,
            "secret_sha256": opaque.digest(secret),
            "pushed_sha256": opaque.digest(request_uri) if request_uri else "",
        }
        kept, expires_us = records.encode(value), now_us + lifetime_s * SECOND_US
        self._places.take(address, txn_id, size=len(kept), expires_us=expires_us)
        self._transactions.put(NODE, txn_id, kept, expires_us=expires_us)
        name, held = self._cookie(txn_id), f"{txn_id}.{secret}"
        cookie = set_cookie(name, held, secure=self._settings.secure, max_age_s=lifetime_s)
        pushed = records.text(value, "pushed_sha256")
        return Transaction(txn_id, request, now_us // SECOND_US, cross_site, "", secret, pushed), cookie

    def read(self, request: WebRequest, txn_id: str) -> Transaction | None:
        """Return the transaction if it lives and this browser began it."""
        entry = self._transactions.get(NODE, txn_id) if txn_id else None
        if entry is None:
            return None
        value = records.decode(entry.value)
        secret = request.cookies.get(self._cookie(txn_id), "").rpartition(".")[2]
        if not hmac.compare_digest(opaque.digest(secret), records.text(value, "secret_sha256")):
            return None
        request_kept = AuthorizationRequest(
            client_id=records.text(value, "client_id"),
            redirect_uri=records.text(value, "redirect_uri"),
            scope=records.texts(value, "scope"),
            state=records.text(value, "state"),
            code_challenge=records.text(value, "code_challenge"),
            resource=records.text(value, "resource"),
            prompt=frozenset(records.texts(value, "prompt")),
            max_age=records.number(value, "max_age"),
            acr_values=records.texts(value, "acr_values"),
            authorization_details=records.text(value, "authorization_details"),
            dpop_jkt=records.text(value, "dpop_jkt"),
            login_hint=records.text(value, "login_hint"),
        )
        cross_site = value.get("cross_site") is not False
        signed_in = records.text(value, "signed_in")
        created_s, pushed = records.number(value, "created_s"), records.text(value, "pushed_sha256")
        return Transaction(txn_id, request_kept, created_s, cross_site, signed_in, secret, pushed)

    def under_way(self, request: WebRequest) -> list[Transaction]:
        """Return the living transactions that this browser began, the oldest first: `COOKIES` at most."""
        prefix = self._settings.cookie(COOKIE)
        held = [value.rpartition(".")[0] for name, value in request.cookies.items() if name.startswith(prefix)]
        found = (self.read(request, txn_id) for txn_id in held[-COOKIES:])
        return [transaction for transaction in found if transaction is not None]

    def begun_by(self, request: WebRequest, request_uri: str, client_id: str) -> Transaction | None:
        """Return what this browser has under way since it brought that ``request_uri`` of that client; None for nothing.

        The name serves once, and the address with it stays in the browser: a page that is loaded again is the same
        request (RFC 9126 §4: duplicates that come of a reload may be allowed), for nobody but who holds its cookie.
        """
        if not request_uri:
            return None
        digest = opaque.digest(request_uri)
        mine = (each for each in self.under_way(request) if each.request.client_id == client_id)
        return next((each for each in mine if each.pushed_sha256 == digest), None)

    def onward(self, transaction: Transaction) -> tuple[bytes, bytes]:
        """Return the header that says which transaction the next page of this browser is about.

        Good for nobody but the browser that holds the transaction's own cookie.
        """
        name, secure = self._settings.cookie(ONWARD), self._settings.secure
        return set_cookie(name, transaction.txn_id, secure=secure, max_age_s=ONWARD_S)

    def arrived(self, request: WebRequest) -> tuple[str, tuple[tuple[bytes, bytes], ...]]:
        """Return the id that `onward` left, "" for none, and the headers that remove it: it is meant once."""
        name = self._settings.cookie(ONWARD)
        txn_id = request.cookies.get(name, "")
        return txn_id, (set_cookie(name, "", secure=self._settings.secure, max_age_s=0),) if txn_id else ()

    def note_sign_in(self, transaction: Transaction, session_id: str) -> None:
        """Remember which session a sign-in within this transaction began."""
        entry = self._transactions.get(NODE, transaction.txn_id)
        if entry is None:
            return
        value = records.encode({**records.decode(entry.value), "signed_in": session_id})
        try:
            self._transactions.put(
                NODE, transaction.txn_id, value, expires_us=entry.expires_us, if_version=entry.version
            )
        except Conflict:
            pass  # taken or signed in elsewhere meanwhile: the page that follows asks again

    def take(self, transaction: Transaction) -> bool:
        """End the transaction; True for the one caller that did it."""
        return self._transactions.take(NODE, transaction.txn_id) is not None

    def surplus(self, request: WebRequest) -> tuple[tuple[bytes, bytes], ...]:
        """Return the headers that remove a browser's oldest transaction cookies, so that a new one finds room.

        Every request for an authorization sets one, and any page can send a browser here, or a program open a tab for
        each of its servers: too many, and none of them would be read. Browsers send the oldest first (RFC 6265 §5.4).
        """
        prefix = self._settings.cookie(COOKIE)
        ours = [name for name in request.cookies if name.startswith(prefix)]
        mine = [name for name in ours if name.isascii() and name.removeprefix(prefix).isalnum()]
        secure = self._settings.secure
        return tuple(
            set_cookie(name, "", secure=secure, max_age_s=0) for name in mine[: max(0, len(mine) + 1 - COOKIES)]
        )

    def expired_cookie(self, transaction: Transaction) -> tuple[bytes, bytes]:
        """Return the header that removes the transaction's cookie."""
        return set_cookie(self._cookie(transaction.txn_id), "", secure=self._settings.secure, max_age_s=0)

    def form_token(self, secret: str, purpose: str) -> str:
        """Return a new form token; purpose names the form and whom it was rendered for."""
        nonce = self._token_bytes(12).hex()
        return f"{nonce}.{_mac(secret, purpose, nonce)}"

    def _cookie(self, txn_id: str) -> str:
        return self._settings.cookie(COOKIE + txn_id[-8:].lower())


def check_form_token(secret: str, purpose: str, token: str) -> bool:
    """Return whether the token was made by `Transactions.form_token` for the same secret and purpose."""
    if not secret:
        return False
    nonce, _, mac = token.partition(".")
    return hmac.compare_digest(_mac(secret, purpose, nonce).encode(), mac.encode("utf-8", "surrogatepass"))


def _mac(secret: str, purpose: str, nonce: str) -> str:
    message = f"{purpose}\0{nonce}".encode("utf-8", "surrogatepass")
    return hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()
