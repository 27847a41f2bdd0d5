"""Examining an issuer: does it meet what direct mode needs, and if not, why not (oauth reference §10).

In direct mode an issuer's own access tokens are taken as they are. So it must be findable, honest about its
name, demand PKCE, publish usable keys, and give tokens that say in ``aud`` for whom they are and in ``typ``
what they are. Documents prove the first half; the second is proved by a token alone, never by a promise:
without one the answer is no. Broker mode (`oidc.broker`) needs none of the second half, and is the way for
everybody else.

Nothing here raises for what an issuer does wrong: every fault is a finding.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qs, quote_plus, urlencode, urlsplit

from firewall.core.action import Headers
from firewall.core.errors import BartizanError, Malformed, UpstreamFault
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.identity.oidc.findings import Examined, Finding, Outcome, Question, candidates
from firewall.identity.oidc.metadata import METADATA_BYTES, strings
from firewall.identity.oidc.provider import ProviderFetcher
from firewall.identity.settings import LOOPBACK
from firewall.net.dial import Fetched, Purpose
from firewall.wire import jwt, strict_json

ANSWER_BYTES: Final = 64 * 1024
TOKEN_BYTES: Final = 16 * 1024
ENDPOINTS: Final = ("authorization_endpoint", "token_endpoint", "jwks_uri")
LONGEST_TOKEN_S: Final = 24 * 3600
SOMEWHERE: Final = "https://client.invalid/callback"


class Examination:
    """One examination; make a new one for each."""

    def __init__(self, question: Question, fetcher: ProviderFetcher, now_s: int) -> None:
        self._asked = question
        self._fetcher = fetcher
        self._now_s = now_s
        self._found: list[Finding] = []

    async def run(self) -> Examined:
        """Ask everything, in the order in which a client meets it."""
        metadata = await self._discover()
        if metadata:
            self._endpoints(metadata)
            self._offers(metadata)
            keys = await self._keys(metadata)
            await self._resource(metadata)
            token = self._asked.token or await self._obtained(metadata)
            await self._token(token, keys)
        return Examined(self._asked.issuer, tuple(self._found), metadata)

    # -- documents ---------------------------------------------------------------------------------------

    async def _discover(self) -> JSONObject:
        """Try the three addresses in the order in which MCP clients do (MCP 2026-07-28, authorization)."""
        for at, url in enumerate(candidates(self._asked.issuer)):
            try:
                found = await self._fetch(url, Purpose.IDP_METADATA)
                value = strict_json.loads(found.body, max_depth=16) if found.status == 200 else None
            except BartizanError as error:
                if isinstance(error, UpstreamFault) and error.code in ("unreachable", "timeout", "blocked_address"):
                    why = {"blocked_address": "its address is not permitted here"}.get(error.code, "it does not answer")
                    self._note("discovery", "fail", f"{url}: {why}", "check the network, or set network for it")
                    return {}
                value = None
            if isinstance(value, dict):
                self._note("discovery", "ok", url)
                if at == 2:
                    self._note(
                        "discovery", "warn", "only at the appended address: some clients look no further than two"
                    )
                return self._named(value)
        self._note("discovery", "fail", "no metadata at any of the three addresses", "give the issuer as its tokens do")
        return {}

    def _named(self, value: JSONObject) -> JSONObject:
        if value.get("issuer") == self._asked.issuer:
            self._note("issuer", "ok", "the metadata names this very issuer")
        else:
            told = value.get("issuer")
            near = isinstance(told, str) and told.rstrip("/").lower() == self._asked.issuer.rstrip("/").lower()
            mend = "write the issuer exactly so, trailing slash included" if near else "ask for the issuer it names"
            self._note("issuer", "fail", f"the metadata names {_shown(told)}", mend)
        return value

    def _endpoints(self, metadata: JSONObject) -> None:
        for name in ENDPOINTS:
            url = metadata.get(name)
            if not isinstance(url, str) or not self._may_fetch(url):
                self._note("endpoints", "fail", f"{name} is missing or not https: {_shown(url)}", "mend it there")
                return
        plain = any(str(metadata.get(name)).startswith("http:") for name in ENDPOINTS)
        self._note("endpoints", "ok", "all there; plain http, as loopback may" if plain else "all over https")

    def _offers(self, metadata: JSONObject) -> None:
        if "S256" in strings(metadata, "code_challenge_methods_supported", ()):
            self._note("s256", "ok", "PKCE with S256 is advertised")
        else:
            mend = "broker mode with unadvertised_s256: true, if it is understood all the same"
            self._note("s256", "fail", "S256 is not advertised: MCP clients must refuse this issuer", mend)
        documents = metadata.get("client_id_metadata_document_supported") is True
        if documents and "none" in strings(metadata, "token_endpoint_auth_methods_supported", ()):
            self._note("registration", "ok", "clients are known by their metadata documents")
        elif isinstance(metadata.get("registration_endpoint"), str):
            self._note("registration", "warn", "clients register themselves (RFC 7591); each becomes an entry there")
        else:
            self._note("registration", "warn", "no client metadata documents and no registration: enter each by hand")
        if metadata.get("authorization_response_iss_parameter_supported") is True:
            self._note("iss", "ok", "answers name their issuer (RFC 9207)")
        else:
            self._note("iss", "warn", "answers do not name their issuer (RFC 9207): newer clients will demand it")

    async def _keys(self, metadata: JSONObject) -> Mapping[str, jwt.Key]:
        url = metadata.get("jwks_uri")
        if not isinstance(url, str) or not self._may_fetch(url):
            return {}
        try:
            found = await self._fetch(url, Purpose.JWKS)
            if found.status != 200:
                raise Malformed("jwks_invalid", f"status {found.status}")
            keys = jwt.parse_jwks(found.body)
        except BartizanError as error:
            mend = "publish RSA keys of 2,048 bits or more, P-256 or Ed25519 keys, each with a kid"
            self._note("keys", "fail", f"the key set cannot be used: {error.code} {error.detail}".strip(), mend)
            return {}
        self._note("keys", "ok", f"{len(keys)} usable")
        return keys

    # -- probes ------------------------------------------------------------------------------------------

    async def _resource(self, metadata: JSONObject) -> None:
        """Ask silently for a code for the resource: whoever refuses ``resource`` says so before anybody signs in."""
        endpoint, asked = metadata.get("authorization_endpoint"), self._asked
        if urlsplit(asked.issuer).hostname in REFUSES_RESOURCE:
            self._note(
                "resource", "fail", "this provider refuses resource beside scopes (AADSTS9010010)", "broker mode"
            )
            return
        if not asked.client_id or not isinstance(endpoint, str) or not self._may_fetch(endpoint):
            self._note("resource", "warn", "not probed: no client of ours is registered there")
            return
        query = urlencode(
            {
                "response_type": "code",
                "client_id": asked.client_id,
                "redirect_uri": asked.redirect_uri or SOMEWHERE,
                "scope": "openid",
                "prompt": "none",
                "state": "probe",
                "nonce": "probe",
                "code_challenge": "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM",
                "code_challenge_method": "S256",
                "resource": asked.resource,
            }
        )
        try:
            found = await self._fetch(f"{endpoint}{'&' if '?' in endpoint else '?'}{query}", Purpose.HEALTH)
        except BartizanError as error:
            self._note("resource", "warn", f"not probed: {error.code}")
            return
        location = found.headers.get("location", "")
        told = parse_qs(urlsplit(location).query).get("error", [""])[0]
        if told in ("login_required", "interaction_required", "consent_required", "account_selection_required"):
            self._note("resource", "ok", "resource is accepted (RFC 8707)")
        elif told == "invalid_target":
            mend = "define the resource there, or use broker mode"
            self._note("resource", "fail", f"{asked.resource} is not a resource there (invalid_target)", mend)
        else:
            self._note("resource", "warn", "the probe was not answered as a silent request is; a token must show it")

    async def _obtained(self, metadata: JSONObject) -> str:
        """Return an access token of our own client for the resource, "" when the issuer gives none."""
        endpoint, asked = metadata.get("token_endpoint"), self._asked
        if not asked.secret or not isinstance(endpoint, str) or not self._may_fetch(endpoint):
            return ""
        body = urlencode({"grant_type": "client_credentials", "resource": asked.resource}).encode()
        try:
            found = await self._fetch(endpoint, Purpose.TOKEN, headers=self._basic(), body=body)
            value = strict_json.loads(found.body, max_depth=16)
        except BartizanError:
            return ""
        token = value.get("access_token") if isinstance(value, dict) and found.status == 200 else None
        return token if isinstance(token, str) else ""

    # -- a token -----------------------------------------------------------------------------------------

    async def _token(self, token: str, keys: Mapping[str, jwt.Key]) -> None:
        asked = self._asked
        if not token:
            mend = "pass one with --token FILE: an access token that a client got for this resource"
            self._note("token", "fail", "no access token to look at: what it says is not proved", mend)
            return
        if token.count(".") != 2:
            await self._opaque(token)
            return
        try:
            unchecked = jwt.parse_compact(token.encode("utf-8", "surrogatepass"), max_bytes=TOKEN_BYTES)
            key = keys.get(unchecked.kid) or (next(iter(keys.values())) if len(keys) == 1 else None)
            if key is None:
                raise Malformed("jwt_key", "its kid is not in the key set")
            claims = jwt.verify(unchecked, key)
        except Malformed as error:
            self._note("token", "fail", f"the token does not verify: {error.code} {error.detail}".strip())
            return
        self._note("token", "ok", f"signed with {unchecked.alg} by a published key")
        self._marked(unchecked.typ)
        self._claims(claims)
        if asked.kind == "opaque":
            self._note("token", "warn", "its tokens can be read here: kind: jwt would spare a question per token")

    def _marked(self, typ: str) -> None:
        if typ == "at+jwt":
            self._note("typ", "ok", "tokens are marked at+jwt (RFC 9068)")
        elif self._asked.typ == "any":
            self._note(
                "typ", "warn", f"tokens are marked {_shown(typ or 'nothing')}; ID tokens are told apart by content"
            )
        else:
            mend = "switch the RFC 9068 profile on there, or say typ: any for this issuer"
            self._note("typ", "fail", f"tokens are marked {_shown(typ or 'nothing')}, not at+jwt", mend)

    def _claims(self, claims: JSONObject) -> None:
        asked = self._asked
        wanted = asked.audiences or (asked.resource,)
        audience = claims.get("aud")
        told = [audience] if isinstance(audience, str) else audience if isinstance(audience, list) else []
        if claims.get("iss") != asked.issuer:
            self._note("issuer", "fail", f"the token names another issuer: {_shown(claims.get('iss'))}")
        if not any(one in wanted for one in told):
            mend = f"have it issue tokens for {wanted[0]}, or list what it issues under audiences"
            self._note("aud", "fail", f"the token is for {_shown(audience)}, not for this resource", mend)
        elif len(told) > 1:
            self._note("aud", "warn", "tokens are for others too: say several: true, and trust those others")
        else:
            self._note("aud", "ok", "tokens are for this resource alone")
        expires, issued = claims.get("exp"), claims.get("iat")
        if not isinstance(expires, int) or not isinstance(issued, int) or not 0 < expires - issued <= LONGEST_TOKEN_S:
            self._note("lifetime", "fail", "the token has no lifetime, or one of more than a day", "shorten it there")
        elif expires <= self._now_s or issued > self._now_s + 30:
            self._note("lifetime", "fail", "the token is not valid now", "use a fresh one, and compare the clocks")
        elif expires - issued > 3600:
            self._note("lifetime", "warn", f"tokens live for {(expires - issued) // 60} minutes")
        else:
            self._note("lifetime", "ok", f"{expires - issued} s")

    async def _opaque(self, token: str) -> None:
        """Ask what an opaque token means, as every request with one would have to."""
        asked = self._asked
        if asked.kind != "opaque" or not asked.introspection:
            mend = "say introspection for this issuer, have it issue JWTs, or use broker mode"
            self._note("token", "fail", "tokens are opaque; they would have to be asked about (RFC 7662)", mend)
            return
        try:
            found = await self._fetch(
                asked.introspection,
                Purpose.TOKEN,
                headers=self._basic(),
                body=urlencode({"token": token, "token_type_hint": "access_token"}).encode(),
            )
            value = strict_json.loads(found.body, max_depth=16) if found.status == 200 else None
        except BartizanError as error:
            self._note("token", "fail", f"the issuer cannot be asked about tokens: {error.code}")
            return
        if not isinstance(value, dict) or value.get("active") is not True:
            self._note("token", "fail", "the issuer does not say that the token is active", "check our secret there")
            return
        self._note("token", "ok", "tokens are opaque and can be asked about (RFC 7662)")
        self._claims({"iss": asked.issuer, "iat": self._now_s, **value})

    def _basic(self) -> Headers:
        pair = f"{quote_plus(self._asked.client_id)}:{quote_plus(self._asked.secret)}"
        return (
            (b"authorization", b"Basic " + base64.b64encode(pair.encode())),
            (b"content-type", b"application/x-www-form-urlencoded"),
        )

    # -- helpers -----------------------------------------------------------------------------------------

    async def _fetch(self, url: str, purpose: Purpose, *, headers: Headers = (), body: bytes | None = None) -> Fetched:
        return await self._fetcher.fetch(
            purpose,
            url,
            network=self._asked.network,
            max_bytes=METADATA_BYTES if body is None else ANSWER_BYTES,
            timeout_s=self._asked.timeout_s,
            headers=headers,
            body=body,
        )

    def _may_fetch(self, url: str) -> bool:
        parts = urlsplit(url)
        plain = parts.scheme == "http" and self._asked.network == "loopback" and parts.hostname in LOOPBACK
        return bool(parts.hostname) and (parts.scheme == "https" or plain)

    def _note(self, need: str, outcome: Outcome, text: str, mend: str = "") -> None:
        self._found.append(Finding(need, outcome, text, mend))


def _shown(value: JSON) -> str:
    """Return another's value for a person's eyes: short, printable."""
    text = value if isinstance(value, str) else strict_json.dumps(value).decode()
    kept = "".join(c for c in text[:120] if c.isprintable())
    return repr(kept + ("…" if len(text) > 120 else ""))


# Microsoft's hosts: `resource` beside v2 scopes is an error there since March 2026.
REFUSES_RESOURCE: Final = frozenset(
    {"login.microsoftonline.com", "login.microsoftonline.us", "login.partner.microsoftonline.cn", "sts.windows.net"}
)
