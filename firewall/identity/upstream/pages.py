"""``/upstream/…``: a person connects an account at an upstream (`account` lists and ends connections).

    GET  /upstream/connect/<name>     what it is about, on our own page, before anything is asked elsewhere
    POST /upstream/connect/<name>     the person agreed: off to the upstream's authorization server
    GET  /upstream/callback/<name>    back again, one address per upstream

Of another server's words none is shown but its ids: of scopes, and of registered errors (`why`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final
from urllib.parse import urlsplit

from firewall.core.errors import UpstreamFault
from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import FixedReply
from firewall.core.ports import Clock, Ids
from firewall.identity.people.messages import message, read_post
from firewall.identity.people.pages import Pages, clean_name
from firewall.identity.people.sessions import LoginSession, LoginSessions
from firewall.identity.people.sign_in import SignIn
from firewall.identity.people.transactions import Transactions, check_form_token
from firewall.identity.records import SECOND_US
from firewall.identity.rfc9449.signer import DPoPSigner
from firewall.identity.serve import Handler
from firewall.identity.settings import IdentitySettings, Record
from firewall.identity.throttle import Throttle
from firewall.identity.upstream.asks import Ask, Asks
from firewall.identity.upstream.connecting import Legs, authorization_url, is_issuer
from firewall.identity.upstream.discovery import Discovery, Found
from firewall.identity.upstream.grants import Place, UpstreamGrant, UpstreamGrants
from firewall.identity.upstream.our_client import ClientIdentity
from firewall.identity.upstream.personal import CONNECT
from firewall.identity.upstream.registration import Registrations
from firewall.identity.upstream.settings import UpstreamAuth
from firewall.identity.upstream.token_client import TokenClient, TokenRefused
from firewall.identity.upstream.why import Why, authorization_error, host_of, why
from firewall.identity.web import WebRequest, page_reply, redirect_reply, set_cookie
from firewall.wire import oauth
from firewall.wire.oauth import OAuthError

ACCOUNT: Final = "/account/upstreams"
CALLBACK: Final = "/upstream/callback/"
COOKIE: Final = "bz_connect"
PER_MINUTE: Final = 60
SIGN_IN_S: Final = 600

_WORDS: Final[Mapping[str, tuple[str, str]]] = {
    "connected": (
        "Connected",
        "The account is connected. Go back to the program that sent you here; it can go on now.",
    ),
    "unavailable": (
        "This cannot be connected now",
        "The other side could not be reached, or does not offer what is needed. An operator can see the reason in the log.",
    ),
    "refused": ("Not connected", "The other side gave no access. Nothing was stored."),
    "foreign": ("Not connected", "The answer did not come from the place that was asked. Nothing was stored."),
    "ended": ("This cannot go on", "This link has ended, or was begun by another browser or another account."),
    "other": (
        "This link is for another account",
        "It was made for somebody else. Sign in with the account that your program uses, or start again there.",
    ),
}


@dataclass(frozen=True, slots=True)
class ConnectParts:
    """What the pages work with."""

    settings: IdentitySettings
    auths: Mapping[str, UpstreamAuth]
    identity: ClientIdentity
    discovery: Discovery
    registrations: Registrations
    tokens: TokenClient
    grants: UpstreamGrants
    asks: Asks
    legs: Legs
    signer: DPoPSigner
    sign_in: SignIn
    sessions: LoginSessions
    transactions: Transactions
    throttle: Throttle
    pages: Pages
    clock: Clock
    ids: Ids
    record: Record


class ConnectPages:
    """The pages."""

    def __init__(self, parts: ConnectParts) -> None:
        self._parts = parts
        self._origin = parts.settings.public_url
        self._auths = {name: auth for name, auth in parts.auths.items() if "user" in auth.ways}
        self._cookie = parts.settings.cookie(COOKIE)

    @property
    def routes(self) -> Mapping[str, Mapping[str, Handler]]:
        """The exact paths: two per upstream that people connect accounts at."""
        found: dict[str, Mapping[str, Handler]] = {}
        for name in self._auths:
            found[CONNECT + name] = {"GET": partial(self.ask, name), "POST": partial(self.begin, name)}
            found[CALLBACK + name] = {"GET": partial(self.back, name)}
        return found

    # -- GET and POST /upstream/connect/<name> -----------------------------------------------------------

    async def ask(self, name: str, request: WebRequest) -> FixedReply:
        """Show what is about to be connected, to whom it is about; sign in first.

        The link that a program got names the asking, since nothing but an address goes from a program to a browser. From
        here on the forms carry it, and over a sign-in a cookie of this browser (AS-24).
        """
        try:
            ask_id = oauth.parse_form(request.query).get("ask")
        except OAuthError:
            return self._say("ended", 400)
        session = self._parts.sessions.read(request)
        if session is None:
            if ask_id and not (ask_id.isascii() and ask_id.replace("_", "").isalnum()):
                return self._say("ended", 400)
            # Remembered by this browser, so that a sign-in leads back: an address never comes from a request.
            secure = self._parts.settings.secure
            header = set_cookie(self._cookie, f"{name}.{ask_id}", secure=secure, max_age_s=SIGN_IN_S)
            return self._parts.sign_in.page(None, to="upstreams", headers=(header,))
        remembered, _, kept = request.cookies.get(self._cookie, "").partition(".")
        gone: tuple[tuple[bytes, bytes], ...] = ()
        if remembered == name:
            ask_id = ask_id or kept
            gone = (set_cookie(self._cookie, "", secure=self._parts.settings.secure, max_age_s=0),)
        ask = self._parts.asks.find(ask_id)
        problem = self._problem(name, session, ask_id, ask)
        if problem:
            return self._say(problem, 403, gone)
        try:
            found = await self._parts.discovery.find(name, self._auths[name])
        except UpstreamFault as error:
            return self._unavailable(name, error, gone)
        return self._page(name, session, ask, found, gone)

    async def begin(self, name: str, request: WebRequest) -> FixedReply:
        """Send a person who agreed to the upstream's authorization server."""
        parts = self._parts
        form = read_post(request, self._origin, parts.pages)
        if isinstance(form, FixedReply):
            return form
        session = parts.sessions.read(request)
        ask_id = form.get("ask")
        if session is None or not check_form_token(session.form_secret, _purpose(name, ask_id), form.get("csrf")):
            return message(parts.pages, "signed_out", 403)
        if not parts.throttle.allow("upstream", request.client_ip, per_minute=PER_MINUTE):
            return message(parts.pages, "busy", 429)
        if form.get("decision") != "approve":
            return redirect_reply(ACCOUNT)
        ask = parts.asks.find(ask_id)
        problem = self._problem(name, session, ask_id, ask)
        if problem:
            return self._say(problem, 403)
        auth = self._auths[name]
        try:
            found = await parts.discovery.find(name, auth)
            self._check(name, auth, found)
            client = await parts.registrations.client(name, auth, found.server)
        except UpstreamFault as error:
            return self._unavailable(name, error)
        scopes = _scopes(auth, found, ask)
        user = session.user
        place = Place(user.tenant, user.subject, name, found.resource, found.server.issuer, client.client_id)
        state, challenge, cookie = parts.legs.begin(session, place, scopes)
        location = authorization_url(
            found,
            client,
            redirect_uri=parts.identity.redirect_uri(name),
            state=state,
            challenge=challenge,
            scopes=scopes,
            send_resource=auth.send_resource,
            parameters=dict(auth.parameters) | self._bound(name, session, found),
        )
        self._note("identity.upstream.begun", session, name, issuer=found.server.issuer)
        return redirect_reply(location, headers=(cookie,))

    # -- GET /upstream/callback/<name> ---------------------------------------------------------------------

    async def back(self, name: str, request: WebRequest) -> FixedReply:
        """Take the answer of an upstream's authorization server, once."""
        parts = self._parts
        try:
            form = oauth.parse_form(request.query)
            oauth.refuse_repeated(form)
        except OAuthError:
            return self._say("ended", 400)
        session = parts.sessions.read(request)
        leg = parts.legs.end(request, form.get("state"), session, name)
        if leg is None or session is None:
            return self._say("ended", 403)
        headers = (parts.legs.expired_cookie(leg),)
        auth, issuer = self._auths[name], leg.place.issuer
        try:
            found = await parts.discovery.find(name, auth)
            # Judged by whom we asked, before anything else that it says is read (RFC 9207; CL-06).
            if found.server.issuer != issuer or not is_issuer(form.get("iss"), found.server):
                self._note("identity.upstream.mixed_up", session, name, issuer=issuer)
                return self._failed("foreign", name, Why(host_of(issuer), "upstream_malformed"), 403, headers)
            if form.get("error") or not form.get("code"):
                told = Why(host_of(issuer), "upstream_credentials", authorization_error(form.get("error")))
                self._note("identity.upstream.denied", session, name, issuer=issuer, code=told.error)
                return self._failed("refused", name, told, 403, headers)
            client = parts.registrations.known(name, auth, found.server)
            if client is None or client.client_id != leg.place.client_id:
                return self._say("ended", 403, headers)
            reply = await parts.tokens.ask(
                found.server,
                client,
                {
                    "grant_type": "authorization_code",
                    "code": form.get("code"),
                    "redirect_uri": parts.identity.redirect_uri(name),
                    "code_verifier": leg.verifier,
                    "resource": found.resource if auth.send_resource else "",
                },
                network=auth.network,
                ca_file=auth.ca_file,
                bound=(leg.place.tenant, name) if found.binds(auth) else None,
            )
        except TokenRefused as error:
            self._note("identity.upstream.denied", session, name, issuer=issuer, code=error.code)
            return self._failed("refused", name, why(issuer, error), 403, headers)
        except UpstreamFault as error:
            return self._unavailable(name, error, headers, issuer=issuer)
        # Their server had its time to answer. Who was signed out, ended or removed meanwhile keeps nothing there.
        still = parts.sessions.read(request)
        if still is None or still.session_id != leg.session_id:
            return self._say("ended", 403, headers)
        # First the record: where none can be written, nothing is kept (OP-06).
        self._note("identity.upstream.linked", session, name, issuer=issuer)
        now_us = parts.clock.now_us()
        parts.grants.link(
            UpstreamGrant(
                leg.place,
                parts.ids.new("ug"),
                reply.access_token,
                reply.refresh_token,
                now_us,
                now_us + reply.expires_in * SECOND_US if reply.expires_in else 0,
                reply.scopes or leg.scopes,
                now_us,
                reply.token_type,
            )
        )
        return self._say("connected", 200, headers)

    # -- inside ----------------------------------------------------------------------------------------------

    def _problem(self, name: str, session: LoginSession, ask_id: str, ask: Ask | None) -> str:
        """Return why this person may not follow this link, "" when nothing speaks against it."""
        if not self._auths[name].serves(session.user.tenant):
            return "other"
        if not ask_id:
            return ""
        if ask is None or ask.upstream != name:
            return "ended"
        return "" if (ask.tenant, ask.subject) == (session.user.tenant, session.user.subject) else "other"

    def _check(self, name: str, auth: UpstreamAuth, found: Found) -> None:
        server = found.server
        if not server.authorization_endpoint:
            raise UpstreamFault("credentials", f"{name}: its authorization server has no authorization endpoint")
        if not server.s256 and not auth.s256_assumed:
            raise UpstreamFault(
                "credentials",
                f"{name}: its authorization server does not say that it knows S256",
                fix=f"if it does, set auth.s256_assumed of {name}",
            )

    def _bound(self, name: str, session: LoginSession, found: Found) -> dict[str, str]:
        """Return what binds the code to our key from the start (RFC 9449 §10)."""
        if not found.binds(self._auths[name]):
            return {}
        return {"dpop_jkt": self._parts.signer.thumbprint(session.user.tenant, name)}

    def _page(
        self,
        name: str,
        session: LoginSession,
        ask: Ask | None,
        found: Found,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> FixedReply:
        auth = self._auths[name]
        ask_id = ask.ask_id if ask else ""
        client = urlsplit(ask.client_id).hostname or clean_name(ask.client_id) if ask else ""
        html = self._parts.pages.render(
            "connect",
            title=auth.title or name,
            host=urlsplit(auth.url).netloc,
            issuer=urlsplit(found.server.issuer).netloc,
            scopes=_scopes(auth, found, ask),
            client=client,
            user=session.user.shown,
            action=CONNECT + name,
            ask=ask_id,
            csrf=self._parts.transactions.form_token(session.form_secret, _purpose(name, ask_id)),
        )
        return page_reply(html, headers=headers, scripted=True)  # ours, which arms the button

    def _say(self, reason: str, status: int, headers: tuple[tuple[bytes, bytes], ...] = ()) -> FixedReply:
        title, text = _WORDS[reason]
        return page_reply(self._parts.pages.render("message", title=title, text=text), status, headers=headers)

    def _failed(
        self, reason: str, name: str, told: Why, status: int, headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> FixedReply:
        """Return the page that says who refused, and why."""
        (title, text), auth = _WORDS[reason], self._auths[name]
        html = self._parts.pages.render(
            "unconnected", title=title, text=text, upstream=auth.title or name, host=host_of(auth.url), why=told
        )
        return page_reply(html, status, headers=headers)

    def _unavailable(
        self, name: str, error: UpstreamFault, headers: tuple[tuple[bytes, bytes], ...] = (), *, issuer: str = ""
    ) -> FixedReply:
        facts = {"upstream": name, "code": error.code, "detail": error.detail, "fix": error.fix}
        self._parts.record("identity.upstream.failed", {k: v for k, v in facts.items() if v})
        return self._failed("unavailable", name, why(issuer or self._auths[name].issuer, error), 502, headers)

    def _note(self, event: str, session: LoginSession, name: str, *, issuer: str, code: str = "") -> None:
        """Record what became of a sign-in. code: the other server's OAuth error, a registered one."""
        user = session.user
        facts: JSONObject = {"tenant": user.tenant, "sub": user.subject, "sid": session.session_id}
        self._parts.record(event, {**facts, "upstream": name, "issuer": issuer, **({"code": code} if code else {})})


def _purpose(name: str, ask_id: str) -> str:
    return f"connect\0{name}\0{ask_id}"


def _scopes(auth: UpstreamAuth, found: Found, ask: Ask | None) -> tuple[str, ...]:
    """Return what is asked for: what an operator wrote down, else what the upstream named, and what a call lacked."""
    return tuple(dict.fromkeys((*(auth.scopes or found.scopes), *(ask.scopes if ask else ()))))[: oauth.SCOPES]
