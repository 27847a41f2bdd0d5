"""``/account/security``: a person adds a second factor, or takes it away, within minutes of a sign-in.

Adding one asks for the password again. Else whoever took over a session by password would add a factor of their own,
sign in with it, and be let in where a password alone is not enough (OWASP ASVS 5.0 §6.4: a factor is changed only after
the present ones were proved). Taking it away asks for a code of it.
"""

from __future__ import annotations

from typing import Final

from firewall.core.permit import FixedReply
from firewall.core.ports import Clock
from firewall.identity.people.messages import message, read_post
from firewall.identity.people.pages import Pages
from firewall.identity.people.second_factor import SecondFactors, app_uri
from firewall.identity.people.sessions import LoginSession, LoginSessions
from firewall.identity.people.sign_in import ACCOUNT_TRIES, ACCOUNT_WINDOW_S, SignIn
from firewall.identity.people.transactions import Transactions, check_form_token
from firewall.identity.people.users import Users
from firewall.identity.records import SECOND_US
from firewall.identity.settings import IdentitySettings
from firewall.identity.throttle import Throttle
from firewall.identity.web import WebRequest, page_reply, redirect_reply

PATH: Final = "/account/security"
FRESH_S: Final = 600
ISSUER: Final = "Bartizan"
TXN_CHARS: Final = 64
_WRONG: Final = "The code is not right, or was used already. Wait for the next one."
_WRONG_ONE: Final = "The password or the code is not right, or the code was used already. Wait for the next one."


class Security:
    """The page of a signed-in person's second factor."""

    def __init__(
        self,
        settings: IdentitySettings,
        sign_in: SignIn,
        sessions: LoginSessions,
        transactions: Transactions,
        users: Users,
        factors: SecondFactors,
        throttle: Throttle,
        pages: Pages,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._sign_in = sign_in
        self._sessions = sessions
        self._tokens = transactions
        self._users = users
        self._factors = factors
        self._throttle = throttle
        self._pages = pages
        self._clock = clock

    async def show(self, request: WebRequest) -> FixedReply:
        """Show what there is, and the secret of a new one to a person who signed in a moment ago."""
        session = self._fresh(request)
        return self._sign_in.page(None, to="security") if session is None else self._page(session)

    async def change(self, request: WebRequest) -> FixedReply:
        """Add with the password, remove; each with a code of now.

        ``txn``: the request that asked for one, to go on with afterwards. Its page (`raising`) leads here by a form, so
        that no address carries it (AS-24).
        """
        form = read_post(request, self._settings.public_url, self._pages)
        if isinstance(form, FixedReply):
            return form
        session = self._fresh(request)
        if form.get("do") == "show":  # changes nothing, and shows what anybody who opens this page is shown
            return self._sign_in.page(None, to="security") if session is None else self._page(session, form.get("txn"))
        if session is None or not check_form_token(session.form_secret, "security", form.get("csrf")):
            return message(self._pages, "signed_out", 403)
        user, address = session.user, request.client_ip
        account = f"second\0{user.tenant}\0{user.subject}"
        wait_s = self._throttle.wait_s(account, address)
        if wait_s or not self._throttle.allow("login", address, per_minute=self._settings.login_per_minute):
            return message(self._pages, "busy", 429, headers=((b"retry-after", str(wait_s or 60).encode()),))
        # The same count as at the sign-in, from wherever: who took a session over must not guess without end here.
        if not self._throttle.allow_within("second", account, limit=ACCOUNT_TRIES, window_s=ACCOUNT_WINDOW_S):
            return message(self._pages, "busy", 429, headers=((b"retry-after", str(ACCOUNT_WINDOW_S).encode()),))
        if form.get("do") == "remove":
            right = self._factors.verify(user, form.get("code"))
            if right:
                self._factors.remove(user)
        else:
            known = await self._users.verify(user.name, form.get("password"))
            right = known is not None and known.subject == user.subject
            right = right and self._factors.confirm(user, form.get("code"), session.session_id)
        if not right:
            self._throttle.failed(account, address)
            return self._page(session, form.get("txn"), _WRONG if form.get("do") == "remove" else _WRONG_ONE, 403)
        self._throttle.succeeded(account, address)
        txn = self._tokens.read(request, form.get("txn")) if form.get("txn") else None
        if txn is None:
            return redirect_reply(PATH)
        return redirect_reply("/consent", headers=(self._tokens.onward(txn),))

    def _fresh(self, request: WebRequest) -> LoginSession | None:
        session = self._sessions.read(request)
        if session is None or self._clock.now_us() // SECOND_US - session.auth_time > FRESH_S:
            return None
        return session

    def _page(self, session: LoginSession, txn: str = "", error: str = "", status: int = 200) -> FixedReply:
        user = session.user
        local = self._users.has_password(user.tenant, user.subject)
        enrolled = self._factors.enrolled(user)
        secret = "" if enrolled or not local else self._factors.offer(user, session.session_id)
        html = self._pages.render(
            "security",
            user=user.shown,
            local=local,
            enrolled=enrolled,
            txn=txn[:TXN_CHARS],
            secret=" ".join(secret[at : at + 4] for at in range(0, len(secret), 4)),
            uri=app_uri(secret, user.shown, ISSUER) if secret else "",
            csrf=self._tokens.form_token(session.form_secret, "security"),
            error=error,
        )
        return page_reply(html, status)
