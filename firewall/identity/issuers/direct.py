"""Direct mode put together: only issuers that a preflight proved, as they stand in the configuration now."""

from __future__ import annotations

from dataclasses import dataclass

from firewall.core.ports import Clock, Store
from firewall.identity.issuers.preflight import Preflights
from firewall.identity.issuers.profile import IssuerProfile
from firewall.identity.issuers.tokens import ForeignTokens
from firewall.identity.oidc.provider import ProviderFetcher
from firewall.identity.oidc.secret import Secrets
from firewall.identity.resources import Resources


@dataclass(frozen=True, slots=True)
class DirectGiven:
    """What the composition root knows of issuers. secrets: reads ``env:`` and ``file:`` sources when they are used."""

    profiles: tuple[IssuerProfile, ...]
    fetcher: ProviderFetcher
    secrets: Secrets


def build_direct(given: DirectGiven | None, resources: Resources, store: Store, clock: Clock) -> ForeignTokens | None:
    """Return the verifier of other issuers' tokens, None without any. Raises ConfigFault: issuer_unproved, issuer_twice."""
    if given is None or not given.profiles:
        return None
    proofs = Preflights(store, clock)
    for profile in given.profiles:
        proofs.require(profile)
    return ForeignTokens(
        given.profiles, resources, given.fetcher, clock, secret=lambda profile: given.secrets(profile.secret)
    )
