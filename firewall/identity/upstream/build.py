"""Everything about signing in to upstreams, put together: objects only, no I/O."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from joserfc.jwk import ECKey

from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import FixedReply
from firewall.core.ports import Clock, Ids, SharedMarks, Store
from firewall.core.principal import Principal
from firewall.identity.people.links import Links
from firewall.identity.people.pages import Pages
from firewall.identity.people.sessions import LoginSessions
from firewall.identity.people.sign_in import SignIn
from firewall.identity.people.transactions import Transactions
from firewall.identity.people.users import User, Users
from firewall.identity.records import SECOND_US
from firewall.identity.rfc9068.tokens import SigningKeys
from firewall.identity.rfc9449.signer import DPoPSigner
from firewall.identity.serve import Handler
from firewall.identity.settings import IdentitySettings, Record, TokenBytes
from firewall.identity.throttle import Throttle
from firewall.identity.upstream.account import AccountPage
from firewall.identity.upstream.asks import Asks
from firewall.identity.upstream.broker import BrokerParts, UpstreamBroker
from firewall.identity.upstream.connecting import Legs
from firewall.identity.upstream.credentials import CredentialSettings, StaticUpstreamCredentials
from firewall.identity.upstream.discovery import Discovery, Fetcher
from firewall.identity.upstream.grants import UpstreamGrant, UpstreamGrants
from firewall.identity.upstream.minting import Minting
from firewall.identity.upstream.our_client import JWKS_PATH, ClientIdentity
from firewall.identity.upstream.pages import ConnectPages, ConnectParts
from firewall.identity.upstream.personal import Personal, PersonalParts
from firewall.identity.upstream.presented import PresentedTokens
from firewall.identity.upstream.registration import Registrations
from firewall.identity.upstream.settings import UpstreamAuth
from firewall.identity.upstream.subjects import SubjectTokens
from firewall.identity.upstream.token_client import TokenClient
from firewall.identity.upstream.verify import TokenVerifier
from firewall.identity.web import WebRequest, json_reply
from firewall.state.envelope import Envelopes, Masters
from firewall.wire import strict_json

DOCUMENT_CACHE_S: Final = 3600
# Ends of an account after which what it gave us elsewhere ends too; a changed password is not one.
_ENDS: Final = frozenset({"user_disabled"})


# Every collection of this room whose rows are sealed: whoever replaces keys goes over them all.
SEALED: Final = ("upstream_grants", "upstream_subjects", "upstream_clients", "upstream_legs")


@dataclass(frozen=True, slots=True)
class UpstreamsGiven:
    """What configuration and the composition root give.

    auths: upstreams with a sign-in. static: what is presented to each upstream otherwise, secrets or nothing.
    fetcher: our way out. key, older_keys: of our clients, for nothing else. masters: wrap the tenants' keys (`Envelopes`).
    proof_secret: what our DPoP keys towards upstreams are derived from. stopped: see `BrokerParts`.
    """

    auths: Mapping[str, UpstreamAuth]
    static: Mapping[str, CredentialSettings]
    fetcher: Fetcher
    key: ECKey
    masters: Masters
    proof_secret: bytes
    stopped: Callable[[Principal, str], bool]
    older_keys: tuple[ECKey, ...] = ()
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)


@dataclass(frozen=True, slots=True)
class PeopleParts:
    """What the pages need of the front door."""

    users: Users
    links: Links
    sign_in: SignIn
    sessions: LoginSessions
    transactions: Transactions
    throttle: Throttle
    pages: Pages


@dataclass(frozen=True, slots=True)
class Upstreams:
    """credentials: for the gateways: the broker, or where no upstream has a sign-in what it would ask. subjects: for whoever signs people in. routes: for the front door."""

    broker: UpstreamBroker
    credentials: UpstreamBroker | StaticUpstreamCredentials
    subjects: SubjectTokens
    grants: UpstreamGrants
    routes: Mapping[str, Mapping[str, Handler]]
    clock: Clock

    def keep_sign_in(self, user: User, claims: JSONObject, id_token: str) -> None:
        """Keep the ID token of a sign-in at a provider, for as long as it lives; only where an ID-JAG may be asked for."""
        issuer, ends_s = claims.get("iss"), claims.get("exp")
        if isinstance(issuer, str) and isinstance(ends_s, int) and issuer in self.broker.providers:
            lives_s = ends_s - self.clock.now_us() // SECOND_US
            self.subjects.keep(user.tenant, user.subject, issuer, "id_token", id_token, lives_s=lives_s)


def build_upstreams(
    given: UpstreamsGiven,
    settings: IdentitySettings,
    people: PeopleParts,
    *,
    store: Store,
    marks: SharedMarks,
    clock: Clock,
    ids: Ids,
    token_bytes: TokenBytes,
    record: Record,
) -> Upstreams:
    """Return the broker and its pages. Raises ConfigFault: upstream_auth, upstream_documents, credential_*."""
    envelopes = Envelopes(store, given.masters, SEALED, token_bytes=token_bytes)
    identity = ClientIdentity(settings.public_url, SigningKeys(given.key, *given.older_keys), given.auths, clock, ids)
    grants = UpstreamGrants(store, envelopes, marks, clock)
    subjects = SubjectTokens(store, envelopes, clock)

    def changed(upstream: str, issuer: str) -> None:
        record("identity.upstream.issuer_changed", {"upstream": upstream, "issuer": issuer})
        marks.bump()  # every worker looks again before it presents what it remembers

    discovery = Discovery(given.fetcher, clock, store, changed)
    registrations = Registrations(identity, given.fetcher, store, envelopes, clock, given.environment)
    signer = DPoPSigner(given.proof_secret, clock, token_bytes)
    tokens = TokenClient(given.fetcher, identity, signer)
    asks = Asks(store, clock, ids)
    verifier = TokenVerifier(given.fetcher, clock)
    minting = Minting(identity, registrations, discovery, tokens, verifier, subjects, clock, record, given.environment)

    def stands(grant: UpstreamGrant) -> bool:
        now, name = grants.find(grant.place), grant.place.upstream
        same = now is not None and (now.grant_id, now.version) == (grant.grant_id, grant.version)
        return same and discovery.issuer(name, given.auths[name]) == grant.place.issuer

    presented = PresentedTokens(marks, clock, stands)
    personal = Personal(
        PersonalParts(
            public_url=settings.public_url,
            discovery=discovery,
            registrations=registrations,
            tokens=tokens,
            grants=grants,
            presented=presented,
            asks=asks,
            signer=signer,
            clock=clock,
            record=record,
            links=people.links,
        )
    )
    static = StaticUpstreamCredentials(given.static, given.environment)
    broker = UpstreamBroker(
        BrokerParts(
            public_url=settings.public_url,
            auths=given.auths,
            static=static,
            discovery=discovery,
            minting=minting,
            personal=personal,
            presented=presented,
            grants=grants,
            signer=signer,
            clock=clock,
            record=record,
            stopped=given.stopped,
        )
    )
    parts = ConnectParts(
        settings=settings,
        auths=given.auths,
        identity=identity,
        discovery=discovery,
        registrations=registrations,
        tokens=tokens,
        grants=grants,
        asks=asks,
        legs=Legs(store, envelopes, clock, ids, settings, token_bytes),
        signer=signer,
        sign_in=people.sign_in,
        sessions=people.sessions,
        transactions=people.transactions,
        throttle=people.throttle,
        pages=people.pages,
        clock=clock,
        ids=ids,
        record=record,
    )

    def ended(tenant: str, subject: str, reason: str) -> None:
        if reason in _ENDS:
            grants.drop_person(tenant, subject)
            subjects.drop(tenant, subject)

    people.users.on_end(ended)
    people.users.on_remove(grants.drop_person)
    people.users.on_remove(subjects.drop)
    routes = {**ConnectPages(parts).routes, **AccountPage(parts).routes, **_documents(identity)}
    return Upstreams(broker, broker if given.auths else static, subjects, grants, routes, clock)


def _documents(identity: ClientIdentity) -> Mapping[str, Mapping[str, Handler]]:
    """Return the routes of our client documents and keys: open to everybody, as they must be."""

    async def document(data: bytes, _request: WebRequest) -> FixedReply:
        return json_reply(strict_json.loads(data), cache_s=DOCUMENT_CACHE_S)

    async def keys(_request: WebRequest) -> FixedReply:
        return json_reply(identity.jwks(), cache_s=300)

    routes: dict[str, Mapping[str, Handler]] = {
        path: {"GET": partial(document, data)} for path, data in identity.documents.items()
    }
    routes[JWKS_PATH] = {"GET": keys}
    return routes
