"""How the record names a client that nobody registered, or whose document was refused.

What a stranger calls itself is no fact and its text goes nowhere. But an operator who is asked "why is my client
refused?" must find the refusal by that client's id: so the record holds the id's digest, and of an id that is a URL
the host, when it is nothing but a registered name.
"""

from __future__ import annotations

import hashlib

from firewall.core.jsonvalue import JSONObject
from firewall.identity.clients.registry import Client
from firewall.identity.rfc7523.client_auth import presented_id
from firewall.wire.cimd import host_of
from firewall.wire.oauth import Form, OAuthError

DIGEST_CHARS = 16  # of SHA-256 in hex: 64 bits, enough to find and too few to be taken for a proof


def stranger(client_id: str) -> JSONObject:
    """Return ``client_sha256``, and ``client_host`` where there is one: lower case, at most 253 of ``a-z 0-9 - .``.

    client_id: as it was sent, of any length and content; {} for "".
    """
    if not client_id:
        return {}
    host = host_of(client_id)
    return {"client_sha256": digest_of(client_id), **({"client_host": host} if host else {})}


def caller(known_id: str, form: Form | None, authorization: bytes | None) -> JSONObject:
    """Return who a refused request came from: the client that authenticated, else what it called itself (`stranger`).

    known_id: "" before authentication. form: the request's parameters, None when they could not be read.
    authorization: its field, in which an id may stand, as may one in an assertion.
    """
    return {"client_id": known_id} if known_id else stranger(presented_id(form, authorization) if form else "")


def detail_of(error: OAuthError) -> JSONObject:
    """Return ``detail`` where our reason has one: fixed words, such as ``aud`` or ``no keys: blocked_address``."""
    return {"detail": error.detail} if error.detail else {}


def is_proved(client: Client | None) -> bool:
    """Return whether a client proved who it is: a public one is a name that everybody can send (RFC 6749 §2.1)."""
    return client is not None and client.auth_method != "none"


def digest_of(client_id: str) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of an id as it was sent (UTF-8)."""
    return hashlib.sha256(client_id.encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST_CHARS]
