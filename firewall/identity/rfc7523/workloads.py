"""Workloads as clients: a JWT-SVID or a Kubernetes service account token in place of a client's own assertion.

A platform vouches for the program that runs on it, so no secret has to be handed out. Which platforms, and
which of their subjects is which client, is written down in ``identity.workloads``; nothing is derived from a
name. Such a credential serves its workload for its whole short life, at several places: it is no proof of
one request, so it may come again (``once`` forbids that), and its audience must be our issuer alone.
Source: SPIFFE JWT-SVID §3, §4; RFC 7521 §4.2, RFC 7523 §2.2; draft-ietf-oauth-spiffe-client-auth;
Kubernetes service account token projection (OIDC discovery).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from firewall.core.errors import ConfigFault, Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.ports import Clock, Store
from firewall.identity.cimd.documents import DocumentFetcher
from firewall.identity.clients.registry import Client, Clients
from firewall.identity.records import SECOND_US
from firewall.identity.rfc7523.assertions import ASSERTION_TYPE, LEEWAY_S, UsedOnce
from firewall.identity.rfc7523.client_keys import FETCH_S, KeySets, spiffe_keys, verify_with
from firewall.identity.settings import WorkloadSettings
from firewall.net.dial import Purpose
from firewall.wire import jwt
from firewall.wire.oauth import Form, OAuthError

SPIFFE_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"
_TYPES: Final = {"spiffe": ("", "jwt", "jose"), "kubernetes": ("", "jwt")}
_SPIFFE: Final = "spiffe://"


class WorkloadKeys:
    """Key sets of configured platforms: from a file, or from an address on the network that was written down."""

    def __init__(self, workloads: tuple[WorkloadSettings, ...], fetcher: DocumentFetcher) -> None:
        self._fetcher = fetcher
        self._by_name = {workload.name: workload for workload in workloads}

    async def read(self, uri: str) -> bytes:
        """Return the key set of a platform; uri: its name. Raises UpstreamFault, Malformed("jwks_invalid")."""
        workload = self._by_name[uri]
        if workload.jwks_file:
            return _file(workload.jwks_file)
        fetched = await self._fetcher.fetch(
            Purpose.JWKS,
            workload.jwks_uri,
            network=workload.network,
            max_bytes=jwt.JWKS_BYTES,
            timeout_s=FETCH_S,
            ca_file=workload.ca_file,
        )
        if fetched.status != 200:
            raise Malformed("jwks_invalid", "status")
        return fetched.body


class WorkloadAuthenticator:
    """Client authentication beside registered secrets and keys; see `engine.parts.AssertedAuthentication`."""

    def __init__(
        self,
        issuer: str,
        workloads: tuple[WorkloadSettings, ...],
        clients: Clients,
        fetcher: DocumentFetcher,
        store: Store,
        clock: Clock,
    ) -> None:
        self._issuer = issuer
        self._domains = {w.issuer: w for w in workloads if w.kind == "spiffe"}
        self._clusters = {w.issuer: w for w in workloads if w.kind == "kubernetes"}
        self._inline = {w.name: _inline(w) for w in workloads if w.jwks is not None}
        self._clients = clients
        self._sets = KeySets(WorkloadKeys(workloads, fetcher), clock)
        self._used = UsedOnce(store)
        self._clock = clock

    def recognises(self, form: Form, authorization: bytes | None) -> bool:
        """Return whether the assertion claims to come from a configured platform; nothing is verified yet."""
        if authorization is not None or not form.get("client_assertion"):
            return False
        return self._platform(form) is not None

    async def authenticate(self, form: Form, authorization: bytes | None, *, address: str = "") -> Client:
        """Return the client that the workload is. Raises OAuthError invalid_client."""
        workload = self._platform(form)
        if workload is None or authorization is not None or form.get("client_secret"):
            raise OAuthError("invalid_client", "client_method")
        try:
            subject = await self._verified(workload, form.get("client_assertion").encode("utf-8", "surrogatepass"))
        except Malformed as error:
            raise OAuthError("invalid_client", error.code, error.detail) from None
        client_id = workload.clients.get(subject)
        if client_id is None:
            raise OAuthError("invalid_client", "workload_unknown")
        if form.get("client_id") not in ("", client_id):
            raise OAuthError("invalid_client", "client_mismatch")
        try:
            client = await self._clients.find(client_id, address=address)
        except Malformed as error:
            raise OAuthError("invalid_client", error.code, error.detail) from None
        if client is None or client.auth_method != "workload":
            raise OAuthError("invalid_client", "client_method")
        return client

    def _platform(self, form: Form) -> WorkloadSettings | None:
        """Return the configured platform that an assertion names, by exact strings only."""
        if form.get("client_assertion_type") not in (ASSERTION_TYPE, SPIFFE_TYPE):
            return None
        try:
            unchecked = jwt.parse_compact(form.get("client_assertion").encode("utf-8", "surrogatepass"))
        except Malformed:
            return None
        subject, issuer = unchecked.claims.get("sub"), unchecked.claims.get("iss")
        if isinstance(subject, str) and subject.startswith(_SPIFFE):
            return self._domains.get(subject[len(_SPIFFE) :].partition("/")[0])
        if form.get("client_assertion_type") == SPIFFE_TYPE or not isinstance(issuer, str):
            return None
        return self._clusters.get(issuer)

    async def _verified(self, workload: WorkloadSettings, token: bytes) -> str:
        """Return the verified subject. Raises Malformed: jwt_key, jwt_signature, jwt_claims, assertion_replayed."""
        unchecked = jwt.parse_compact(token)
        if unchecked.typ not in _TYPES[workload.kind]:
            raise Malformed("jwt_claims", "typ")
        spiffe = workload.kind == "spiffe"
        inline = self._inline.get(workload.name)
        keys = inline if inline is not None else await self._sets.get(workload.name, unchecked.kid, spiffe=spiffe)
        verify_with(keys, unchecked)
        # A JWT-SVID need not name its issuer (JWT-SVID §3): its trust domain is in its subject.
        claims: JSONObject = {"iss": "", **unchecked.claims} if spiffe else unchecked.claims
        rules = jwt.ClaimRules(
            issuer=_text(claims["iss"]) if spiffe else workload.issuer,
            audience=self._issuer,
            max_age_s=workload.max_age_s,
            leeway_s=LEEWAY_S,
            audience_list=True,  # both kinds write a list; it holds our issuer and nothing else
            iat_required=not spiffe,
            required=("sub", "jti") if workload.once else ("sub",),
        )
        jwt.check_claims(claims, rules, self._clock.now_us() // SECOND_US)
        if workload.once:
            expires = claims["exp"]
            self._used.burn(workload.name, _text(claims["jti"]), expires if isinstance(expires, int) else 0)
        return _text(claims["sub"])


def _text(value: JSON) -> str:
    return value if isinstance(value, str) else ""


def _inline(workload: WorkloadSettings) -> dict[str, jwt.Key]:
    try:
        return jwt.keys_of(spiffe_keys(workload.jwks) if workload.kind == "spiffe" else workload.jwks)
    except Malformed as error:
        raise ConfigFault("workload_keys", f"workloads {workload.name!r}: {error.detail}") from None


def _file(name: str) -> bytes:
    try:
        with Path(name).expanduser().open("rb") as file:
            return file.read(jwt.JWKS_BYTES + 1)
    except OSError:
        raise Malformed("jwks_invalid", "file") from None
