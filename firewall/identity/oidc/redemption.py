"""The provider's code for its ID token: one request to its token endpoint (OpenID Connect Core §3.1.3).

We authenticate as the provider registered us: by secret in the header or in the body, or by an assertion
(RFC 7523) whose audience is the provider's issuer and nothing else (rfc7523bis). The answer counts only
as far as its ID token does; the access token serves for one look at the userinfo endpoint and is dropped.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from urllib.parse import quote_plus, urlencode

from firewall.core.action import Headers
from firewall.core.errors import Malformed, UpstreamFault
from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import Clock, Ids
from firewall.identity.oidc.metadata import ProviderMetadata
from firewall.identity.oidc.provider import Provider
from firewall.identity.oidc.secret import Secrets
from firewall.identity.records import SECOND_US
from firewall.net.dial import Purpose
from firewall.wire import jwt, strict_json

ANSWER_BYTES = 64 * 1024
ASSERTION_S = 60
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass(frozen=True, slots=True)
class ProviderTokens:
    """What the provider gave. Unchecked: nobody has looked at a signature."""

    id_token: str = field(repr=False)
    access_token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ClientKey:
    """The key of our client assertions; never one that signs tokens of ours."""

    key: jwt.Key = field(repr=False)
    kid: str
    alg: str = "ES256"


class Redemption:
    """Exchanges codes at token endpoints and reads userinfo."""

    def __init__(self, secrets: Secrets, clock: Clock, ids: Ids, key: ClientKey | None) -> None:
        self._secrets = secrets
        self._clock = clock
        self._ids = ids
        self._key = key

    async def redeem(
        self, provider: Provider, metadata: ProviderMetadata, code: str, *, verifier: str, redirect_uri: str
    ) -> ProviderTokens:
        """Return the tokens of a code.

        Raises UpstreamFault: unreachable, timeout, malformed (no usable answer), refused (the provider
        said no), credentials (our own secret is missing).
        """
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        headers = self._authenticate(provider, metadata, form)
        answer = await provider.post(
            metadata.token_endpoint, urlencode(form).encode("ascii"), max_bytes=ANSWER_BYTES, headers=headers
        )
        value = _object(answer.body)
        if answer.status != 200:
            error = value.get("error")
            raise UpstreamFault("refused", error if isinstance(error, str) and error in _ERRORS else "")
        id_token, access_token = value.get("id_token"), value.get("access_token", "")
        if not isinstance(id_token, str) or not isinstance(access_token, str):
            raise UpstreamFault("malformed", "the provider's answer holds no ID token")
        return ProviderTokens(id_token, access_token)

    async def userinfo(self, provider: Provider, metadata: ProviderMetadata, access_token: str) -> JSONObject:
        """Return the userinfo claims, whose ``sub`` the caller must compare (Core §5.3.2). Raises UpstreamFault."""
        if not metadata.userinfo_endpoint or not access_token.isascii() or not access_token:
            raise UpstreamFault("malformed", "the provider has no userinfo to give")
        bearer: Headers = ((b"authorization", b"Bearer " + access_token.encode()), (b"accept", b"application/json"))
        answer = await provider.get(
            metadata.userinfo_endpoint, purpose=Purpose.IDP_METADATA, max_bytes=ANSWER_BYTES, headers=bearer
        )
        if answer.status != 200:
            raise UpstreamFault("refused", "userinfo")
        return _object(answer.body)

    def _authenticate(self, provider: Provider, metadata: ProviderMetadata, form: dict[str, str]) -> Headers:
        """Add our credentials to the form, or return them as headers."""
        settings = provider.settings
        if settings.client_auth == "client_secret_basic":
            # Both parts are form-encoded before they are joined (RFC 6749 §2.3.1).
            pair = f"{quote_plus(settings.client_id)}:{quote_plus(self._secrets(settings.secret))}"
            return ((b"authorization", b"Basic " + base64.b64encode(pair.encode())),)
        form["client_id"] = settings.client_id
        if settings.client_auth == "client_secret_post":
            form["client_secret"] = self._secrets(settings.secret)
        elif settings.client_auth == "private_key_jwt":
            form["client_assertion_type"] = ASSERTION_TYPE
            form["client_assertion"] = self._assertion(settings.client_id, metadata.issuer)
        return ()

    def _assertion(self, client_id: str, audience: str) -> str:
        if self._key is None:
            raise UpstreamFault("credentials", "there is no key for client assertions")
        now_s = self._clock.now_us() // SECOND_US
        claims: JSONObject = {
            "iss": client_id,
            "sub": client_id,
            "aud": audience,
            "iat": now_s,
            "exp": now_s + ASSERTION_S,
            "jti": self._ids.new("jti"),
        }
        return jwt.sign(claims, self._key.key, alg=self._key.alg, typ="JWT", kid=self._key.kid)


def _object(data: bytes) -> JSONObject:
    try:
        value = strict_json.loads(data, max_depth=16)
    except Malformed:
        raise UpstreamFault("malformed", "the provider's answer is not JSON") from None
    if not isinstance(value, dict):
        raise UpstreamFault("malformed", "the provider's answer is no object")
    return value


# Of what the provider says, only words that we know are written down (RFC 6749 §5.2).
_ERRORS = frozenset(
    {
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
        "server_error",
        "temporarily_unavailable",
    }
)
