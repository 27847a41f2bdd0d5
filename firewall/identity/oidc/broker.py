"""Sign-in at an identity provider (mode B of oauth reference §10): out by a button of ours, back by a callback.

    login page ──POST /login/<idp>──▶ provider ──GET /callback/<idp>──▶ session ──▶ our consent page

The provider says who it is and nothing else: what our clients get is our own, and what they may do is asked on
our own consent page, after the sign-in (MCP, confused deputy). Its access token is dropped; its ID token is
kept, sealed, for signing out there, and for upstreams that want an identity assertion (`party.RelyingParty.kept`).
When a provider does not answer, its own people get a page that says so; nobody else waits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from firewall.core.errors import BartizanError, Conflict, Malformed, UpstreamFault
from firewall.core.permit import FixedReply
from firewall.core.step_up import FRESH, PREFIX
from firewall.identity.oidc.party import RelyingParty, Wish
from firewall.identity.oidc.provider import Provider
from firewall.identity.oidc.refusals import about, refusal, words
from firewall.identity.oidc.settings import ProviderSettings
from firewall.identity.oidc.sign_out import SignOuts
from firewall.identity.people.messages import message, read_post
from firewall.identity.people.pages import Pages
from firewall.identity.people.sessions import LoginSessions
from firewall.identity.people.sign_in import DESTINATIONS, SignIn
from firewall.identity.people.transactions import Transaction, Transactions
from firewall.identity.resources import Resources
from firewall.identity.rfc9470 import levels
from firewall.identity.settings import IdentitySettings
from firewall.identity.throttle import Throttle
from firewall.identity.web import WebRequest, page_reply, redirect_reply
from firewall.wire import oauth
from firewall.wire.oauth import OAuthError

Handler = Callable[[WebRequest], Awaitable[FixedReply]]
SetCookies = Sequence[tuple[bytes, bytes]]
_LATER = (b"retry-after", b"60")


@dataclass(frozen=True, slots=True)
class BrokerParts:
    """What the pages of signing in elsewhere work with."""

    settings: IdentitySettings
    party: RelyingParty
    sign_in: SignIn
    sign_outs: SignOuts
    sessions: LoginSessions
    transactions: Transactions
    resources: Resources
    throttle: Throttle
    pages: Pages


class Broker:
    """The two endpoints of every provider, at the front door."""

    def __init__(self, parts: BrokerParts) -> None:
        self._parts = parts
        self._origin = parts.settings.public_url

    def routes(self) -> Mapping[str, Mapping[str, Handler]]:
        """Return the handlers by path and method, for the front door's table."""
        routes: dict[str, Mapping[str, Handler]] = {}
        for provider in self._parts.party.providers.values():
            routes[f"/login/{provider.settings.name}"] = {"POST": _bound(self.begin, provider)}
            routes[provider.settings.callback_path] = {"GET": _bound(self.callback, provider)}
        return routes

    async def begin(self, request: WebRequest, provider: Provider) -> FixedReply:
        """Send the person who pressed the button to the provider.

        Only this answer sets the leg's cookie: whoever was led to ``/authorize`` by a link has first seen,
        on our page, which program asks (AS-15).
        """
        parts, settings = self._parts, provider.settings
        form = read_post(request, self._origin, parts.pages)
        if isinstance(form, FixedReply):
            return form
        if not parts.throttle.allow("idp", request.client_ip, per_minute=parts.settings.login_per_minute):
            return message(parts.pages, "busy", 429, headers=(_LATER,))
        transaction = parts.sign_in.begun(request, form.get("txn"), form.get("csrf"))
        if isinstance(transaction, FixedReply):
            return transaction
        if not parts.party.offers.offered(settings.name, transaction):
            return self._page(words("elsewhere", settings), 403)
        to = form.get("to") if form.get("to") in DESTINATIONS else "grants"
        txn = transaction.txn_id if transaction else ""
        try:
            wish = self._wish(request, transaction)
            location, cookie = await parts.party.begin(
                provider, self._origin, wish, address=request.client_ip, txn=txn, to=to
            )
        except UpstreamFault as error:
            return self._failed(request, settings, error, txn=txn)
        return redirect_reply(location, headers=(cookie,))

    async def callback(self, request: WebRequest, provider: Provider) -> FixedReply:
        """Take the provider's answer, once, from the browser that was sent there."""
        parts, settings = self._parts, provider.settings
        if not parts.throttle.allow("idp_back", request.client_ip, per_minute=parts.settings.authorize_per_minute):
            return message(parts.pages, "busy", 429, headers=(_LATER,))
        try:
            form = oauth.parse_form(request.query)
            oauth.refuse_repeated(form)
        except OAuthError:
            return message(parts.pages, "request", 400)
        leg = parts.party.take(request, provider, self._origin, form.get("state"))
        if leg is None:
            return message(parts.pages, "ended", 403)
        gone = (parts.party.expired_cookie(leg),)
        transaction = parts.transactions.read(request, leg.txn) if leg.txn else None
        if leg.txn and transaction is None:
            return message(parts.pages, "ended", 403, headers=gone)
        try:
            found = await parts.party.finish(provider, leg, form)
        except (UpstreamFault, Malformed, Conflict) as error:
            return self._failed(request, settings, error, gone, txn=leg.txn)
        return parts.sign_in.complete(
            request,
            transaction,
            found.user,
            acr=found.acr,
            amr=found.amr,
            auth_time=found.auth_time,
            to=leg.to,
            headers=(*gone, *parts.sign_outs.remember(found.user.tenant, settings, found.id_token)),
        )

    def _wish(self, request: WebRequest, transaction: Transaction | None) -> Wish:
        """Return what the sign-in must be like for what it is for (RFC 9470 §4).

        Somebody who is signed in and still got the sign-in page is asked to prove it anew.
        """
        parts = self._parts
        if transaction is None:
            return Wish(prompt=frozenset({"login"})) if parts.sessions.read(request) else Wish()
        asked = transaction.request
        known = parts.resources.by_uri.get(asked.resource)
        max_age = levels.longest_age_s(asked, known) if known is not None else asked.max_age
        steps = (step.removeprefix(PREFIX) for step in levels.steps(asked.scope))
        wanted = tuple(dict.fromkeys((*asked.acr_values, *(level for level in steps if level != FRESH))))
        return Wish(asked.prompt, max_age, asked.login_hint, wanted)

    def _failed(
        self,
        request: WebRequest,
        settings: ProviderSettings,
        error: BartizanError,
        headers: SetCookies = (),
        *,
        txn: str = "",
    ) -> FixedReply:
        self._parts.party.failed(
            settings, error.code, error.detail, address=request.client_ip, txn=txn, about=about(error)
        )
        reason, status = refusal(error)
        text = words(reason, settings, error)
        return self._page(text, status, (*headers, _LATER) if status == 429 else headers)

    def _page(self, text: str, status: int, headers: SetCookies = ()) -> FixedReply:
        html = self._parts.pages.render("message", title="You are not signed in", text=text)
        return page_reply(html, status, headers=headers)


def _bound(call: Callable[[WebRequest, Provider], Awaitable[FixedReply]], provider: Provider) -> Handler:
    async def handle(request: WebRequest) -> FixedReply:
        return await call(request, provider)

    return handle
