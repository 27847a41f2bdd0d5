"""Opaque secrets (codes, refresh tokens, session cookies): 256 random bits, stored only as a digest.

The text ends in its tenant, so that every look-up is keyed by tenant before anything is known about
the caller (DESIGN §6b-13). Changing that part changes the digest: it leads nowhere.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field

from firewall.identity.settings import TokenBytes, is_tenant

OPAQUE_CHARS = 160


@dataclass(frozen=True, slots=True)
class Opaque:
    """A secret and where its record stands: (tenant, key)."""

    text: str = field(repr=False)
    tenant: str
    key: str


def mint(prefix: str, tenant: str, token_bytes: TokenBytes) -> Opaque:
    """Return a new secret ``<prefix>_<43 characters>.<tenant>``."""
    secret = base64.urlsafe_b64encode(token_bytes(32)).rstrip(b"=").decode()
    text = f"{prefix}_{secret}.{tenant}"
    return Opaque(text, tenant, digest(text))


def locate(prefix: str, text: str) -> Opaque | None:
    """Return where a presented secret's record would stand, None when it has not our shape."""
    head, dot, tenant = text.partition(".")
    if not dot or len(text) > OPAQUE_CHARS or not head.startswith(prefix + "_") or not is_tenant(tenant):
        return None
    return Opaque(text, tenant, digest(text))


def digest(text: str) -> str:
    """Return the key of a secret: hex SHA-256; a look-up by it needs no constant-time compare (RS-18)."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
