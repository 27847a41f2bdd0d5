"""``/login``: a person proves who they are, here or at an identity provider; a new session begins.

    password ──▶ second factor, where one is enrolled ──▶ session ──▶ what the sign-in was for
    identity provider (its own room) ────────────────────▶ `complete`

What a sign-in is for is a transaction, or one of a closed list of our own pages: never an address that a
request names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import FixedReply
from firewall.core.ports import Clock, Store
from firewall.core.step_up import PASSWORD, SECOND_FACTOR
from firewall.identity import opaque, records
from firewall.identity.people.messages import message, read_post
from firewall.identity.people.pages import Pages
from firewall.identity.people.second_factor import SecondFactors
from firewall.identity.people.sessions import LoginSessions
from firewall.identity.people.transactions import Transaction, Transactions, check_form_token
from firewall.identity.people.users import User, Users
from firewall.identity.records import SECOND_US
from firewall.identity.settings import IdentitySettings, Noted, Record, TokenBytes
from firewall.identity.throttle import Throttle, wide_network_of
from firewall.identity.web import WebRequest, page_reply, redirect_reply, set_cookie

DESTINATIONS: Final[Mapping[str, str]] = {
    "grants": "/account/grants",
    "security": "/account/security",
    "device": "/device",
    "upstreams": "/account/upstreams",
}
COOKIE: Final = "bz_second"
PREFIX: Final = "bzq"
PENDING_S: Final = 300
TRIES: Final = 5
ACCOUNT_TRIES: Final = 20  # of all addresses together: one guess in 333,000 is right
ACCOUNT_WINDOW_S: Final = 900
DELAYS: Final = 1  # records a minute that a network was told to wait

_WRONG: Final = "The user name or the password is not right."
_WRONG_CODE: Final = "The code is not right, or was used already. Wait for the next one."


@dataclass(frozen=True, slots=True)
class Choice:
    """A way to sign in elsewhere: the button ``Continue with <title>`` posts txn, csrf and to to ``/login/<name>``."""

    name: str
    title: str


@dataclass(frozen=True, slots=True)
class Offer:
    """What a sign-in page shows: a button per choice, and the form for a local password where passwords are on."""

    choices: Sequence[Choice] = ()
    passwords: bool = True


class Ways(Protocol):
    """Which ways in there are; `oidc.offers` says so where identity providers are configured."""

    def of(self, transaction: Transaction | None) -> Offer:
        """Return what to offer for a transaction, or for a page of our own."""

    def permitted(self, provider: str, tenant: str) -> bool:
        """Return whether people of a tenant may sign in at a provider; "" stands for a local password."""


@dataclass(frozen=True, slots=True)
class SignInParts:
    """What signing in works with."""

    settings: IdentitySettings
    store: Store
    users: Users
    sessions: LoginSessions
    transactions: Transactions
    factors: SecondFactors
    throttle: Throttle
    pages: Pages
    clock: Clock
    token_bytes: TokenBytes
    record: Record
    noted: Noted


class SignIn:
    """The sign-in pages. ways: set once, where there are others than a local password."""

    def __init__(self, parts: SignInParts) -> None:
        self._parts = parts
        self._issuer = parts.settings.public_url
        self._pending = parts.store.collection("login_pending")
        self._tries = parts.store.collection("login_tries")
        self._cookie = parts.settings.cookie(COOKIE)
        self.ways: Ways | None = None
        parts.users.on_end(self._end_pending)

    # -- the page --------------------------------------------------------------------------------------

    def page(
        self,
        transaction: Transaction | None,
        *,
        client: str = "",
        to: str = "grants",
        error: str = "",
        note: str = "",
        status: int = 200,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> FixedReply:
        """Return the sign-in page. client: how the program that asks is shown; to: a key of `DESTINATIONS`.

        note: why it is shown again, where that is no mistake of the person's.
        """
        offer = self.ways.of(transaction) if self.ways else Offer()
        html = self._parts.pages.render(
            "login",
            txn=transaction.txn_id if transaction else "",
            csrf=self.form_token(transaction),
            to=to,
            client=client,
            choices=offer.choices,
            passwords=offer.passwords,
            error=error,
            note=note,
        )
        return page_reply(html, status, headers=headers)

    def form_token(self, transaction: Transaction | None) -> str:
        """Return a token for a sign-in form of a transaction; "" without one."""
        if transaction is None:
            return ""
        return self._parts.transactions.form_token(transaction.secret, f"login\0{transaction.txn_id}")

    def begun(self, request: WebRequest, txn_id: str, token: str) -> Transaction | FixedReply | None:
        """Return the transaction that a sign-in form belongs to, None for none, or the page that refuses it."""
        if not txn_id:
            return None
        transaction = self._parts.transactions.read(request, txn_id)
        if transaction is None or not check_form_token(transaction.secret, f"login\0{txn_id}", token):
            return message(self._parts.pages, "ended", 403)
        return transaction

    # -- POST /login -----------------------------------------------------------------------------------

    async def login(self, request: WebRequest) -> FixedReply:
        """Check name and password."""
        parts = self._parts
        form = read_post(request, self._issuer, parts.pages)
        if isinstance(form, FixedReply):
            return form
        transaction = self.begun(request, form.get("txn"), form.get("csrf"))
        if isinstance(transaction, FixedReply):
            return transaction
        to = form.get("to") if form.get("to") in DESTINATIONS else "grants"
        name, address = form.get("username").strip().lower(), request.client_ip
        allowed = parts.throttle.allow("login", address, per_minute=parts.settings.login_per_minute)
        wait_s = parts.throttle.wait_s(name, address)
        if not allowed or wait_s:
            return self._later(address, wait_s)
        # Counted before it is looked at: of guesses that come at once, no more are looked at than one by one.
        parts.throttle.failed(name, address)
        user = await parts.users.verify(name, form.get("password"))
        why = "password"
        if user is not None and self.ways is not None and not self.ways.permitted("", user.tenant):
            user, why = None, "elsewhere"  # their organisation signs in elsewhere: told like a wrong password
        if user is None:
            # The name itself is never recorded: people type passwords into that field.
            facts = _failed(parts.users.named(name), why, transaction)
            if why == "elsewhere":  # the password was right: it is about somebody, and no stranger's doing
                parts.record("identity.login.failed", facts)
            else:
                parts.noted("identity.login.failed", address, facts)
            return self.page(transaction, to=to, error=_WRONG, status=403)
        parts.throttle.succeeded(name, address)
        if parts.factors.enrolled(user):
            return self._ask_second(user, transaction, to)
        return self.complete(request, transaction, user, acr=PASSWORD, amr=("pwd",), to=to)

    def complete(
        self,
        request: WebRequest,
        transaction: Transaction | None,
        user: User,
        *,
        acr: str,
        amr: tuple[str, ...] = (),
        auth_time: int = 0,
        to: str = "grants",
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> FixedReply:
        """Begin the session of a person who proved who they are, and go on; every way of signing in ends here."""
        parts = self._parts
        session, cookie = parts.sessions.open(request, user, acr=acr, amr=amr, auth_time=auth_time)
        if transaction:
            parts.transactions.note_sign_in(transaction, session.session_id)
        facts: JSONObject = {"tenant": user.tenant, "sub": user.subject, "acr": acr, "sid": session.session_id}
        parts.record("identity.login", {**facts, **_txn(transaction)})
        if transaction is None:
            return redirect_reply(DESTINATIONS[to], headers=(cookie, *headers))
        return redirect_reply("/consent", headers=(cookie, parts.transactions.onward(transaction), *headers))

    # -- /login/code -------------------------------------------------------------------------------------

    async def show_second(self, request: WebRequest) -> FixedReply:
        """Show the page for the second factor."""
        if self._open(request) is None:
            return message(self._parts.pages, "ended", 403)
        return self._second_page()

    async def second(self, request: WebRequest) -> FixedReply:
        """Check the second factor of a person whose password was right a moment ago in this browser."""
        parts = self._parts
        form = read_post(request, self._issuer, parts.pages)
        if isinstance(form, FixedReply):
            return form
        pending = self._open(request)
        if pending is None:
            return message(parts.pages, "ended", 403)
        key, user, value = pending
        account, address = f"second\0{user.tenant}\0{user.subject}", request.client_ip
        wait_s = parts.throttle.wait_s(account, address)
        if wait_s or not parts.throttle.allow("login", address, per_minute=parts.settings.login_per_minute):
            return self._later(address, wait_s)
        # Only who knows the password gets here, so no stranger can use these up.
        if not parts.throttle.allow_within("second", account, limit=ACCOUNT_TRIES, window_s=ACCOUNT_WINDOW_S):
            return self._later(address, ACCOUNT_WINDOW_S)
        # Counted before it is looked at: parallel guesses cost one try each.
        within = self._tries.add(user.tenant, key, 1, ceiling=TRIES, expires_us=self._end_us())
        if not within or not parts.factors.verify(user, form.get("code")):
            parts.throttle.failed(account, address)
            facts: JSONObject = {"tenant": user.tenant, "sub": user.subject, "code": "second_factor", "factor": "otp"}
            txn = records.text(value, "txn")
            parts.record("identity.login.failed", facts | ({"txn": txn} if txn else {}))
            if not within:
                self._pending.delete(user.tenant, key)
                return message(parts.pages, "ended", 403)
            return self._second_page(_WRONG_CODE, 403)
        if self._pending.take(user.tenant, key) is None:
            return message(parts.pages, "ended", 403)
        parts.throttle.succeeded(account, address)
        txn_id = records.text(value, "txn")
        transaction = parts.transactions.read(request, txn_id) if txn_id else None
        if txn_id and transaction is None:
            return message(parts.pages, "ended", 403)
        return self.complete(
            request,
            transaction,
            user,
            acr=SECOND_FACTOR,
            amr=("pwd", "otp", "mfa"),
            to=records.text(value, "to") or "grants",
            headers=(set_cookie(self._cookie, "", secure=parts.settings.secure, max_age_s=0),),
        )

    def _ask_second(self, user: User, transaction: Transaction | None, to: str) -> FixedReply:
        secret = opaque.mint(PREFIX, user.tenant, self._parts.token_bytes)
        txn_id = transaction.txn_id if transaction else ""
        value = records.encode({"sub": user.subject, "txn": txn_id, "to": to})
        self._pending.put(user.tenant, secret.key, value, expires_us=self._end_us())
        cookie = set_cookie(self._cookie, secret.text, secure=self._parts.settings.secure, max_age_s=PENDING_S)
        return redirect_reply("/login/code", headers=(cookie,))

    def _open(self, request: WebRequest) -> tuple[str, User, JSONObject] | None:
        secret = opaque.locate(PREFIX, request.cookies.get(self._cookie, ""))
        entry = self._pending.get(secret.tenant, secret.key) if secret else None
        if secret is None or entry is None:
            return None
        value = records.decode(entry.value)
        user = self._parts.users.get(secret.tenant, records.text(value, "sub"))
        return (secret.key, user, value) if user else None

    def _end_pending(self, tenant: str, subject: str, _reason: str) -> None:
        """A password that was right before it was changed opens nothing any more."""
        for entry in list(self._pending.scan(tenant)):
            if records.text(records.decode(entry.value), "sub") == subject:
                self._pending.delete(tenant, entry.key)

    def _second_page(self, error: str = "", status: int = 200) -> FixedReply:
        return page_reply(self._parts.pages.render("second", error=error), status)

    def _later(self, address: str, wait_s: int) -> FixedReply:
        # Being told to wait costs a stranger nothing, and a full record stops everybody: once a minute says it all.
        if self._parts.throttle.allow("login.delayed", wide_network_of(address), per_minute=DELAYS):
            self._parts.noted("identity.login.delayed", address, {"wait_s": wait_s})
        retry = (b"retry-after", str(wait_s or 60).encode())
        return message(self._parts.pages, "busy", 429, headers=(retry,))

    def _end_us(self) -> int:
        return self._parts.clock.now_us() + PENDING_S * SECOND_US


def _failed(user: User | None, why: str, transaction: Transaction | None) -> JSONObject:
    """Return what is recorded of a sign-in by password that failed. user: whose name was given, None for nobody's."""
    if user is None:
        return {"code": "user_unknown", **_txn(transaction)}
    code = "user_disabled" if user.disabled else why
    return {"tenant": user.tenant, "sub": user.subject, "code": code, **_txn(transaction)}


def _txn(transaction: Transaction | None) -> JSONObject:
    return {"txn": transaction.txn_id} if transaction else {}
