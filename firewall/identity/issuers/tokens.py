"""Access tokens of the configured issuers: which profile, which key, what it says (direct mode).

The profile is looked up by the ``iss`` of the unverified token in the configured set, and only then is
anything of that issuer touched (RS-08). A token that is no JWT belongs to the one issuer with opaque tokens
of the resource, if there is one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

from firewall.core.errors import ConfigFault, Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.ports import Clock
from firewall.identity import standing
from firewall.identity.issuers import claims as read
from firewall.identity.issuers.introspection import Introspection
from firewall.identity.issuers.keys import IssuerKeys, Wanted
from firewall.identity.issuers.profile import IssuerProfile
from firewall.identity.oidc.provider import ProviderFetcher
from firewall.identity.resources import Resources
from firewall.identity.rfc6750.known import Verified
from firewall.wire import jwt

CLOCK_LEEWAY_S: Final = 30


class ForeignTokens:
    """Verifies tokens of other issuers. Never waits: what must be fetched first is raised as `keys.Wanted`."""

    def __init__(
        self,
        profiles: Iterable[IssuerProfile],
        resources: Resources,
        fetcher: ProviderFetcher,
        clock: Clock,
        *,
        secret: Callable[[IssuerProfile], str],
    ) -> None:
        """secret: returns the client secret of a profile with opaque tokens, read now.

        Raises ConfigFault: issuer_twice, issuer_own.
        """
        self._resources = resources
        self.on_removed: Callable[[str], None] = lambda _issuer: None
        self._profiles: dict[str, IssuerProfile] = {}
        self._keys: dict[str, IssuerKeys] = {}
        self._opaque: dict[str, tuple[IssuerProfile, Introspection]] = {}
        for profile in profiles:
            self._add(profile, fetcher, clock, secret)

    def _add(
        self,
        profile: IssuerProfile,
        fetcher: ProviderFetcher,
        clock: Clock,
        secret: Callable[[IssuerProfile], str],
    ) -> None:
        where = f"issuer {profile.name!r}"
        if profile.issuer in self._profiles:
            raise ConfigFault("issuer_twice", where, fix="configure each issuer once")
        if profile.issuer == self._resources.public_url:
            raise ConfigFault("issuer_own", where, fix="our own tokens need no profile")
        self._profiles[profile.issuer] = profile
        if profile.kind == "jwt":
            self._keys[profile.issuer] = IssuerKeys(profile, fetcher, clock, lambda: self.on_removed(profile.issuer))
            return
        asked = Introspection(profile, fetcher, clock, lambda: secret(profile))
        for path in profile.audiences:
            if path in self._opaque:
                raise ConfigFault("issuer_twice", where, fix=f"one issuer of opaque tokens for {path}")
            self._opaque[path] = (profile, asked)

    def serves(self, issuer: str) -> bool:
        """Return whether tokens of an issuer are taken at all."""
        return issuer in self._keys

    def reads(self, resource: str) -> bool:
        """Return whether opaque tokens are taken at a resource."""
        return self._path(resource) in self._opaque

    def at(self, path: str) -> tuple[str, ...]:
        """Return the issuers whose tokens are taken at a path: resource metadata names them (RFC 9728 §2)."""
        return tuple(p.issuer for p in self._profiles.values() if path in p.audiences)

    def verify(self, unchecked: jwt.UncheckedJWT, resource: str, now_s: int) -> Verified:
        """Return a verified JWT. Raises Malformed: jwt_alg, jwt_key, jwt_claims, jwt_signature; Wanted."""
        issuer = unchecked.claims.get("iss")
        profile = self._profiles.get(issuer) if isinstance(issuer, str) else None
        if profile is None or profile.kind != "jwt":
            raise Malformed("jwt_claims", "iss")
        if unchecked.alg not in profile.algorithms:
            raise Malformed("jwt_alg")
        path = self._path(resource)
        if path not in profile.audiences:
            raise Malformed("jwt_claims", "aud")  # before its issuer is asked for anything
        keys = self._keys[profile.issuer]
        try:
            key = keys.find(unchecked.kid)
        except Wanted:
            raise
        except Malformed:
            keys.same_work(unchecked)
            raise
        claims = jwt.verify(unchecked, key)
        read.check_type(unchecked.typ, claims, profile)
        return self._checked(claims, profile, resource, now_s, unchecked.token)

    def introspect(self, token: bytes, resource: str, now_s: int) -> Verified:
        """Return a verified opaque token. Raises Malformed("jwt_claims"), Wanted, StateUnavailable."""
        path = self._path(resource)
        if path not in self._opaque or not token.isascii():
            raise Malformed("token_shape")
        profile, asked = self._opaque[path]
        digest = hashlib.sha256(token).digest()
        claims, until_us = asked.find(token, digest)
        # An answer need not repeat what its caller knows: who issued the token, and when (RFC 7662 §2.2).
        expires = claims.get("exp", now_s + profile.max_age_s)
        issued = claims.get("iat", now_s)
        whole: JSONObject = {**claims, "iss": profile.issuer, "exp": expires, "iat": issued}
        verified = self._checked(whole, profile, resource, now_s, token, until_us)
        if "iat" in claims:
            return verified
        # Who does not say when is taken for as old as a token may be: an ending must not be outlived by not saying.
        ends_s = verified.principal.expires_at
        return replace(verified, issued_s=ends_s - profile.max_age_s if "exp" in claims else 0)

    def _checked(
        self,
        claims: Mapping[str, JSON],
        profile: IssuerProfile,
        resource: str,
        now_s: int,
        token: bytes,
        until_us: int = 0,
    ) -> Verified:
        path = self._path(resource)
        meant = read.audience_of(claims, profile, path)
        rules = jwt.ClaimRules(
            issuer=profile.issuer, audience=meant, max_age_s=profile.max_age_s, skew_s=CLOCK_LEEWAY_S
        )
        jwt.check_claims({**claims, "aud": meant}, rules, now_s)
        known = self._resources.at(path)
        # Revoking one token of an issuer names its digest: nothing that the issuer chose becomes a key here.
        grant_id = f"x_{hashlib.sha256(token).hexdigest()[:32]}"
        principal = read.principal_of(claims, profile, resource, known.scopes if known else (), grant_id)
        issued, sid = claims["iat"], claims.get("sid")
        assert isinstance(issued, int)
        subject = principal.subject.removeprefix(f"{profile.name}|")
        names = [
            standing.issuer(profile.issuer),
            standing.person(profile.issuer, subject),
            standing.client(principal.client_id),
        ]
        if isinstance(sid, str) and 0 < len(sid) <= read.NAME_CHARS:
            names.append(standing.session(sid, profile.issuer))
        return Verified(principal, None, issued, tuple(names), until_us)

    def _path(self, resource: str) -> str:
        return resource.removeprefix(self._resources.public_url)
