"""Resource server: token → Principal for exactly one resource, and the challenges.

- The token comes from one ``Authorization`` header, ``Bearer`` or ``DPoP``, never from a query or a body (RS-12).
- ``aud`` must be the resource's own URI, byte for byte (RS-09), or what an issuer's profile says means it.
- A token that is bound to a key is worth nothing without a proof of it, and nothing as Bearer (RS-13).
- All refusals look alike to the caller (RS-17); operators get the code.
- Verified tokens are cached by the digest of the header value. A hit still compares the resource,
  the time by two clocks and the node's epoch; when the epoch moved, the grant is looked up again. The cache never
  holds a token, is bounded per issuer, and nothing is believed for longer than 60 s without full verification.
- Proofs are never cached: each request brings its own.
- `authenticate` never waits. `admit` is the same for callers that can: it fetches what another issuer's
  token needs first, so that only requests with such tokens are held up by their issuer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256
from typing import Final

from firewall.core.action import Headers
from firewall.core.bounds import TOKEN_BYTES, TOKEN_CACHE_ENTRIES
from firewall.core.errors import BartizanError, Malformed, StateUnavailable, Unauthenticated
from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import ChallengeCode, Clock, Refusals, SharedMarks
from firewall.core.principal import Principal
from firewall.identity.grants import OAuthGrants
from firewall.identity.issuers.keys import Wanted
from firewall.identity.issuers.tokens import ForeignTokens
from firewall.identity.records import SECOND_US
from firewall.identity.resources import Resources
from firewall.identity.rfc6750 import challenges
from firewall.identity.rfc6750.challenges import ProofRefused
from firewall.identity.rfc6750.known import Entry, KnownTokens, Verified, keep_bounded
from firewall.identity.rfc6750.own_tokens import OwnTokens
from firewall.identity.rfc9068.tokens import SigningKeys
from firewall.identity.rfc9449.proof import NonceWanted
from firewall.identity.rfc9449.verifier import ProofVerifier
from firewall.wire import jwt

TRUST_US: Final = 60 * SECOND_US
REFUSED_US: Final = 5 * SECOND_US
REFUSED_ENTRIES: Final = 10_000
FETCHES: Final = 2  # what one token may wait for: keys that are missing, then keys that rotated meanwhile


class NotYet(Unauthenticated):
    """Not verified, because something must be fetched first. Whoever cannot wait refuses."""

    def __init__(self, ready: Callable[[str], Awaitable[None]], *, scope: str) -> None:
        super().__init__("token_invalid", "fetch", scope=scope)
        self._ready = ready

    async def finish(self, address: str = "") -> None:
        """Return when it was fetched, or could not be. Raises StateUnavailable: others' turns come first."""
        await self._ready(address)


class BearerResourceServer:
    """Implements `core.ports.ResourceServer`. proofs: without them bound tokens are refused. others: direct mode."""

    def __init__(
        self,
        resources: Resources,
        keys: SigningKeys,
        grants: OAuthGrants,
        marks: SharedMarks,
        clock: Clock,
        *,
        entries: int = TOKEN_CACHE_ENTRIES,
        proofs: ProofVerifier | None = None,
        others: ForeignTokens | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        self._refusals = refusals
        self._resources = resources
        self._issuer = resources.public_url
        self._own = OwnTokens(resources.public_url, keys)
        self._grants = grants
        self._marks = marks
        self._clock = clock
        self._monotonic_ns = clock.monotonic_ns  # looked up once: asked on every request
        self._proofs = proofs
        self._others = others
        self._known = KnownTokens(resources.public_url, entries)
        self._cache = self._known.by_digest
        self._refused: dict[bytes, int] = {}
        self._asking: set[asyncio.Task[None]] = set()
        keys.on_leave(lambda: self._known.drop_issuer(resources.public_url))
        if others is not None:
            others.on_removed = self._known.drop_issuer

    def authenticate(
        self,
        headers: Mapping[bytes, bytes],
        resource: str,
        *,
        default_scope: str,
        method: str = "",
        path: str = "",
        handed: bool = False,
    ) -> Principal:
        """Return the verified principal of the request; see the port.

        Raises Unauthenticated: token_missing (no Authorization header), token_invalid (anything else);
        StateUnavailable.
        """
        value = headers.get(b"authorization")
        if value is None:
            raise Unauthenticated("token_missing", scope=default_scope)
        now_us = self._clock.now_us()
        digest = sha256(value).digest()
        entry = self._cache.get(digest)
        if (
            entry is not None
            and entry.principal.audience == resource
            and now_us < entry.until_us
            and self._monotonic_ns() < entry.until_ns
        ):
            if entry.epoch != self._marks.epoch():
                self._recheck(digest, entry, default_scope)
            principal = entry.principal
        else:
            principal = self._verified(value, digest, resource, now_us, default_scope)
        if principal.cnf:
            self._prove(headers, value, principal, default_scope, method, path, handed)
        return principal

    async def admit(
        self,
        headers: Mapping[bytes, bytes],
        resource: str,
        *,
        default_scope: str,
        method: str = "",
        path: str = "",
        handed: bool = False,
        address: str = "",
    ) -> Principal:
        """Return what `authenticate` returns, after fetching what the token's issuer must tell first."""
        for _ in range(FETCHES):
            try:
                return self.authenticate(
                    headers, resource, default_scope=default_scope, method=method, path=path, handed=handed
                )
            except NotYet as wanted:
                await wanted.finish(address)
        return self.authenticate(
            headers, resource, default_scope=default_scope, method=method, path=path, handed=handed
        )

    def still(self, headers: Mapping[bytes, bytes], resource: str, principal: Principal) -> bool:
        """Return whether the token that a stream was opened with is good now; see the port."""
        value = headers.get(b"authorization", b"")
        now_us = self._clock.now_us()
        if now_us >= principal.expires_at * SECOND_US:
            return False
        digest = sha256(value).digest()
        entry = self._cache.get(digest)
        try:
            if (
                entry is not None
                and entry.principal.audience == resource
                and now_us < entry.until_us
                and self._monotonic_ns() < entry.until_ns
            ):
                if entry.epoch != self._marks.epoch():
                    self._recheck(digest, entry, "")
                return entry.principal.key == principal.key
            return self._verified(value, digest, resource, now_us, "").key == principal.key
        except NotYet as wanted:
            # Asked for beside the stream; the next look finds the answer, or that there is none.
            task = asyncio.get_running_loop().create_task(_settled(wanted), name="identity.still")
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
            return True
        except BartizanError:
            return False

    def note_refused(self, error: Unauthenticated, resource: str, address: str) -> str:
        """Record why a token was refused; a request without one has asked for the way in, and is no refusal to explain."""
        if self._refusals is None or error.code == "token_missing":
            return ""
        facts: JSONObject = {"resource": resource, "detail": error.detail, **error.about}
        return self._refusals.note("token_invalid", address, facts)

    def challenge(self, resource: str, code: ChallengeCode, scope: str) -> bytes:
        """Return the WWW-Authenticate value: resource_metadata, scope, error, error_description, in this order."""
        return challenges.bearer(self._resources, resource, code, scope)

    def challenges(self, resource: str, error: Unauthenticated, scope: str) -> Headers:
        """Return the headers of a 401: Bearer first, DPoP second, and a nonce where one is wanted."""
        return challenges.all_of(self._resources, resource, error, scope, proofs=self._proofs is not None)

    # -- tokens -----------------------------------------------------------------------------------------

    def _recheck(self, digest: bytes, entry: Entry, default_scope: str) -> None:
        """The epoch moved: something was revoked. Ask about this token, then believe the new epoch."""
        epoch = self._marks.epoch()  # read before the look-up: a bump in between is seen next time
        code = self._over(entry.verified)
        if code:
            self._known.drop(digest)
            refused = Unauthenticated("token_invalid", code, scope=default_scope)
            refused.about = _about(entry.principal)
            raise refused
        entry.epoch = epoch

    def _over(self, verified: Verified) -> str:
        """Return why a verified token is over, "" while it stands."""
        grants, principal = self._grants, verified.principal
        if grants.is_revoked(principal.tenant, principal.grant_id):
            return "grant_revoked"
        if verified.standing is not None and not grants.stands(
            principal.tenant, principal.subject, principal.audience, tuple(principal.scopes), verified.standing
        ):
            return "grant_ended"
        if grants.standing.ended(principal.tenant, verified.names, verified.issued_s):
            return "ended"
        return ""

    def _verified(self, value: bytes, digest: bytes, resource: str, now_us: int, default_scope: str) -> Principal:
        about: dict[str, str] = {}
        try:
            epoch = self._marks.epoch()
            verified = self._verify(value, digest, resource, now_us)
            code = self._over(verified)
            if code:
                about = _about(verified.principal)
                raise Malformed(code)
        except Wanted as wanted:
            raise NotYet(wanted.ready, scope=default_scope) from None
        except Malformed as error:
            detail = f"{error.code} {error.detail}".strip()
            if value[:5].lower() == b"dpop ":
                raise ProofRefused("invalid_token", detail, scope=default_scope) from None
            refused = Unauthenticated("token_invalid", detail, scope=default_scope)
            refused.about = about
            raise refused from None
        principal = verified.principal
        until_us = min(principal.expires_at * SECOND_US, now_us + TRUST_US, verified.until_us or now_us + TRUST_US)
        until_ns = self._monotonic_ns() + (until_us - now_us) * 1_000
        self._known.put(digest, Entry(principal, epoch, until_us, until_ns, verified))
        return principal

    def _verify(self, value: bytes, digest: bytes, resource: str, now_us: int) -> Verified:
        if self._refused.get(digest, 0) > now_us:
            raise Malformed("jwt_signature", "seen")
        scheme, token = credentials(value)
        now_s = now_us // SECOND_US
        others = self._others
        if others is not None and token.count(b".") != 2 and others.reads(resource):
            verified = others.introspect(token, resource, now_s)
        else:
            unchecked = jwt.parse_compact(token)
            try:
                if others is not None and unchecked.claims.get("iss") != self._issuer:
                    verified = others.verify(unchecked, resource, now_s)
                else:
                    verified = self._own.verify(unchecked, resource, now_s)
            except Malformed as error:
                if error.code == "jwt_signature":
                    keep_bounded(self._refused, digest, now_us + REFUSED_US, REFUSED_ENTRIES)
                raise
        bound = bool(verified.principal.cnf)
        known = self._resources.by_uri.get(resource)
        if bound != (scheme == b"dpop") or (not bound and known is not None and known.dpop_required):
            raise Malformed("jwt_claims", "cnf")
        # Whatever issued the token: it may be older than the word that closed the resource, or another issuer's (AS-23).
        if self._resources.is_closed_to(resource, verified.principal.tenant):
            raise Malformed("jwt_claims", "tenant")
        return verified

    def _prove(
        self,
        headers: Mapping[bytes, bytes],
        value: bytes,
        principal: Principal,
        default_scope: str,
        method: str,
        path: str,
        handed: bool,
    ) -> None:
        proof, proofs = headers.get(b"dpop"), self._proofs
        if proof is None or proofs is None:
            raise ProofRefused("invalid_dpop_proof", "dpop_missing", scope=default_scope)
        try:
            _, token = credentials(value)
            owner = f"{principal.tenant}\0{principal.subject}"
            proofs.verify(proof, method=method, path=path, token=token, bound=principal.cnf, owner=owner, seen=handed)
        except NonceWanted as error:
            nonce = proofs.nonces.issue()
            detail = f"{error.code} {error.detail}"
            raise ProofRefused("use_dpop_nonce", detail, scope=default_scope, nonce=nonce) from None
        except Malformed as error:
            raise ProofRefused("invalid_dpop_proof", error.code, scope=default_scope) from None


async def _settled(wanted: NotYet) -> None:
    try:
        await wanted.finish()
    except StateUnavailable:
        pass  # the next look says the same, or asks


def credentials(value: bytes) -> tuple[bytes, bytes]:
    """Return scheme (lower case) and token of an Authorization value; raises Malformed("token_shape").

    Source: RFC 6750 §2.1, RFC 9449 §7.1; schemes are compared without case (RFC 9110 §11.1).
    """
    scheme, space, token = value.partition(b" ")
    scheme = scheme.lower()
    if not space or scheme not in (b"bearer", b"dpop") or not token or len(token) > TOKEN_BYTES:
        raise Malformed("token_shape")
    return scheme, token


def _about(principal: Principal) -> dict[str, str]:
    """Return whose token it was, as records name it."""
    facts = {
        "tenant": principal.tenant,
        "subject": principal.subject,
        "client": principal.client_id,
        "gid": principal.grant_id,
    }
    return {name: fact for name, fact in facts.items() if fact}
