"""Sign-in at an identity provider (mode B of oauth reference §10): out by a button of ours, back by a callback.

    login page ──POST /login/<idp>──▶ provider ──GET /callback/<idp>──▶ session ──▶ our consent page

The provider says who it is and nothing else: its tokens are read once and dropped, what our clients get is
our own, and what they may do is asked on our own consent page, after the sign-in (MCP, confused deputy).
When a provider does not answer, its own people get a page that says so; nobody else waits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from firewall.core.errors import Conflict, Malformed, UpstreamFault
from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import FixedReply
from firewall.core.ports import Clock
from firewall.core.step_up import PASSWORD
from firewall.identity.oidc.id_token import (
    ID_TOKEN_BYTES,
    IdTokenRules,
    auth_time,
    check_access_hash,
    check_id_token,
)
from firewall.identity.oidc.legs import Leg, Legs
from firewall.identity.oidc.mapping import import_claims
from firewall.identity.oidc.metadata import ProviderMetadata
from firewall.identity.oidc.offers import Offers
from firewall.identity.oidc.people import ProviderPeople
from firewall.identity.oidc.provider import Provider
from firewall.identity.oidc.redemption import ProviderTokens, Redemption
from firewall.identity.oidc.settings import ENTRA_TENANT, ProviderSettings
from firewall.identity.oidc.sign_out import SignOuts
from firewall.identity.people.messages import message, read_post
from firewall.identity.people.pages import Pages
from firewall.identity.people.sign_in import DESTINATIONS, SignIn
from firewall.identity.people.transactions import Transaction, Transactions
from firewall.identity.records import SECOND_US
from firewall.identity.settings import IdentitySettings, Record
from firewall.identity.throttle import Throttle
from firewall.identity.web import WebRequest, page_reply, redirect_reply
from firewall.wire import jwt, oauth
from firewall.wire.oauth import OAuthError

Handler = Callable[[WebRequest], Awaitable[FixedReply]]
SetCookies = Sequence[tuple[bytes, bytes]]

# A provider that does not say when the person signed in may mean yesterday: never fresh, for any max_age.
LONG_AGO: Final = 1
CODE_CHARS: Final = 4096

_TEXTS: Final = {
    "down": "{title} cannot be reached now. Nothing has been changed; try again in a minute, or sign in another way.",
    "denied": "You did not sign in at {title}. Go back to your program and start again when you want to.",
    "refused": "{title} could not sign you in. Go back to your program and start again.",
    "unverified": "What {title} answered could not be verified, so nobody was signed in. Tell your administrator.",
    "stale": "{title} did not ask you to sign in anew, which is needed here. Sign out there, then start again.",
    "no_account": "You are signed in at {title}, but have no access here. Ask your administrator.",
    "elsewhere": "People of your organisation sign in another way. Go back to your program and start again.",
}


@dataclass(frozen=True, slots=True)
class BrokerParts:
    """What signing in elsewhere works with."""

    settings: IdentitySettings
    offers: Offers
    legs: Legs
    redemption: Redemption
    people: ProviderPeople
    sign_in: SignIn
    sign_outs: SignOuts
    transactions: Transactions
    throttle: Throttle
    pages: Pages
    clock: Clock
    record: Record


class Broker:
    """The two endpoints of every provider."""

    def __init__(self, parts: BrokerParts, providers: Sequence[Provider]) -> None:
        self._parts = parts
        self._origin = parts.settings.public_url
        self._providers = {p.settings.name: p for p in providers}

    def routes(self) -> Mapping[str, Mapping[str, Handler]]:
        """Return the handlers by path and method, for the front door's table."""
        routes: dict[str, Mapping[str, Handler]] = {}
        for provider in self._providers.values():
            routes[f"/login/{provider.settings.name}"] = {"POST": _bound(self.begin, provider)}
            routes[provider.settings.callback_path] = {"GET": _bound(self.callback, provider)}
        return routes

    # -- POST /login/<idp> -------------------------------------------------------------------------------

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
            return message(parts.pages, "busy", 429, headers=((b"retry-after", b"60"),))
        transaction = parts.sign_in.begun(request, form.get("txn"), form.get("csrf"))
        if isinstance(transaction, FixedReply):
            return transaction
        if not parts.offers.offered(settings.name, transaction):
            return self._page("elsewhere", settings, 403)
        try:
            metadata = await provider.metadata()
        except UpstreamFault as error:
            return self._failed("down", settings, error, 503)
        to = form.get("to") if form.get("to") in DESTINATIONS else "grants"
        now_s = parts.clock.now_us() // SECOND_US
        leg, cookie = parts.legs.open(
            settings.name,
            transaction.txn_id if transaction else "",
            to=to,
            fresh_since=_fresh_since(transaction, now_s),
        )
        parts.record("identity.idp.begun", {"idp": settings.name})
        query = urlencode(self._request(leg, settings, transaction))
        mark = "&" if "?" in metadata.authorization_endpoint else "?"
        return redirect_reply(f"{metadata.authorization_endpoint}{mark}{query}", headers=(cookie,))

    def _request(self, leg: Leg, settings: ProviderSettings, transaction: Transaction | None) -> dict[str, str]:
        asked = transaction.request if transaction else None
        request = {
            **settings.parameters,
            "response_type": "code",
            "client_id": settings.client_id,
            "redirect_uri": self._origin + settings.callback_path,
            "scope": " ".join(settings.scopes),
            "state": leg.state,
            "nonce": leg.nonce,
            "code_challenge": leg.challenge,
            "code_challenge_method": "S256",
        }
        if asked is None:
            return request
        if "login" in asked.prompt:
            request |= {"prompt": "login", "max_age": "0"}
        elif "select_account" in asked.prompt:
            request["prompt"] = "select_account"
        if asked.max_age >= 0:
            request["max_age"] = str(asked.max_age) if "login" not in asked.prompt else "0"
        if asked.login_hint:
            request["login_hint"] = asked.login_hint
        if wanted := [theirs for theirs, ours in settings.acr_of.items() if ours in asked.acr_values]:
            request["acr_values"] = " ".join(wanted)
        return request

    # -- GET /callback/<idp> -------------------------------------------------------------------------------

    async def callback(self, request: WebRequest, provider: Provider) -> FixedReply:
        """Take the provider's answer, once, from the browser that was sent there."""
        parts, settings = self._parts, provider.settings
        if not parts.throttle.allow("idp_back", request.client_ip, per_minute=parts.settings.authorize_per_minute):
            return message(parts.pages, "busy", 429, headers=((b"retry-after", b"60"),))
        try:
            form = oauth.parse_form(request.query)
            oauth.refuse_repeated(form)
        except OAuthError:
            return message(parts.pages, "request", 400)
        leg = parts.legs.take(request, settings.name, form.get("state"))
        transaction = parts.transactions.read(request, leg.txn) if leg and leg.txn else None
        if leg is None or (leg.txn and transaction is None):
            parts.record("identity.idp.failed", {"idp": settings.name, "code": "idp_leg", "detail": ""})
            return message(parts.pages, "ended", 403)
        gone = (parts.legs.expired_cookie(leg),)
        try:
            metadata = await provider.metadata()
            _check_issuer(form.get("iss"), settings, metadata)
            if form.get("error"):
                return self._error(form.get("error"), settings, gone)
            return await self._finish(request, provider, metadata, leg, form.get("code"), transaction)
        except UpstreamFault as error:
            reason, status = ("down", 503) if error.code in ("unreachable", "timeout") else ("refused", 502)
            return self._failed(reason, settings, error, status, gone)
        except Conflict:
            return message(parts.pages, "busy", 429, headers=((b"retry-after", b"60"), *gone))
        except Malformed as error:
            reason = {"idp_no_account": "no_account", "idp_elsewhere": "elsewhere"}.get(error.code, "unverified")
            if error.detail == "auth_time":
                reason = "stale"
            return self._failed(reason, settings, error, 403, gone)

    async def _finish(
        self,
        request: WebRequest,
        provider: Provider,
        metadata: ProviderMetadata,
        leg: Leg,
        code: str,
        transaction: Transaction | None,
    ) -> FixedReply:
        parts, settings = self._parts, provider.settings
        if not 0 < len(code) <= CODE_CHARS:
            raise Malformed("idp_answer", "code")
        redirect_uri = self._origin + settings.callback_path
        tokens = await parts.redemption.redeem(
            provider, metadata, code, verifier=leg.verifier, redirect_uri=redirect_uri
        )
        claims = await self._claims(provider, metadata, leg, tokens)
        who = import_claims(claims, settings, default_acr=PASSWORD)
        if not parts.offers.permitted(settings.name, who.tenant):
            raise Malformed("idp_elsewhere")
        user = parts.people.settle(who, settings)
        now_s = parts.clock.now_us() // SECOND_US
        parts.record("identity.idp.signed_in", {"idp": settings.name, "tenant": user.tenant, "sub": user.subject})
        return parts.sign_in.complete(
            request,
            transaction,
            user,
            acr=who.acr,
            amr=who.amr,
            auth_time=auth_time(claims, now_s) or LONG_AGO,
            to=leg.to,
            headers=(parts.legs.expired_cookie(leg), *parts.sign_outs.remember(user.tenant, settings, tokens.id_token)),
        )

    async def _claims(
        self, provider: Provider, metadata: ProviderMetadata, leg: Leg, tokens: ProviderTokens
    ) -> JSONObject:
        """Return the verified claims, those of userinfo beside them; the ID token's own always win."""
        settings = provider.settings
        unchecked = jwt.parse_compact(
            tokens.id_token.encode("utf-8", "surrogatepass"), algorithms=metadata.algorithms, max_bytes=ID_TOKEN_BYTES
        )
        rules = IdTokenRules(
            issuers=issuers(settings),
            client_id=settings.client_id,
            nonce=leg.nonce,
            audiences=settings.trusted_audiences,
            fresh_since=leg.fresh_since,
        )
        now_s = self._parts.clock.now_us() // SECOND_US
        claims = check_id_token(unchecked, await provider.key(unchecked.kid), rules, now_s)
        check_access_hash(claims, unchecked.alg, tokens.access_token)
        if not settings.userinfo:
            return claims
        more = await self._parts.redemption.userinfo(provider, metadata, tokens.access_token)
        if more.get("sub") != claims["sub"]:
            raise Malformed("idp_claims", "userinfo")  # another person's (Core §5.3.2)
        return {**more, **claims}

    # -- replies -------------------------------------------------------------------------------------------

    def _error(self, error: str, settings: ProviderSettings, headers: SetCookies) -> FixedReply:
        """Say in our own words that the provider said no; neither its text nor an unknown code goes anywhere."""
        known = error if error in _ERRORS else "other"
        self._parts.record("identity.idp.failed", {"idp": settings.name, "code": "idp_error", "detail": known})
        return self._page("denied" if known == "access_denied" else "refused", settings, 403, headers)

    def _failed(
        self,
        reason: str,
        settings: ProviderSettings,
        error: Malformed | UpstreamFault,
        status: int,
        headers: SetCookies = (),
    ) -> FixedReply:
        facts = {"idp": settings.name, "code": error.code, "detail": error.detail}
        self._parts.record("identity.idp.failed", {**facts})
        return self._page(reason, settings, status, headers)

    def _page(self, reason: str, settings: ProviderSettings, status: int, headers: SetCookies = ()) -> FixedReply:
        text = _TEXTS[reason].format(title=settings.title or settings.name)
        html = self._parts.pages.render("message", title="You are not signed in", text=text)
        return page_reply(html, status, headers=headers)


def issuers(settings: ProviderSettings) -> tuple[str, ...]:
    """Return every ``iss`` that the provider's tokens may carry: a closed list of exact strings."""
    if ENTRA_TENANT in settings.issuer:
        return tuple(settings.issuer.replace(ENTRA_TENANT, tenant) for tenant in settings.tenants)
    return (settings.issuer, *settings.issuer_aliases)


def _check_issuer(sent: str, settings: ProviderSettings, metadata: ProviderMetadata) -> None:
    """Raise Malformed("idp_answer") unless this provider answered: before anything else of it is looked at.

    An ``iss`` that is there must be the right one; where the metadata promises it, it must be there (RFC 9207 §2.4).
    """
    if (sent and sent not in issuers(settings)) or (not sent and metadata.sends_issuer):
        raise Malformed("idp_answer", "iss")


def _fresh_since(transaction: Transaction | None, now_s: int) -> int:
    """Return since when the person must have signed in, for what the client asked; -1 when it did not ask."""
    if transaction is None:
        return -1
    if "login" in transaction.request.prompt:
        return now_s
    return now_s - transaction.request.max_age if transaction.request.max_age >= 0 else -1


def _bound(call: Callable[[WebRequest, Provider], Awaitable[FixedReply]], provider: Provider) -> Handler:
    async def handle(request: WebRequest) -> FixedReply:
        return await call(request, provider)

    return handle


# OAuth 2.1 §4.1.2.1 and OpenID Connect Core §3.1.2.6.
_ERRORS: Final = frozenset(
    {
        "access_denied",
        "invalid_request",
        "unauthorized_client",
        "unsupported_response_type",
        "invalid_scope",
        "server_error",
        "temporarily_unavailable",
        "login_required",
        "interaction_required",
        "account_selection_required",
        "consent_required",
    }
)
