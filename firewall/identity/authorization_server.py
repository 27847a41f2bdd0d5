"""The embedded authorization server and its resource server, put together (issuer = the bare public origin).

The token endpoint's grants are authlib's, hardened (`engine`, docs/adr/0025); the rules stand in `wire.oauth`.
joserfc does the signatures.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from joserfc.jwk import ECKey

from firewall.core.ports import ClientTrust, Clock, Ids, Labels, Refusals, SharedMarks, Store, UsedProofs
from firewall.identity import standing
from firewall.identity.cimd.documents import ClientDocuments, DocumentFetcher
from firewall.identity.cimd.logos import PATH as LOGO_PATH
from firewall.identity.cimd.logos import Logos
from firewall.identity.client_limits import ClientLimits
from firewall.identity.clients.registered import RegisteredClients
from firewall.identity.clients.registry import Clients, ClientSource
from firewall.identity.engine.endpoints import program_endpoints
from firewall.identity.engine.parts import AnyOf, TokenParts
from firewall.identity.grants import OAuthGrants
from firewall.identity.id_jag.accepting import AcceptedAssertions
from firewall.identity.issue import OperatorTokens
from firewall.identity.issuers.direct import DirectGiven, build_direct
from firewall.identity.oauth21.authorize import Authorization, AuthorizeParts
from firewall.identity.oauth21.codes import Codes
from firewall.identity.oauth21.refresh import RefreshTokens
from firewall.identity.oidc.build import ProvidersGiven, build_sign_in
from firewall.identity.oidc.party import RelyingParty
from firewall.identity.people.account import Account
from firewall.identity.people.consents import Consents
from firewall.identity.people.first_contact import FirstContact, FirstContactPage
from firewall.identity.people.links import Links
from firewall.identity.people.pages import Pages
from firewall.identity.people.passwords import Passwords
from firewall.identity.people.reachable import ReachableScopes
from firewall.identity.people.second_factor import SecondFactors
from firewall.identity.people.security import Security
from firewall.identity.people.sessions import LoginSessions
from firewall.identity.people.sign_in import SignIn, SignInParts
from firewall.identity.people.transactions import Transactions
from firewall.identity.people.users import Users
from firewall.identity.resources import Resources
from firewall.identity.rfc6750.own_tokens import OwnTokens
from firewall.identity.rfc6750.resource_server import BearerResourceServer
from firewall.identity.rfc7523.client_auth import ClientAuthenticator, ClientKeys
from firewall.identity.rfc7523.workloads import WorkloadAuthenticator
from firewall.identity.rfc7591.endpoint import RegistrationEndpoint
from firewall.identity.rfc7591.registrations import Registrations
from firewall.identity.rfc8628.codes import DeviceCodes
from firewall.identity.rfc8628.page import DevicePage, DeviceParts
from firewall.identity.rfc8693.delegation import Delegation, NoLabels
from firewall.identity.rfc8693.handing import HandedTokens
from firewall.identity.rfc8693.presented import PresentedTokens
from firewall.identity.rfc9068.tokens import SigningKeys, TokenIssuer
from firewall.identity.rfc9126.par import PushedRequests
from firewall.identity.rfc9449.nonces import Nonces
from firewall.identity.rfc9449.verifier import ProofVerifier, TokenRequestProofs
from firewall.identity.run_tokens.runs import Runs
from firewall.identity.serve import FrontDoor
from firewall.identity.settings import IdentitySettings, Noted, Record, TokenBytes
from firewall.identity.throttle import NODE, Throttle
from firewall.identity.upstream.build import PeopleParts, Upstreams, UpstreamsGiven, build_upstreams
from firewall.state.replays import UsedOnce
from firewall.state.vault import Sealer


@dataclass(frozen=True, slots=True)
class Identity:
    """What the composition root passes on.

    front_door: ASGI application of the public listener. resource_server: for the gateways.
    resources: swap with ``replace`` when an upstream is registered. registered: clients added by command. users, links, first_contact, operator_tokens,
    grants: for the admin room and the command line. party: the relying party towards identity providers, if any. credentials: what gateways present to upstreams.
    """

    front_door: FrontDoor
    resource_server: BearerResourceServer
    resources: Resources
    users: Users
    links: Links
    grants: OAuthGrants
    first_contact: FirstContact
    operator_tokens: OperatorTokens
    registered: RegisteredClients
    registrations: Registrations
    clients: Clients
    logos: Logos
    sign_in: SignIn
    logins: LoginSessions
    factors: SecondFactors
    pages: Pages
    settings: IdentitySettings
    party: RelyingParty | None = None
    upstreams: Upstreams | None = None
    credentials: HandedTokens | None = None
    reachable: ReachableScopes | None = None

    def first_contact_page(self, *, origin: str, path: str) -> FirstContactPage:
        """Return the page for the admin listener."""
        return FirstContactPage(
            self.first_contact, self.pages, origin=origin, path=path, least_chars=self.settings.min_password_chars
        )


def build_identity(
    settings: IdentitySettings,
    *,
    store: Store,
    marks: SharedMarks,
    clock: Clock,
    ids: Ids,
    fetcher: DocumentFetcher,
    signing_key: ECKey | EllipticCurvePrivateKey | SigningKeys,
    other_keys: tuple[ECKey | EllipticCurvePrivateKey, ...] = (),
    record: Record,
    labels: Labels | None = None,
    token_bytes: TokenBytes = secrets.token_bytes,
    sealer: Sealer | None = None,
    client_trust: ClientTrust | None = None,
    idps: ProvidersGiven | None = None,
    upstreams: UpstreamsGiven | None = None,
    direct: DirectGiven | None = None,
    used: UsedProofs | None = None,
    nonce_keys: tuple[bytes, ...] = (),
    refusals: Refusals | None = None,
    noted: Noted | None = None,
) -> Identity:
    """Return the front door with everything it needs; objects only, no I/O. idps: identity providers, where any.

    signing_key: the key that signs; or the set that its rotation keeps (`rfc9068.rotation`).
    client_trust: asks policy about clients that describe themselves, where the settings say so.
    labels: flow labels of callers; without them token exchange hands none on, so it is refused.
    sealer: keeps secrets at rest; without one they can be read by this process alone, and end with it.
    upstreams: how we sign in to what stands behind us. refusals: records tokens that were refused; None does not.
    noted: records what strangers are refused and begin, within bounds; None gives each of these events to ``record``.
    """
    noted = noted or (lambda event, _address, facts: record(event, facts))
    keys = signing_key if isinstance(signing_key, SigningKeys) else SigningKeys(signing_key, *other_keys)
    resources = Resources(settings.public_url, settings.resources)
    pages = Pages()
    throttle = Throttle(store, clock)
    limits = ClientLimits(throttle, settings.client_per_minute, record)
    passwords = Passwords(token_bytes, n=settings.scrypt_n, least_chars=settings.min_password_chars)
    users = Users(store, clock, ids, passwords, record)
    grants = OAuthGrants(store, marks, clock, record, lifetime_s=settings.refresh_lifetime_s)
    # First what nobody lists: codes that are still to be redeemed.
    users.on_end(lambda tenant, subject, _reason: grants.standing.end_subject(tenant, subject))
    users.on_end(lambda tenant, subject, reason: grants.revoke_subject(tenant, subject, reason=reason))
    links = Links(store, clock, users, record)
    users.on_remove(grants.forget_person)
    users.on_remove(links.forget_person)
    documents = ClientDocuments(settings, fetcher, clock, throttle=throttle, policy=client_trust)

    def end_client(client_id: str) -> None:
        grants.standing.end(NODE, standing.client(client_id))

    registered = RegisteredClients(
        store,
        clock,
        token_bytes,
        record,
        taken=(client.client_id for client in settings.clients),
        end=end_client,
    )
    registrations = Registrations(store, clock, ids, token_bytes, record, cap=settings.registration_cap, end=end_client)
    grants.on_save(lambda grant: registrations.used(grant.client_id))
    sources: tuple[ClientSource, ...] = (registered, registrations) if settings.registration else (registered,)
    clients = Clients(settings, documents, *sources)
    logos = Logos(store, fetcher, documents.trust, clock, token_bytes)
    authenticator = AnyOf(
        ClientAuthenticator(settings.public_url, clients, ClientKeys(fetcher, clock), store, clock, throttle),
        WorkloadAuthenticator(settings.public_url, settings.workloads, clients, fetcher, store, clock),
    )
    sessions = LoginSessions(store, clock, ids, users, settings, token_bytes)
    transactions = Transactions(store, clock, ids, settings, token_bytes)
    consents = Consents(store, clock, grants.standing, lifetime_s=settings.consent_lifetime_s)
    sealer = sealer or Sealer(token_bytes(32), clock)
    factors = SecondFactors(store, clock, sealer, token_bytes, record)
    users.on_remove(consents.forget_person)
    users.on_remove(factors.forget)
    sign_in = SignIn(
        SignInParts(
            settings=settings,
            store=store,
            users=users,
            sessions=sessions,
            transactions=transactions,
            factors=factors,
            throttle=throttle,
            pages=pages,
            clock=clock,
            token_bytes=token_bytes,
            record=record,
            noted=noted,
        )
    )
    pushed = PushedRequests(store, clock, token_bytes)
    codes = Codes(store, clock, grants, token_bytes, lifetime_s=settings.code_lifetime_s)
    devices = DeviceCodes(store, clock, token_bytes, lifetime_s=settings.device_lifetime_s)
    refresh = RefreshTokens(store, clock, grants, token_bytes, settings)
    tokens = TokenIssuer(settings.public_url, keys, clock, ids, lifetime_s=settings.token_lifetime_s)
    runs = Runs(store, clock, ids, record, lifetime_s=settings.run_lifetime_s, per_hour=settings.runs_per_hour)
    authorization = Authorization(
        AuthorizeParts(
            settings=settings,
            logos=logos,
            resources=resources,
            clients=clients,
            sign_in=sign_in,
            runs=runs,
            sessions=sessions,
            transactions=transactions,
            consents=consents,
            codes=codes,
            pushed=pushed,
            standing=grants.standing,
            limits=limits,
            pages=pages,
            users=users,
            factors=factors,
            clock=clock,
            ids=ids,
            record=record,
            noted=noted,
        )
    )
    used, nonce_keys = used or UsedOnce(None), nonce_keys or (token_bytes(32),)
    at_token, at_resource = (
        ProofVerifier(
            settings.public_url,
            Nonces(nonce_keys, clock, place),
            used,
            clock,
            nonce_required=settings.dpop_nonce_required,
        )
        for place in ("token", "resource")
    )
    others = build_direct(direct, resources, store, clock)
    presented = PresentedTokens(OwnTokens(settings.public_url, keys), resources, grants, clock)
    delegation = Delegation(clients, presented, labels or NoLabels(), runs)
    token_parts = TokenParts(
        settings=settings,
        resources=resources,
        clients=authenticator,
        users=users,
        codes=codes,
        devices=devices,
        delegation=delegation,
        assertions=AcceptedAssertions(settings, fetcher, store, clock, grants, links),
        refresh=refresh,
        grants=grants,
        tokens=tokens,
        throttle=throttle,
        limits=limits,
        clock=clock,
        ids=ids,
        record=record,
        noted=noted,
        per_minute=settings.token_per_minute,
        proofs=TokenRequestProofs(at_token),
    )
    device_page = DevicePage(
        DeviceParts(
            settings=settings,
            resources=resources,
            clients=clients,
            sign_in=sign_in,
            sessions=sessions,
            transactions=transactions,
            devices=devices,
            standing=grants.standing,
            throttle=throttle,
            pages=pages,
            ids=ids,
            record=record,
        )
    )
    account = Account(settings, sign_in, sessions, transactions, grants, consents, pages)
    front_door = FrontDoor(settings, resources, keys, sign_in, authorization, account, pages, noted)
    front_door.mount(program_endpoints(token_parts, keys, pushed, authorization.checked))
    front_door.mount_below(LOGO_PATH, {"GET": logos.serve})
    if settings.registration:
        registration = RegistrationEndpoint(registrations, throttle, noted)
        front_door.mount({"/register": {"POST": registration.serve}})
    security = Security(settings, sign_in, sessions, transactions, users, factors, throttle, pages, clock)
    front_door.mount({"/account/security": {"GET": security.show, "POST": security.change}})
    if settings.device_grant:
        front_door.mount(
            {
                "/device": {"GET": device_page.show, "POST": device_page.enter},
                "/device/decide": {"POST": device_page.decide},
            }
        )
    if others is not None:
        front_door.others_at = others.at
    elsewhere = None
    if idps is not None:
        elsewhere = build_sign_in(
            idps,
            settings,
            store=store,
            clock=clock,
            ids=ids,
            sealer=sealer,
            token_bytes=token_bytes,
            record=record,
            noted=noted,
            users=users,
            links=links,
            resources=resources,
            sign_in=sign_in,
            sessions=sessions,
            transactions=transactions,
            throttle=throttle,
            pages=pages,
        )
        front_door.mount(elsewhere.routes)
        sign_in.ways = elsewhere.party.offers
        account.leave = elsewhere.sign_outs.leave
    broker = None
    if upstreams is not None:
        broker = build_upstreams(
            upstreams,
            settings,
            PeopleParts(users, links, sign_in, sessions, transactions, throttle, pages),
            store=store,
            marks=marks,
            clock=clock,
            ids=ids,
            token_bytes=token_bytes,
            record=record,
        )
        front_door.mount(broker.routes)
        if elsewhere is not None:
            elsewhere.party.kept = broker.keep_sign_in
    handed = None
    if broker is not None:
        handed = HandedTokens(
            broker.credentials, tokens, resources, grants, clock, ids, record, delegation.labels, settings.clients
        )
    return Identity(
        front_door=front_door,
        resource_server=BearerResourceServer(
            resources, keys, grants, marks, clock, proofs=at_resource, others=others, refusals=refusals
        ),
        resources=resources,
        users=users,
        links=links,
        grants=grants,
        first_contact=FirstContact(store, clock, token_bytes, users, throttle, settings, record),
        operator_tokens=OperatorTokens(settings, resources, tokens, grants, ids, record),
        registered=registered,
        registrations=registrations,
        clients=clients,
        reachable=ReachableScopes(settings.public_url, resources, clients, users),
        logos=logos,
        sign_in=sign_in,
        logins=sessions,
        factors=factors,
        pages=pages,
        settings=settings,
        party=elsewhere.party if elsewhere else None,
        upstreams=broker,
        credentials=handed,
    )
