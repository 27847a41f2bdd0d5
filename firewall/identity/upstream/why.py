"""Why an account was not connected, in words that its person may see. Pure.

Another server's sentences (``error_description``, ``error_uri``) are never shown or kept: whoever runs that server,
or bends an answer on its way, would speak on our page. Of its answer the error code alone counts, and only one that
a standard has registered; any other is ``other``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from firewall.core.errors import FAULTS, BartizanError, UpstreamFault, fault_of

OTHER: Final = "other"

# The OAuth Extensions Error Registry, as far as a client of ours can meet it.
AUTHORIZATION: Final = frozenset(
    {
        # RFC 6749 §4.1.2.1
        "invalid_request",
        "unauthorized_client",
        "access_denied",
        "unsupported_response_type",
        "invalid_scope",
        "server_error",
        "temporarily_unavailable",
        # OpenID Connect Core §3.1.2.6
        "interaction_required",
        "login_required",
        "account_selection_required",
        "consent_required",
        "invalid_request_uri",
        "invalid_request_object",
        "request_not_supported",
        "request_uri_not_supported",
        "registration_not_supported",
        # RFC 8707 §2, RFC 9396 §5, RFC 9449 §10, RFC 9470 §5
        "invalid_target",
        "invalid_authorization_details",
        "invalid_dpop_proof",
        "unmet_authentication_requirements",
    }
)
TOKEN: Final = frozenset(
    {
        # RFC 6749 §5.2
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
        # what servers answer there as well, and RFC 8707 §2, RFC 9396 §5, RFC 9449 §5, §8
        "access_denied",
        "invalid_target",
        "invalid_authorization_details",
        "invalid_dpop_proof",
        "use_dpop_nonce",
    }
)


@dataclass(frozen=True, slots=True)
class Why:
    """A refusal. server: host of whoever refused, "" when nobody was asked. fault: a code of ``core.errors.FAULTS``.

    error: the registered OAuth error, or ``other``; "" when the server gave none.
    """

    server: str
    fault: str
    error: str = ""

    @property
    def sentence(self) -> str:
        """Our own words for the fault."""
        return FAULTS[self.fault].text


def authorization_error(text: str) -> str:
    """Return the code of an authorization response: registered, else ``other``; "" for none (RFC 6749 §4.1.2.1)."""
    return text if text in AUTHORIZATION or not text else OTHER


def why(issuer: str, error: BartizanError) -> Why:
    """Return why an issuer gave nothing: an UpstreamFault, or a refusal of its token endpoint by its OAuth error."""
    if isinstance(error, UpstreamFault):
        return Why(host_of(issuer), fault_of(error).code)
    return Why(host_of(issuer), "upstream_credentials", error.code if error.code in TOKEN else OTHER)


def host_of(issuer: str) -> str:
    """Return how an issuer is shown. issuer: from checked metadata, or "" """
    return urlsplit(issuer).netloc
