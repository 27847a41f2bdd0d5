"""``/authorize`` and ``/consent``: from a client's request to a code, through a person.

    GET /authorize ──▶ sign-in pages ──▶ GET /consent ──▶ consent page ──POST /consent──▶ client
          │                                    │
          └── signed in already ───────────────┴── agreed before, on one's own initiative ──▶ client

Client and redirect URI are judged first: while one of them is wrong, nobody is redirected anywhere
(AS-01). From then on every answer, errors too, carries ``state`` and ``iss`` (AS-08, RFC 9207). To a web site that a
stranger named nobody is sent before they have signed in here, or for a mistake in the request (RFC 9700 §4.11.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import FixedReply
from firewall.core.ports import Clock, Ids
from firewall.core.tool_details import ToolDetail
from firewall.identity.cimd.logos import Logos
from firewall.identity.client_limits import ClientLimits
from firewall.identity.clients.registry import Client, Clients
from firewall.identity.clients.stranger import stranger
from firewall.identity.oauth21 import events
from firewall.identity.oauth21.codes import CodeFacts, Codes
from firewall.identity.people.consent_page import ConsentView, chosen, consent_page, shown_identity
from firewall.identity.people.consents import Consents
from firewall.identity.people.messages import leaving, message, read_post
from firewall.identity.people.offers import offered_scopes
from firewall.identity.people.pages import Pages, clean_name
from firewall.identity.people.raising import AGAIN, raise_page, way_up
from firewall.identity.people.second_factor import SecondFactors
from firewall.identity.people.sessions import LoginSession, LoginSessions
from firewall.identity.people.several import choosing, several_page
from firewall.identity.people.sign_in import SignIn
from firewall.identity.people.transactions import Transaction, Transactions, check_form_token
from firewall.identity.people.users import Users
from firewall.identity.records import SECOND_US
from firewall.identity.resources import Resources
from firewall.identity.rfc9126.par import PushedRequests
from firewall.identity.rfc9396.requested import details_json, details_text, read_details
from firewall.identity.rfc9470 import levels
from firewall.identity.run_tokens.runs import RUN_SCOPE, Runs, asks_for_run
from firewall.identity.settings import IdentitySettings, Noted, Record
from firewall.identity.standing import Standing
from firewall.identity.web import WebRequest, redirect_reply
from firewall.wire import oauth
from firewall.wire.oauth import AuthorizationRequest, Form, OAuthError

OWN_INITIATIVE = (b"none", b"same-origin")


@dataclass(frozen=True, slots=True)
class AuthorizeParts:
    """What the pages work with."""

    settings: IdentitySettings
    resources: Resources
    clients: Clients
    sign_in: SignIn
    runs: Runs
    sessions: LoginSessions
    transactions: Transactions
    consents: Consents
    codes: Codes
    pushed: PushedRequests
    logos: Logos
    standing: Standing
    limits: ClientLimits
    pages: Pages
    users: Users
    factors: SecondFactors
    clock: Clock
    ids: Ids
    record: Record
    noted: Noted


class Authorization:
    """The interactive part of the authorization server."""

    def __init__(self, parts: AuthorizeParts) -> None:
        self._parts = parts
        self._issuer = parts.settings.public_url

    # -- GET /authorize ----------------------------------------------------------------------------

    async def authorize(self, request: WebRequest) -> FixedReply:
        """Judge a new request and show the first page it needs."""
        parts = self._parts
        try:
            form: Form | None = oauth.parse_form(request.query)
        except OAuthError:
            form = None
        per_minute = parts.settings.authorize_per_minute
        if not parts.limits.admits("authorize", form, request.client_ip, per_minute=per_minute):
            return message(parts.pages, "busy", 429)
        if form is None:
            return message(parts.pages, "request", 400)
        pushed, name = form.get("request_uri"), form.get("client_id")
        begun = parts.transactions.begun_by(request, pushed, name)
        if begun is not None and (client := await self._client_of(begun)) is not None:
            return await self._step(request, begun, client)  # loaded again
        try:
            if pushed:
                form = parts.pushed.take(pushed, name)
            client_id, redirect_uri = oauth.parse_identity(form)
        except OAuthError as error:
            facts: JSONObject = {"error": error.error, "code": error.code, **stranger(name)}
            parts.noted("identity.authorize.refused", request.client_ip, facts)
            return message(parts.pages, "pushed" if error.code == "pushed_unknown" else "request", 400)
        try:
            client = await parts.clients.find(client_id, address=request.client_ip)
        except Malformed as error:
            facts = {"code": error.code, "detail": error.detail, **stranger(client_id)}
            parts.noted("identity.client.refused", request.client_ip, facts)
            return message(parts.pages, "client", 400)
        if client is None:
            facts = {"code": "client_unknown", **stranger(client_id)}
            parts.noted("identity.client.refused", request.client_ip, facts)
            return message(parts.pages, "client", 400)
        if not oauth.redirect_matches(client.redirect_uris, redirect_uri):
            self._refused(request, client.client_id, "invalid_request", "redirect_unknown")
            return message(parts.pages, "redirect", 400)
        try:
            if client.pushed_only and not pushed:
                raise OAuthError("invalid_request", "pushed_missing")
            asked = self.checked(form, client)
        except OAuthError as error:
            self._refused(request, client.client_id, error.error, error.code)
            if client.sends_astray(redirect_uri):
                return message(parts.pages, "request", 400)
            return self._told(client, redirect_uri, _safe_state(form), error.error)
        own = _is_own_doing(request)
        transaction, cookie = parts.transactions.open(
            asked, cross_site=not own, address=request.client_ip, request_uri=pushed
        )
        return await self._step(request, transaction, client, headers=(cookie, *parts.transactions.surplus(request)))

    def checked(self, form: Form, client: Client) -> AuthorizationRequest:
        """Return what a known client asks for, here or at `/par`. Raises OAuthError, to be told to the client."""
        asked = oauth.parse_authorization_request(form)
        if "authorization_code" not in client.grant_types:
            raise OAuthError("unauthorized_client", "grant_type")
        resource = oauth.check_resource(asked.resource, self._parts.resources.by_uri)
        known = self._parts.resources.by_uri[resource]
        run, permissions = asks_for_run(levels.permissions(asked.scope))
        wanted = tuple(s for s in permissions if s != "offline_access") or known.default_scopes
        scopes = oauth.intersect(wanted, known.scopes, client.scopes)
        if not scopes:
            raise OAuthError("invalid_scope", "scope_empty")
        details = details_text(read_details(asked.authorization_details, resource))
        scope = (*scopes, *levels.steps(asked.scope))
        asked = replace(asked, resource=resource, scope=scope, authorization_details=details)
        return anew(asked) if run else asked

    # -- GET and POST /consent ---------------------------------------------------------------------------

    async def consent(self, request: WebRequest) -> FixedReply:
        """Show what is asked, or go on where the person agreed before.

        Which request it is about stands in a cookie, not in the address (AS-24). A page that is loaded again has none:
        it shows the one request that this browser has under way, or lets the person say which of several.
        """
        transactions = self._parts.transactions
        txn_id, gone = transactions.arrived(request)
        found = [transactions.read(request, txn_id)] if txn_id else transactions.under_way(request)
        if len(found) > 1:
            return await self._several([each for each in found if each is not None])
        transaction = found[0] if found else None
        client = await self._client_of(transaction)
        if transaction is None or client is None:
            return message(self._parts.pages, "ended", 403, headers=gone)
        reply = await self._step(request, transaction, client)
        return FixedReply(reply.status, (*reply.headers, *gone), reply.body)

    async def _several(self, found: list[Transaction]) -> FixedReply:
        parts, rows = self._parts, []
        for each in found:
            asked = each.request
            # Whoever describes itself is told by its host: nothing is fetched for a list.
            host = urlsplit(asked.client_id).hostname if asked.client_id.startswith("https://") else ""
            client = None if host else await self._client_of(each)
            known = parts.resources.by_uri.get(asked.resource)
            shown = host or (shown_identity(client) if client else "")
            rows.append((each, shown, known.title if known else ""))
        return several_page(parts.pages, parts.transactions, rows)

    async def decide(self, request: WebRequest) -> FixedReply:
        """Take the person's decision, once."""
        parts = self._parts
        form = read_post(request, self._issuer, parts.pages)
        if isinstance(form, FixedReply):
            return form
        transaction = parts.transactions.read(request, form.get("txn"))
        if transaction is not None and form.get("decision") == "show":
            if not check_form_token(transaction.secret, choosing(transaction), form.get("csrf")):
                return message(parts.pages, "ended", 403)
            return redirect_reply("/consent", headers=(parts.transactions.onward(transaction),))
        client = await self._client_of(transaction)
        # Read after the wait, which a client's host may draw out: who was ended meanwhile decides nothing.
        session = parts.sessions.read(request)
        if transaction is None or session is None or client is None:
            return message(parts.pages, "ended", 403)
        if form.get("decision") == "back":
            if not check_form_token(transaction.secret, _giving_up(transaction, session), form.get("csrf")):
                return message(parts.pages, "ended", 403)
            return self._end(request, transaction, session, client, "unmet_authentication_requirements")
        if self._unfit(session, transaction):
            return message(parts.pages, "ended", 403)
        if not check_form_token(transaction.secret, _purpose(transaction, session, client), form.get("csrf")):
            return message(parts.pages, "ended", 403)
        if form.get("decision") != "approve":
            if not parts.transactions.take(transaction):
                return message(parts.pages, "ended", 403)
            parts.record("identity.consent.denied", events.decided(transaction, session, ()))
            return self._told(
                client,
                transaction.request.redirect_uri,
                transaction.request.state,
                "access_denied",
                headers=(parts.transactions.expired_cookie(transaction),),
            )
        choice = chosen(form, self._offered(session, transaction, client), _details(transaction))
        if choice is None:
            return message(parts.pages, "nothing", 400)
        if not parts.transactions.take(transaction):
            return message(parts.pages, "ended", 403)
        scopes, details = choice
        parts.consents.save(session.user, client, transaction.request, scopes, details)
        parts.record("identity.consent.given", events.decided(transaction, session, scopes))
        return self._code_redirect(request, transaction, session, client, scopes, details)

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
        if not oauth.redirect_matches(client.redirect_uris, asked.redirect_uri):
            return message(parts.pages, "redirect", 400)  # its document changed on the way
        session = parts.sessions.read(request)
        silent = "none" in asked.prompt
        if session is None or self._unfit(session, transaction):
            if session is not None and session.session_id == transaction.signed_in:
                # Asked once already: another try would be answered the same way (RFC 9470 §5), unless it is told how.
                way = "none" if silent else way_up(asked, session, parts.users, parts.factors)
                shown = shown_identity(client)
                if way == "again":
                    return parts.sign_in.page(transaction, client=shown, note=AGAIN, headers=headers)
                if way != "none":
                    csrf = parts.transactions.form_token(transaction.secret, _giving_up(transaction, session))
                    return raise_page(parts.pages, way, client=shown, txn=transaction.txn_id, csrf=csrf)
                return self._end(request, transaction, session, client, "unmet_authentication_requirements")
            if silent and session is None and client.sends_astray(asked.redirect_uri):
                parts.transactions.take(transaction)
                return message(parts.pages, "request", 400)
            if silent:
                return self._end(request, transaction, session, client, "login_required")
            return parts.sign_in.page(transaction, client=shown_identity(client), headers=headers)
        scopes = self._offered(session, transaction, client)
        if not scopes:
            return self._end(request, transaction, session, client, "access_denied", "scope_empty")
        details = _details(transaction)
        agreed = client.first_party or parts.consents.covers(session.user, client, asked, scopes, details)
        own = not transaction.cross_site and _is_own_doing(request)
        if agreed and own and "consent" not in asked.prompt and parts.transactions.take(transaction):
            return self._code_redirect(request, transaction, session, client, scopes, details)
        if silent:
            return self._end(request, transaction, session, client, "consent_required")
        view = ConsentView(
            client=client,
            user=session.user.shown,
            resource=asked.resource,
            resource_title=parts.resources.by_uri[asked.resource].title,
            lasts_s=parts.settings.refresh_lifetime_s,
            idle_s=parts.settings.refresh_idle_s,
            run_s=parts.settings.run_lifetime_s,
            scopes=scopes,
            details=details,
            action="/consent",
            csrf=parts.transactions.form_token(transaction.secret, _purpose(transaction, session, client)),
            hidden={"txn": transaction.txn_id},
            destination=oauth.redirect_host(asked.redirect_uri),
            run=RUN_SCOPE in asked.scope,
            logo=await parts.logos.path_for(client),
        )
        return consent_page(parts.pages, view, headers=headers)

    def _offered(self, session: LoginSession, transaction: Transaction, client: Client) -> tuple[str, ...]:
        """Return the scopes this person may give this client here: () when nothing is left."""
        asked = transaction.request
        return offered_scopes(asked.scope, self._parts.resources.by_uri.get(asked.resource), client, session.user)

    def _unfit(self, session: LoginSession, transaction: Transaction) -> bool:
        """Return whether the sign-in is not the one that is asked for: by age, strength, or ``prompt``."""
        asked = transaction.request
        known = self._parts.resources.by_uri.get(asked.resource)
        if known is None or not levels.strong_enough(asked, session.acr):
            return True
        longest_s = levels.longest_age_s(asked, known)
        if session.session_id == transaction.signed_in:
            # Begun for this very request. Where the person had proved it elsewhere, that must be fresh as well.
            since_s = transaction.created_s - session.auth_time - levels.LEEWAY_S
            return since_s > 0 and ("login" in asked.prompt or 0 <= longest_s < since_s)
        if asked.prompt & {"login", "select_account"}:
            return True
        return 0 <= longest_s <= self._parts.clock.now_us() // SECOND_US - session.auth_time

    async def _client_of(self, transaction: Transaction | None) -> Client | None:
        if transaction is None:
            return None
        try:
            return await self._parts.clients.find(transaction.request.client_id, allow_stale=True)
        except Malformed:
            return None

    # -- replies ------------------------------------------------------------------------------------------

    def _code_redirect(
        self,
        request: WebRequest,
        transaction: Transaction,
        session: LoginSession,
        client: Client,
        scopes: tuple[str, ...],
        details: tuple[ToolDetail, ...],
    ) -> FixedReply:
        asked, user = transaction.request, session.user
        cookie = self._parts.transactions.expired_cookie(transaction)
        try:
            begun = self._begun(transaction, session, client)
        except OAuthError as error:
            self._refused(request, client.client_id, error.error, error.code, transaction, session)
            return self._told(client, asked.redirect_uri, asked.state, error.error, headers=(cookie,))
        scopes = (*scopes, *levels.attained(asked.scope, session.acr))
        standing = self._parts.standing.of(user.tenant, user.subject, asked.resource, scopes)
        grant_id = self._parts.ids.new("g")
        # The one record that ties a sign-in to the grant which came of it.
        self._parts.record("identity.code.issued", events.decided(transaction, session, scopes, gid=grant_id))
        code = self._parts.codes.issue(
            CodeFacts(
                tenant=user.tenant,
                subject=user.subject,
                client_id=client.client_id,
                client_name=client.host or clean_name(client.name),
                redirect_uri=asked.redirect_uri,
                code_challenge=asked.code_challenge,
                resource=asked.resource,
                scopes=scopes,
                grant_id=grant_id,
                session_id=session.session_id,
                auth_time=session.auth_time,
                acr=session.acr,
                standing=standing,
                amr=session.amr,
                dpop_jkt=asked.dpop_jkt,
                authorization_details=details_json(details),
                run=begun,
            )
        )
        location = oauth.build_redirect(asked.redirect_uri, {"code": code, "state": asked.state, "iss": self._issuer})
        return redirect_reply(location, headers=(cookie,))

    def _begun(self, transaction: Transaction, session: LoginSession, client: Client) -> str:
        """Return the run that the person began with this request, "" for none.

        Whatever way led here: without a sign-in of this very transaction there is none (DESIGN §6b-1).
        Raises OAuthError: login_required, temporarily_unavailable.
        """
        if RUN_SCOPE not in transaction.request.scope:
            return ""
        if session.session_id != transaction.signed_in:
            raise OAuthError("login_required", "run_stale")
        user = session.user
        return self._parts.runs.begin(user.tenant, user.subject, client.client_id, by="person")

    def _end(
        self,
        request: WebRequest,
        transaction: Transaction,
        session: LoginSession | None,
        client: Client,
        error: str,
        code: str = "",
    ) -> FixedReply:
        self._parts.transactions.take(transaction)
        asked = transaction.request
        self._refused(request, asked.client_id, error, code, transaction, session)
        cookie = self._parts.transactions.expired_cookie(transaction)
        return self._told(client, asked.redirect_uri, asked.state, error, headers=(cookie,))

    def _told(
        self, client: Client, redirect_uri: str, state: str, error: str, *, headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> FixedReply:
        """Tell a client that it gets nothing (AS-08); through the person, where it is a web site of a stranger.

        Such a site gets nobody without their own doing unless they agreed to it, not even of those who are signed
        in and said no (RFC 9700 §4.11.2: rely on the user where the redirect URI is not trusted).
        """
        location = oauth.build_redirect(redirect_uri, {"error": error, "state": state, "iss": self._issuer})
        if client.sends_astray(redirect_uri):
            return leaving(self._parts.pages, location, oauth.redirect_host(redirect_uri), headers=headers)
        return redirect_reply(location, headers=headers)

    def _refused(
        self,
        request: WebRequest,
        client_id: str,
        error: str,
        code: str,
        transaction: Transaction | None = None,
        session: LoginSession | None = None,
    ) -> None:
        """Record what a known client was told: it shows its person a failure, and the reason stands here alone.

        Before anybody has signed in, whoever knows the name of a client can be refused as often as they like.
        """
        facts = events.refused(client_id, error, code, transaction, session)
        if session is not None:
            self._parts.record("identity.authorize.refused", facts)
        else:
            self._parts.noted("identity.authorize.refused", request.client_ip, facts)


def _is_own_doing(request: WebRequest) -> bool:
    """Return whether the person is here by their own doing (UI-02): a page fetched in advance is nobody's decision."""
    ahead = b"sec-purpose" in request.headers or b"purpose" in request.headers
    return not ahead and request.headers.get(b"sec-fetch-site") in OWN_INITIATIVE


def _purpose(transaction: Transaction, session: LoginSession, client: Client) -> str:
    # Bound to the session too: a form rendered for one person cannot be sent as another. And to what the client
    # said of itself: a document that changes after it was shown was not agreed to (UI-01).
    return f"consent\0{transaction.txn_id}\0{session.session_id}\0{client.digest}"


def _giving_up(transaction: Transaction, session: LoginSession) -> str:
    return f"weak\0{transaction.txn_id}\0{session.session_id}"


def anew(asked: AuthorizationRequest) -> AuthorizationRequest:
    """Return a request that begins a run: signed in for it and agreed to, whatever was agreed before.

    Raises OAuthError login_required, where nobody may be asked.
    """
    if "none" in asked.prompt:
        raise OAuthError("login_required", "run_silent")
    return replace(asked, scope=(*asked.scope, RUN_SCOPE), prompt=asked.prompt | {"login", "consent"})


def _details(transaction: Transaction) -> tuple[ToolDetail, ...]:
    return read_details(transaction.request.authorization_details, transaction.request.resource)


def _safe_state(form: Form) -> str:
    try:
        return oauth.check_state(form.get("state"))
    except OAuthError:
        return ""
