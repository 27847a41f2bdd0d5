"""``/account/grants`` and ``/logout``: a person sees which programs are connected, and ends a connection (UI-09)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from firewall.core.permit import FixedReply
from firewall.core.tool_details import parse_details
from firewall.identity.grants import OAuthGrants
from firewall.identity.people.consents import Consents
from firewall.identity.people.pages import Pages
from firewall.identity.people.sessions import LoginSession, LoginSessions
from firewall.identity.people.sign_in import SignIn
from firewall.identity.people.transactions import Transactions, check_form_token
from firewall.identity.rfc9396.requested import detail_words
from firewall.identity.settings import IdentitySettings
from firewall.identity.web import WebRequest, page_reply, redirect_reply
from firewall.wire.oauth import OAuthError

# What signing out elsewhere needs: where to send the browser, and headers; None when nowhere.
Leave = Callable[[WebRequest], Awaitable[tuple[str, Sequence[tuple[bytes, bytes]]] | None]]


class Account:
    """The pages of a signed-in person. leave: set where people sign in, and so sign out, elsewhere."""

    def __init__(
        self,
        settings: IdentitySettings,
        sign_in: SignIn,
        sessions: LoginSessions,
        transactions: Transactions,
        grants: OAuthGrants,
        consents: Consents,
        pages: Pages,
    ) -> None:
        self._origin = settings.public_url
        self._sign_in = sign_in
        self._sessions = sessions
        self._tokens = transactions
        self._grants = grants
        self._consents = consents
        self._pages = pages
        self.leave: Leave | None = None

    async def show(self, request: WebRequest) -> FixedReply:
        """List the person's grants, or the sign-in page."""
        session = self._sessions.read(request)
        if session is None:
            return self._sign_in.page(None)
        user = session.user
        grants = [
            {
                "id": g.grant_id,
                "client": g.client_name or g.client_id,
                "resource": g.resource,
                "scopes": " ".join(g.scopes),
                "details": [line for d in parse_details(list(g.details)) for line in detail_words(d)]
                if g.details
                else [],
            }
            for g in self._grants.of_subject(user.tenant, user.subject)
        ]
        csrf = self._tokens.form_token(session.form_secret, "account")
        agreed = self._consents.of(user)
        html = self._pages.render("grants", user=user.shown, grants=grants, agreed=agreed, csrf=csrf)
        return page_reply(html)

    async def end(self, request: WebRequest) -> FixedReply:
        """End one grant, and forget what was agreed with its client; or forget one agreement alone."""
        session = self._posted(request)
        if session is None:
            return self._refused()
        user = session.user
        form = request.form()
        if form.get("agreement") and not form.get("grant"):
            self._consents.forget(user, form.get("agreement"))
            return redirect_reply("/account/grants")
        grant_id = form.get("grant")
        for grant in self._grants.of_subject(user.tenant, user.subject):
            if grant.grant_id == grant_id:
                self._consents.withdraw(user, grant.client_id)
                self._grants.revoke(user.tenant, user.subject, grant_id, reason="revoked_by_user")
        return redirect_reply("/account/grants")

    async def logout(self, request: WebRequest) -> FixedReply:
        """End the session, here first and then where it began."""
        if self._posted(request) is None:
            return self._refused()
        self._sessions.close(request)
        gone = self._sessions.expired_cookie()
        away = await self.leave(request) if self.leave else None
        if away is None:
            return redirect_reply("/account/grants", headers=(gone,))
        return redirect_reply(away[0], headers=(gone, *away[1]))

    def _posted(self, request: WebRequest) -> LoginSession | None:
        session = self._sessions.read(request)
        if session is None or not request.is_same_origin(self._origin):
            return None
        try:
            token = request.form().get("csrf")
        except OAuthError:
            return None
        return session if check_form_token(session.form_secret, "account", token) else None

    def _refused(self) -> FixedReply:
        text = "This form was not sent from our own page, or you are no longer signed in."
        return page_reply(self._pages.render("message", title="This cannot go on", text=text), 403)
