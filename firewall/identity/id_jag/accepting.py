"""Reads ID-JAGs of configured issuers: algorithm, issuer, key, signature, claims; and uses each up, once.

An issuer that is not configured is looked up nowhere, so a stranger's assertion causes no fetch (RS-02, RS-08).
"""

from __future__ import annotations

from typing import Final

from firewall.core.errors import ConfigFault, Malformed
from firewall.core.ports import Clock, Store
from firewall.identity import standing
from firewall.identity.cimd.documents import DocumentFetcher
from firewall.identity.grants import OAuthGrants
from firewall.identity.id_jag.assertion import TYPE, Assertion, check_assertion, unverified_issuer
from firewall.identity.people.links import Admission, Links
from firewall.identity.people.users import User
from firewall.identity.records import SECOND_US
from firewall.identity.rfc7523.assertions import UsedOnce
from firewall.identity.rfc7523.client_keys import NETWORKS, FetchedKeys, Keys, KeySets, verify_with
from firewall.identity.settings import IdentitySettings, TrustedIssuer
from firewall.wire import jwt
from firewall.wire.oauth import OAuthError

_USE: Final = "id-jag"


class AcceptedAssertions:
    """The issuers that we trust, their keys, what was used, and whom they speak of."""

    def __init__(
        self,
        settings: IdentitySettings,
        fetcher: DocumentFetcher,
        store: Store,
        clock: Clock,
        grants: OAuthGrants,
        links: Links,
    ) -> None:
        self._our_issuer = settings.public_url
        self._trusted = {trusted.issuer: trusted for trusted in settings.trusted_issuers}
        self._given = {t.issuer: _given_keys(t) for t in settings.trusted_issuers if t.jwks is not None}
        self._fetched = {network: KeySets(FetchedKeys(fetcher, network), clock) for network in NETWORKS}
        self._used = UsedOnce(store)
        self._clock = clock
        self._grants = grants
        self._links = links

    async def read(self, text: str, client_id: str) -> tuple[Assertion, TrustedIssuer]:
        """Return a verified assertion that was given to the client. Raises OAuthError invalid_grant."""
        try:
            unchecked = jwt.parse_compact(text.encode("utf-8", "surrogatepass"))
            if unchecked.typ != TYPE:
                raise Malformed("jwt_claims", "typ")
            trusted = self._trusted.get(unverified_issuer(unchecked.claims))
            if trusted is None:
                raise Malformed("jwt_claims", "iss")
            if unchecked.alg not in trusted.algorithms:
                raise Malformed("jwt_alg")
            await self._verify(unchecked, trusted)
            now_s = self._clock.now_us() // SECOND_US
            assertion = check_assertion(
                unchecked.claims, trusted, our_issuer=self._our_issuer, client_id=client_id, now_s=now_s
            )
        except OAuthError:
            raise
        except Malformed as error:
            raise OAuthError("invalid_grant", error.code, error.detail) from None
        issuer, subject = assertion.issuer, assertion.subject
        names = (standing.issuer(issuer), standing.person(issuer, subject), standing.client(client_id))
        if self._grants.standing.ended(trusted.tenant, names, assertion.issued_s):
            raise OAuthError("invalid_grant", "grant_ended")
        return assertion, trusted

    def use_up(self, assertion: Assertion, trusted: TrustedIssuer) -> None:
        """Let nobody present this assertion again, at any worker. Raises OAuthError invalid_grant: assertion_replayed."""
        if trusted.reusable:
            return
        try:
            self._used.burn(f"{_USE}\0{assertion.issuer}", assertion.token_id, assertion.expires_s)
        except Malformed as error:
            raise OAuthError("invalid_grant", error.code) from None

    def person(self, assertion: Assertion, trusted: TrustedIssuer) -> User:
        """Return whom the assertion speaks of: the account linked with (issuer, subject), or a new one.

        Raises OAuthError invalid_grant: assertion_subject, Conflict (the account is being made now).
        """
        admission = Admission(trusted.create, trusted.roles, trusted.account_scopes)
        user = self._links.admit(trusted.tenant, assertion.issuer, assertion.subject, admission, realm=assertion.realm)
        if user is None or assertion.account not in ("", user.subject):
            raise OAuthError("invalid_grant", "assertion_subject")
        return user

    async def _verify(self, unchecked: jwt.UncheckedJWT, trusted: TrustedIssuer) -> None:
        keys: Keys | None = self._given.get(trusted.issuer)
        if keys is None:
            keys = await self._fetched[trusted.network].get(trusted.jwks_uri, unchecked.kid)
        verify_with(keys, unchecked)


def _given_keys(trusted: TrustedIssuer) -> Keys:
    """Return keys that stand in the configuration. Raises ConfigFault("issuer_keys")."""
    try:
        return jwt.keys_of(trusted.jwks)
    except Malformed:
        raise ConfigFault("issuer_keys", trusted.issuer, fix="give a JWK Set with public signature keys") from None
