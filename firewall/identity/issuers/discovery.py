"""Where an issuer's keys stand, from its own metadata (RFC 8414 §3, OpenID Connect Discovery §4)."""

from __future__ import annotations

from typing import Final

from firewall.core.errors import BartizanError, ConfigFault, Malformed
from firewall.identity.issuers.profile import IssuerProfile, check_url
from firewall.identity.oidc.provider import ProviderFetcher
from firewall.identity.upstream.metadata import server_metadata_urls
from firewall.net.dial import Purpose
from firewall.wire import strict_json

METADATA_BYTES: Final = 64 * 1024


async def keys_url(profile: IssuerProfile, fetcher: ProviderFetcher, *, timeout_s: float) -> str:
    """Return the ``jwks_uri`` of the issuer's metadata; each place where that may stand is asked once.

    The document must name the issuer byte for byte (CL-04). Raises Malformed("issuer_metadata").
    """
    for url in server_metadata_urls(profile.issuer):
        try:
            fetched = await fetcher.fetch(
                Purpose.IDP_METADATA,
                url,
                network=profile.network,
                max_bytes=METADATA_BYTES,
                timeout_s=timeout_s,
                headers=((b"accept", b"application/json"),),
            )
            if fetched.status == 200:
                return _read(fetched.body, profile)
        except BartizanError:
            continue
    raise Malformed("issuer_metadata")


def _read(data: bytes, profile: IssuerProfile) -> str:
    value = strict_json.loads(data, max_depth=16)
    if not isinstance(value, dict) or value.get("issuer") != profile.issuer:
        raise Malformed("issuer_metadata", "issuer")
    uri = value.get("jwks_uri")
    if not isinstance(uri, str):
        raise Malformed("issuer_metadata", "jwks_uri")
    try:
        check_url(uri, profile.network, "")
    except ConfigFault:
        raise Malformed("issuer_metadata", "jwks_uri") from None
    return uri
