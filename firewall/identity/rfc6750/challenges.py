"""What a refusal tells a client: ``WWW-Authenticate`` of Bearer first, of DPoP second (RFC 6750 §3, RFC 9449 §7.1).

Fixed texts without "=": the mcp client finds parameters with an unanchored search over all challenges
joined (oauth reference §6.1), so nothing after the first may look like one of its parameters.
"""

from __future__ import annotations

from typing import Final, Literal

from firewall.core.action import Headers
from firewall.core.errors import Unauthenticated
from firewall.core.ports import ChallengeCode
from firewall.identity.resources import Resources
from firewall.identity.rfc9449.proof import ALGORITHMS

ProofError = Literal["", "invalid_token", "invalid_dpop_proof", "use_dpop_nonce"]

_BEARER: Final = {
    "token_missing": "",
    "token_invalid": ', error="invalid_token", error_description="The access token is not valid for this resource"',
    "step_up_required": (
        ', error="insufficient_user_authentication", error_description="A stronger or fresher sign-in is needed"'
    ),
    # RFC 9396 has no code for a resource server, and ``insufficient_scope`` would send a client for a scope that it
    # holds. The code is that of draft-zehavi-oauth-rar-metadata-04; the reply's body says which detail would do.
    "details_missing": (
        ', error="insufficient_authorization_details", error_description="The token permits other calls only"'
    ),
    "scope_missing": ', error="insufficient_scope", error_description="More permission is needed for this operation"',
}
_DPOP: Final = {
    "": "",
    "invalid_token": 'error="invalid_token", ',
    "invalid_dpop_proof": 'error="invalid_dpop_proof", ',
    "use_dpop_nonce": 'error="use_dpop_nonce", error_description="A nonce is needed", ',
}


class ProofRefused(Unauthenticated):
    """A token came under the DPoP scheme, or had to. error: RFC 9449 §7.1. nonce: to be told, or ""."""

    def __init__(self, error: ProofError, detail: str, *, scope: str, nonce: str = "") -> None:
        super().__init__("token_invalid", detail, scope=scope)
        self.error = error
        self.nonce = nonce


def bearer(resources: Resources, resource: str, code: ChallengeCode, scope: str) -> bytes:
    """Return the Bearer challenge: resource_metadata, scope, error, error_description, in this order."""
    value = f'Bearer resource_metadata="{resources.metadata_url(resource)}"'
    if scope:
        value += f', scope="{scope}"'
    return (value + _BEARER[code]).encode("ascii")


def all_of(resources: Resources, resource: str, error: Unauthenticated, scope: str, *, proofs: bool) -> Headers:
    """Return the headers of a 401. scope: where the error names none. proofs: whether DPoP is spoken at all."""
    told: ProofError = error.error if isinstance(error, ProofRefused) else ""
    # Who proves the possession of a key is not told that a bearer token was wrong.
    code: ChallengeCode = "token_missing" if told or error.code == "token_missing" else "token_invalid"
    headers: Headers = ((b"www-authenticate", bearer(resources, resource, code, error.scope or scope)),)
    if proofs:
        headers += ((b"www-authenticate", f'DPoP {_DPOP[told]}algs="{" ".join(ALGORITHMS)}"'.encode("ascii")),)
    if isinstance(error, ProofRefused) and error.nonce:
        headers += ((b"dpop-nonce", error.nonce.encode("ascii")), (b"access-control-expose-headers", b"dpop-nonce"))
    return headers
