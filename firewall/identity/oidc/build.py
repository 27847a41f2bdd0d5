"""The identity providers of one front door, put together; objects only, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from firewall.core.ports import Clock, Ids, Store
from firewall.identity.oidc.broker import Broker, BrokerParts, Handler
from firewall.identity.oidc.legs import Legs
from firewall.identity.oidc.offers import Offers
from firewall.identity.oidc.party import RelyingParty
from firewall.identity.oidc.people import ProviderPeople
from firewall.identity.oidc.provider import Provider, ProviderFetcher
from firewall.identity.oidc.provider_sessions import ProviderSessions
from firewall.identity.oidc.redemption import ClientKey, Redemption
from firewall.identity.oidc.secret import Secrets
from firewall.identity.oidc.settings import ProviderSettings, shaped
from firewall.identity.oidc.sign_out import SignOuts
from firewall.identity.people.links import Links
from firewall.identity.people.pages import Pages
from firewall.identity.people.sessions import LoginSessions
from firewall.identity.people.sign_in import SignIn
from firewall.identity.people.transactions import Transactions
from firewall.identity.people.users import Users
from firewall.identity.resources import Resources
from firewall.identity.settings import IdentitySettings, Noted, Record, TokenBytes
from firewall.identity.throttle import Throttle
from firewall.state.vault import Sealer


@dataclass(frozen=True, slots=True)
class ProvidersGiven:
    """What the composition root knows of providers.

    passwords: whether local passwords are on. secrets: reads ``env:`` and ``file:`` sources when they are
    used. key: of our client assertions, where a provider wants private_key_jwt.
    """

    settings: tuple[ProviderSettings, ...]
    fetcher: ProviderFetcher
    secrets: Secrets
    passwords: bool = True
    key: ClientKey | None = None


@dataclass(frozen=True, slots=True)
class SignInElsewhere:
    """What the front door takes of it. party: also for pages of another origin of ours (the console)."""

    routes: Mapping[str, Mapping[str, Handler]]
    party: RelyingParty
    sign_outs: SignOuts


def build_sign_in(
    given: ProvidersGiven,
    settings: IdentitySettings,
    *,
    store: Store,
    clock: Clock,
    ids: Ids,
    sealer: Sealer,
    token_bytes: TokenBytes,
    record: Record,
    noted: Noted,
    users: Users,
    links: Links,
    resources: Resources,
    sign_in: SignIn,
    sessions: LoginSessions,
    transactions: Transactions,
    throttle: Throttle,
    pages: Pages,
) -> SignInElsewhere:
    """Return signing in at providers. Raises ConfigFault: idp_forced, idp_none."""
    providers = [Provider(shaped(one), given.fetcher, clock) for one in given.settings]
    offers = Offers(
        [p.settings for p in providers],
        passwords=given.passwords,
        resources=resources,
        client_tenants={client.client_id: client.tenant for client in settings.clients},
    )
    party = RelyingParty(
        providers,
        Legs(store, clock, token_bytes),
        Redemption(given.secrets, clock, ids, given.key),
        ProviderPeople(users, links, clock),
        offers,
        clock,
        record,
        noted,
        ProviderSessions(store, clock),
    )
    sign_outs = SignOuts(providers, store, clock, sealer, settings, token_bytes)
    broker = Broker(
        BrokerParts(settings, party, sign_in, sign_outs, sessions, transactions, resources, throttle, pages)
    )
    return SignInElsewhere(broker.routes(), party, sign_outs)
