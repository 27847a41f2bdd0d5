"""``/authorize``, ``/login``, ``/consent``: from a client's request to a code, through a person.

    GET /authorize ──▶ login page ──POST /login──▶ GET /consent ──▶ consent page ──POST /consent──▶ client
          │                                             │
          └── signed in already ────────────────────────┴── agreed before, on one's own initiative ──▶ client

Client and redirect URI are judged first: while one of them is wrong, nobody is redirected anywhere
(AS-01). From then on every answer, errors too, carries ``state`` and ``iss`` (AS-08, RFC 9207).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from firewall.core.errors import Malformed
from firewall.core.permit import FixedReply
from firewall.core.ports import Clock, Ids
from firewall.identity.clients.registry import Client, Clients
from firewall.identity.oauth21.codes import CodeFacts, Codes
from firewall.identity.people.consents import Consents
from firewall.identity.people.pages import Pages, clean_name, is_mixed_script, scope_words
from firewall.identity.people.sessions import LoginSession, LoginSessions
from firewall.identity.people.transactions import Transaction, Transactions, check_form_token
from firewall.identity.people.users import Users
from firewall.identity.records import SECOND_US
from firewall.identity.resources import Resources
from firewall.identity.settings import IdentitySettings, Record
from firewall.identity.standing import Standing
from firewall.identity.throttle import Throttle
from firewall.identity.web import WebRequest, page_reply, redirect_reply
from firewall.wire import oauth
from firewall.wire.oauth import AuthorizationRequest, Form, OAuthError

PASSWORD_ACR = "pwd"  # noqa: S105 - an authentication context
OWN_INITIATIVE = (b"none", b"same-origin")

_REASONS = {
    "client": "The program that sent you here is not known, or its description could not be read.",
    "redirect": "The program that sent you here wants to be answered at an address it has not registered.",
    "request": "The request is not complete or repeats itself. Start again from your program.",
    "ended": "This request has ended or was started in another browser. Start again from your program.",
    "origin": "This form was not sent from our own page. Start again from your program.",
    "busy": "Too many requests. Wait a minute, then start again from your program.",
    "nothing": "Nothing was selected. Go back and choose at least one permission, or deny.",
}


@dataclass(frozen=True, slots=True)
class AuthorizeParts:
    """What the pages work with."""

    settings: IdentitySettings
    resources: Resources
    clients: Clients
    users: Users
    sessions: LoginSessions
    transactions: Transactions
    consents: Consents
    codes: Codes
    standing: Standing
    throttle: Throttle
    pages: Pages
    clock: Clock
    ids: Ids
    record: Record


class Authorization:
    """The interactive part of the authorization server."""

    def __init__(self, parts: AuthorizeParts) -> None:
        self._parts = parts
        self._issuer = parts.settings.public_url

    # -- GET /authorize ----------------------------------------------------------------------------

    async def authorize(self, request: WebRequest) -> FixedReply:
        """Judge a new request and show the first page it needs."""
        parts = self._parts
        if not parts.throttle.allow("authorize", request.client_ip, per_minute=parts.settings.authorize_per_minute):
            return self._message("busy", 429)
        try:
            form = oauth.parse_form(request.query)
            client_id, redirect_uri = oauth.parse_identity(form)
        except OAuthError:
            return self._message("request", 400)
        try:
            client = await parts.clients.find(client_id)
        except Malformed as error:
            parts.record("identity.client.refused", {"code": error.code, "detail": error.detail})
            client = None
        if client is None:
            return self._message("client", 400)
        if not oauth.redirect_matches(client.redirect_uris, redirect_uri):
            return self._message("redirect", 400)
        try:
            asked = self._checked(form, client)
        except OAuthError as error:
            return self._error_redirect(redirect_uri, _safe_state(form), error.error)
        own = request.headers.get(b"sec-fetch-site") in OWN_INITIATIVE
        transaction, cookie = parts.transactions.open(asked, cross_site=not own)
        return await self._step(request, transaction, client, headers=(cookie,))

    def _checked(self, form: Form, client: Client) -> AuthorizationRequest:
        asked = oauth.parse_authorization_request(form)
        if "authorization_code" not in client.grant_types:
            raise OAuthError("unauthorized_client", "grant_type")
        resource = oauth.check_resource(asked.resource, self._parts.resources.by_uri)
        known = self._parts.resources.by_uri[resource]
        wanted = tuple(s for s in asked.scope if s != "offline_access") or known.default_scopes
        scopes = oauth.intersect(wanted, known.scopes, client.scopes)
        if not scopes:
            raise OAuthError("invalid_scope", "scope_empty")
        return replace(asked, resource=resource, scope=scopes)

    # -- POST /login -----------------------------------------------------------------------------------

    async def login(self, request: WebRequest) -> FixedReply:
        """Check name and password; a new session begins."""
        parts = self._parts
        form, problem = self._posted(request)
        if form is None:
            return problem
        txn_id = form.get("txn")
        transaction = parts.transactions.read(request, txn_id)
        if txn_id and transaction is None:
            return self._message("ended", 403)
        if transaction and not check_form_token(transaction.secret, f"login\0{txn_id}", form.get("csrf")):
            return self._message("ended", 403)
        name, address = form.get("username").strip().lower(), request.client_ip
        allowed = parts.throttle.allow("login", address, per_minute=parts.settings.login_per_minute)
        wait_s = parts.throttle.wait_s(name, address)
        if not allowed or wait_s:
            parts.record("identity.login.delayed", {"wait_s": wait_s})
            return self._message("busy", 429, headers=((b"retry-after", str(wait_s or 60).encode()),))
        user = await parts.users.verify(name, form.get("password"))
        if user is None:
            parts.throttle.failed(name, address)
            parts.record("identity.login.failed", {})
            return await self._login_page(transaction, error="The user name or the password is not right.", status=403)
        parts.throttle.succeeded(name, address)
        session, cookie = parts.sessions.open(request, user, acr=PASSWORD_ACR)
        if transaction:
            parts.transactions.note_sign_in(transaction, session.session_id)
        parts.record("identity.login", {"tenant": user.tenant, "sub": user.subject, "acr": PASSWORD_ACR})
        return redirect_reply(f"/consent?txn={txn_id}" if transaction else "/account/grants", headers=(cookie,))

    # -- GET and POST /consent ---------------------------------------------------------------------------

    async def consent(self, request: WebRequest) -> FixedReply:
        """Show what is asked, or go on where the person agreed before."""
        try:
            transaction = self._parts.transactions.read(request, oauth.parse_form(request.query).get("txn"))
        except OAuthError:
            transaction = None
        client = await self._client_of(transaction)
        if transaction is None or client is None:
            return self._message("ended", 403)
        return await self._step(request, transaction, client)

    async def decide(self, request: WebRequest) -> FixedReply:
        """Take the person's decision, once."""
        parts = self._parts
        form, problem = self._posted(request)
        if form is None:
            return problem
        transaction = parts.transactions.read(request, form.get("txn"))
        session = parts.sessions.read(request)
        client = await self._client_of(transaction)
        if transaction is None or session is None or client is None or self._login_needed(session, transaction):
            return self._message("ended", 403)
        if not check_form_token(transaction.secret, _purpose(transaction, session), form.get("csrf")):
            return self._message("ended", 403)
        if form.get("decision") != "approve":
            if not parts.transactions.take(transaction):
                return self._message("ended", 403)
            self._recorded("identity.consent.denied", transaction, session, ())
            return self._error_redirect(
                transaction.request.redirect_uri,
                transaction.request.state,
                "access_denied",
                headers=(parts.transactions.expired_cookie(transaction),),
            )
        chosen = {value for name, value in form.values.items() if name.startswith("scope.")}
        scopes = tuple(s for s in self._offered(session, transaction, client) if s in chosen)
        if not scopes:
            return self._message("nothing", 400)
        if not parts.transactions.take(transaction):
            return self._message("ended", 403)
        parts.consents.save(session.user, client, transaction.request, scopes)
        self._recorded("identity.consent.given", transaction, session, scopes)
        return self._code_redirect(transaction, session, client, scopes)

    # -- one step further -------------------------------------------------------------------------------

    async def _step(
        self,
        request: WebRequest,
        transaction: Transaction,
        client: Client,
        *,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> FixedReply:
        """Return the next page of a transaction, or its end."""
        parts = self._parts
        asked = transaction.request
        session = parts.sessions.read(request)
        silent = "none" in asked.prompt
        if session is None or self._login_needed(session, transaction):
            if silent:
                return self._end(transaction, "login_required")
            return await self._login_page(transaction, headers=headers)
        scopes = self._offered(session, transaction, client)
        if not scopes:
            return self._end(transaction, "access_denied")
        agreed = client.first_party or parts.consents.covers(session.user, client, asked, scopes)
        own = not transaction.cross_site and request.headers.get(b"sec-fetch-site") in OWN_INITIATIVE
        if agreed and own and "consent" not in asked.prompt and parts.transactions.take(transaction):
            return self._code_redirect(transaction, session, client, scopes)
        if silent:
            return self._end(transaction, "consent_required")
        return self._consent_page(transaction, session, client, scopes, headers)

    def _offered(self, session: LoginSession, transaction: Transaction, client: Client) -> tuple[str, ...]:
        """Return the scopes this person may give this client here: () when nothing is left."""
        known = self._parts.resources.by_uri.get(transaction.request.resource)
        user = session.user
        if known is None or (known.tenants and user.tenant not in known.tenants):
            return ()
        if client.tenant not in ("", user.tenant):
            return ()
        return oauth.intersect(transaction.request.scope, known.scopes, client.scopes, user.scopes)

    def _login_needed(self, session: LoginSession, transaction: Transaction) -> bool:
        asked = transaction.request
        if session.session_id == transaction.signed_in:
            return False
        if asked.prompt & {"login", "select_account"}:
            return True
        now_s = self._parts.clock.now_us() // SECOND_US
        return 0 <= asked.max_age <= now_s - session.auth_time

    def _posted(self, request: WebRequest) -> tuple[Form | None, FixedReply]:
        """Return the form of a POST that our own page sent, else None and what to answer."""
        if not request.is_same_origin(self._issuer):
            return None, self._message("origin", 403)
        try:
            form = request.form()
            oauth.refuse_repeated(form)
        except OAuthError:
            return None, self._message("request", 400)
        return form, self._message("request", 400)

    async def _client_of(self, transaction: Transaction | None) -> Client | None:
        if transaction is None:
            return None
        try:
            return await self._parts.clients.find(transaction.request.client_id, allow_stale=True)
        except Malformed:
            return None

    # -- replies ------------------------------------------------------------------------------------------

    async def _login_page(
        self,
        transaction: Transaction | None,
        *,
        error: str = "",
        status: int = 200,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> FixedReply:
        client = await self._client_of(transaction)
        html = self._parts.pages.render(
            "login",
            txn=transaction.txn_id if transaction else "",
            csrf=self._parts.transactions.form_token(transaction.secret, f"login\0{transaction.txn_id}")
            if transaction
            else "",
            client=_identity(client) if client else "",
            error=error,
        )
        return page_reply(html, status, headers=headers)

    def _consent_page(
        self,
        transaction: Transaction,
        session: LoginSession,
        client: Client,
        scopes: tuple[str, ...],
        headers: Sequence[tuple[bytes, bytes]],
    ) -> FixedReply:
        claimed = clean_name(client.name) if client.host else ""
        asked = transaction.request
        html = self._parts.pages.render(
            "consent",
            identity=_identity(client),
            claimed=claimed,
            mixed=is_mixed_script(claimed),
            loopback=client.loopback_only,
            user=session.user.name,
            resource=asked.resource,
            resource_title=self._parts.resources.by_uri[asked.resource].title,
            redirect_host=oauth.redirect_host(asked.redirect_uri),
            txn=transaction.txn_id,
            csrf=self._parts.transactions.form_token(transaction.secret, _purpose(transaction, session)),
            scopes=[{"id": s, "words": scope_words(s)} for s in scopes],
            lasting="refresh_token" in client.grant_types,
        )
        return page_reply(html, headers=headers)

    def _code_redirect(
        self, transaction: Transaction, session: LoginSession, client: Client, scopes: tuple[str, ...]
    ) -> FixedReply:
        asked, user = transaction.request, session.user
        standing = self._parts.standing.of(user.tenant, user.subject, asked.resource, scopes)
        code = self._parts.codes.issue(
            CodeFacts(
                tenant=user.tenant,
                subject=user.subject,
                client_id=client.client_id,
                client_name=clean_name(client.name),
                redirect_uri=asked.redirect_uri,
                code_challenge=asked.code_challenge,
                resource=asked.resource,
                scopes=scopes,
                grant_id=self._parts.ids.new("g"),
                session_id=session.session_id,
                auth_time=session.auth_time,
                acr=session.acr,
                standing=standing,
            )
        )
        location = oauth.build_redirect(asked.redirect_uri, {"code": code, "state": asked.state, "iss": self._issuer})
        return redirect_reply(location, headers=(self._parts.transactions.expired_cookie(transaction),))

    def _end(self, transaction: Transaction, error: str) -> FixedReply:
        self._parts.transactions.take(transaction)
        asked = transaction.request
        cookie = self._parts.transactions.expired_cookie(transaction)
        return self._error_redirect(asked.redirect_uri, asked.state, error, headers=(cookie,))

    def _error_redirect(
        self, redirect_uri: str, state: str, error: str, *, headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> FixedReply:
        location = oauth.build_redirect(redirect_uri, {"error": error, "state": state, "iss": self._issuer})
        return redirect_reply(location, headers=headers)

    def _message(self, reason: str, status: int, *, headers: Sequence[tuple[bytes, bytes]] = ()) -> FixedReply:
        html = self._parts.pages.render("message", title="This cannot go on", text=_REASONS[reason])
        return page_reply(html, status, headers=headers)

    def _recorded(self, event: str, transaction: Transaction, session: LoginSession, scopes: tuple[str, ...]) -> None:
        self._parts.record(
            event,
            {
                "tenant": session.user.tenant,
                "sub": session.user.subject,
                "client_id": transaction.request.client_id,
                "resource": transaction.request.resource,
                "scope": " ".join(scopes),
            },
        )


def _purpose(transaction: Transaction, session: LoginSession) -> str:
    # Bound to the session too: a form rendered for one person cannot be sent as another.
    return f"consent\0{transaction.txn_id}\0{session.session_id}"


def _identity(client: Client) -> str:
    return client.host or clean_name(client.name)


def _safe_state(form: Form) -> str:
    try:
        return oauth.check_state(form.get("state"))
    except OAuthError:
        return ""
