"""The relying party itself: out to a provider with a request, back with a person of ours; no pages (see `broker`).

Whoever has pages of an origin of ours uses it: the front door for people who sign in for a program, the
console for people who look after this node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlencode

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSONObject
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
from firewall.identity.oidc.provider_sessions import ProviderSessions
from firewall.identity.oidc.redemption import ProviderTokens, Redemption
from firewall.identity.oidc.settings import ENTRA_TENANT, ProviderSettings
from firewall.identity.people.users import User
from firewall.identity.records import SECOND_US
from firewall.identity.settings import Noted, Record
from firewall.identity.web import WebRequest
from firewall.wire import jwt
from firewall.wire.oauth import Form

# A provider that does not say when the person signed in may mean yesterday: never fresh, for any max_age.
LONG_AGO: Final = 1
CODE_CHARS: Final = 4096


@dataclass(frozen=True, slots=True)
class Wish:
    """What a sign-in should be like. prompt, max_age, acr_values: as in an authorization request (−1: any age)."""

    prompt: frozenset[str] = frozenset()
    max_age: int = -1
    login_hint: str = ""
    acr_values: tuple[str, ...] = ()

    def fresh_since(self, now_s: int) -> int:
        """Return since when the person must have signed in; -1 when any time will do."""
        if "login" in self.prompt:
            return now_s
        return now_s - self.max_age if self.max_age >= 0 else -1


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who came back. auth_time: Unix seconds; `LONG_AGO` when the provider does not say. acr: ours."""

    user: User
    acr: str
    amr: tuple[str, ...]
    auth_time: int
    id_token: str = field(repr=False)


# (person, verified claims, ID token): for whoever asks the provider for more in the person's name (`upstream.subjects`).
Kept = Callable[[User, JSONObject, str], None]


class RelyingParty:
    """Begins legs and ends them. providers: by name. kept: told of each sign-in, where set."""

    def __init__(
        self,
        providers: Sequence[Provider],
        legs: Legs,
        redemption: Redemption,
        people: ProviderPeople,
        offers: Offers,
        clock: Clock,
        record: Record,
        noted: Noted,
        sessions: ProviderSessions,
    ) -> None:
        self.sessions = sessions
        self.providers: Mapping[str, Provider] = {p.settings.name: p for p in providers}
        self.offers = offers
        self._legs = legs
        self._redemption = redemption
        self._people = people
        self._clock = clock
        self._record = record
        self._noted = noted
        self.kept: Kept | None = None

    async def begin(
        self, provider: Provider, origin: str, wish: Wish, *, address: str, txn: str = "", to: str = ""
    ) -> tuple[str, tuple[bytes, bytes]]:
        """Return where to send the browser, and the Set-Cookie header that ties the way to it.

        The caller has seen a person press a button on a page of ``origin``; address: theirs.
        Raises UpstreamFault("unreachable"), StateUnavailable.
        """
        settings = provider.settings
        metadata = await provider.metadata()
        fresh_since = wish.fresh_since(self._clock.now_us() // SECOND_US)
        leg, cookie = self._legs.open(origin, settings.name, address=address, txn=txn, to=to, fresh_since=fresh_since)
        self._noted("identity.idp.begun", address, {"idp": settings.name, **_txn(txn)})
        mark = "&" if "?" in metadata.authorization_endpoint else "?"
        return f"{metadata.authorization_endpoint}{mark}{urlencode(_request(leg, settings, wish))}", cookie

    def take(self, request: WebRequest, provider: Provider, origin: str, state: str) -> Leg | None:
        """Return the leg of an answer, once, and only to the browser that began it; see `Legs.take`."""
        leg = self._legs.take(request, origin, provider.settings.name, state)
        if leg is None:
            facts: JSONObject = {"idp": provider.settings.name, "code": "idp_leg"}
            self._noted("identity.idp.failed", request.client_ip, facts)
        return leg

    def expired_cookie(self, leg: Leg) -> tuple[bytes, bytes]:
        """Return the header that removes a leg's cookie."""
        return self._legs.expired_cookie(leg)

    async def finish(self, provider: Provider, leg: Leg, answer: Form) -> SignedIn:
        """Return who signed in. answer: the parameters of the callback, none of them repeated.

        Raises Malformed: idp_error (the provider said no; detail: its code, or ``other``), idp_answer,
        idp_metadata, idp_claims, idp_no_account, idp_elsewhere, and the codes of `wire.jwt`; UpstreamFault:
        unreachable, timeout, refused, malformed, credentials; Conflict: try again. Each was recorded.
        """
        settings = provider.settings
        metadata = await provider.metadata()
        _check_issuer(answer.get("iss"), settings, metadata)
        if error := answer.get("error"):
            # Neither its text nor a code that nobody knows goes anywhere.
            raise Malformed("idp_error", error if error in _ERRORS else "other")
        if not 0 < len(answer.get("code")) <= CODE_CHARS:
            raise Malformed("idp_answer", "code")
        tokens = await self._redemption.redeem(
            provider,
            metadata,
            answer.get("code"),
            verifier=leg.verifier,
            redirect_uri=leg.origin + settings.callback_path,
        )
        claims = await self._claims(provider, metadata, leg, tokens)
        who = import_claims(claims, settings, default_acr=PASSWORD)
        if not self.offers.permitted(settings.name, who.tenant):
            raise Malformed("idp_elsewhere")
        user = self._people.settle(who, settings)
        self.sessions.note(who.issuer, claims.get("sid"), user)
        facts: JSONObject = {"idp": settings.name, "tenant": user.tenant, "sub": user.subject}
        if settings.roles or settings.scopes_of:
            facts |= {"groups": list(who.counted), "roles": list(who.roles), "scope": " ".join(who.scopes)}
        self._record("identity.idp.signed_in", {**facts, **_txn(leg.txn)})
        if self.kept is not None:
            self.kept(user, claims, tokens.id_token)
        when = auth_time(claims, self._clock.now_us() // SECOND_US) or LONG_AGO
        return SignedIn(user, who.acr, who.amr, when, tokens.id_token)

    def failed(
        self,
        settings: ProviderSettings,
        code: str,
        detail: str,
        *,
        address: str,
        txn: str = "",
        about: JSONObject | None = None,
    ) -> None:
        """Record a sign-in that came to nothing, in words of ours.

        address: of the browser; where nobody was proved, only so many from it and in all have a record.
        txn: the transaction that it served, "" for none. about: whose it was, as far as that was proved.
        """
        facts: JSONObject = {"idp": settings.name, "code": code, "detail": detail, **(about or {}), **_txn(txn)}
        if about:
            self._record("identity.idp.failed", facts)
        else:
            self._noted("identity.idp.failed", address, facts)

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
        now_s = self._clock.now_us() // SECOND_US
        claims = check_id_token(unchecked, await provider.key(unchecked.kid), rules, now_s)
        check_access_hash(claims, unchecked.alg, tokens.access_token)
        if not settings.userinfo:
            return claims
        more = await self._redemption.userinfo(provider, metadata, tokens.access_token)
        if more.get("sub") != claims["sub"]:
            raise Malformed("idp_claims", "userinfo")  # another person's (Core §5.3.2)
        return {**more, **claims}


def issuers(settings: ProviderSettings) -> tuple[str, ...]:
    """Return every ``iss`` that the provider's tokens may carry: a closed list of exact strings."""
    if ENTRA_TENANT in settings.issuer:
        return tuple(settings.issuer.replace(ENTRA_TENANT, tenant) for tenant in settings.tenants)
    return (settings.issuer, *settings.issuer_aliases)


def _request(leg: Leg, settings: ProviderSettings, wish: Wish) -> dict[str, str]:
    """Return the authorization request (OpenID Connect Core §3.1.2.1); the client's own state stays with us."""
    request = {
        **settings.parameters,
        "response_type": "code",
        "client_id": settings.client_id,
        "redirect_uri": leg.origin + settings.callback_path,
        "scope": " ".join(settings.scopes),
        "state": leg.state,
        "nonce": leg.nonce,
        "code_challenge": leg.challenge,
        "code_challenge_method": "S256",
    }
    if "login" in wish.prompt:
        request |= {"prompt": "login", "max_age": "0"}
    elif wish.max_age >= 0:
        request["max_age"] = str(wish.max_age)
    if "select_account" in wish.prompt and "login" not in wish.prompt:
        request["prompt"] = "select_account"
    if wish.login_hint:
        request["login_hint"] = wish.login_hint
    if wanted := [theirs for theirs, ours in settings.acr_of.items() if ours in wish.acr_values]:
        request["acr_values"] = " ".join(wanted)
    return request


def _check_issuer(sent: str, settings: ProviderSettings, metadata: ProviderMetadata) -> None:
    """Raise Malformed("idp_answer") unless this provider answered: before anything else of it is looked at.

    An ``iss`` that is there must be the right one; where the metadata promises it, it must be there (RFC 9207 §2.4).
    """
    if (sent and sent not in issuers(settings)) or (not sent and metadata.sends_issuer):
        raise Malformed("idp_answer", "iss")


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


def _txn(txn: str) -> JSONObject:
    return {"txn": txn} if txn else {}
