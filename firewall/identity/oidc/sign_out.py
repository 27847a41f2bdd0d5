"""Signing out at the provider too (OpenID Connect RP-Initiated Logout 1.0 §2), after signing out here.

The provider wants to see its ID token again to know who leaves. It is kept sealed, under a cookie of its
own, no longer than a session lives, and used once. Nothing of signing out here waits for the provider: where
it is not reachable, or has no such endpoint, one is signed out here and that is all.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode

from firewall.core.errors import Malformed, UpstreamFault
from firewall.core.ports import Clock, Store
from firewall.identity import opaque, records
from firewall.identity.oidc.provider import Provider
from firewall.identity.oidc.settings import ProviderSettings
from firewall.identity.records import SECOND_US
from firewall.identity.settings import IdentitySettings, TokenBytes
from firewall.identity.web import WebRequest, set_cookie
from firewall.state.vault import Sealer

COOKIE = "bz_idp_out"
PREFIX = "bzo"
PURPOSE = "idp-sign-out"
AFTERWARDS = "/account/grants"


class SignOuts:
    """Remembers at sign-in, and makes the address to leave by."""

    def __init__(
        self,
        providers: Sequence[Provider],
        store: Store,
        clock: Clock,
        sealer: Sealer,
        settings: IdentitySettings,
        token_bytes: TokenBytes,
    ) -> None:
        self._providers = {p.settings.name: p for p in providers}
        self._kept = store.collection("idp_sign_outs")
        self._clock = clock
        self._sealer = sealer
        self._settings = settings
        self._token_bytes = token_bytes
        self._cookie = settings.cookie(COOKIE)

    def remember(self, tenant: str, settings: ProviderSettings, id_token: str) -> tuple[tuple[bytes, bytes], ...]:
        """Keep what signing out will need; return the Set-Cookie header, none where that is not wanted."""
        if not settings.sign_out:
            return ()
        secret = opaque.mint(PREFIX, tenant, self._token_bytes)
        lifetime_s = self._settings.session_lifetime_s
        sealed = self._sealer.seal(PURPOSE, tenant, id_token, ttl_s=lifetime_s, owner=secret.key)
        expires_us = self._clock.now_us() + lifetime_s * SECOND_US
        value = records.encode({"idp": settings.name, "id_token": sealed})
        self._kept.put(tenant, secret.key, value, expires_us=expires_us)
        return (set_cookie(self._cookie, secret.text, secure=self._settings.secure, max_age_s=lifetime_s),)

    async def leave(self, request: WebRequest) -> tuple[str, tuple[tuple[bytes, bytes], ...]] | None:
        """Return where to send the browser and the header that removes the cookie; None when nowhere."""
        secret = opaque.locate(PREFIX, request.cookies.get(self._cookie, ""))
        entry = self._kept.take(secret.tenant, secret.key) if secret else None
        if secret is None or entry is None:
            return None
        value = records.decode(entry.value)
        provider = self._providers.get(records.text(value, "idp"))
        if provider is None:
            return None
        try:
            endpoint = (await provider.metadata()).end_session_endpoint
            hint = self._sealer.open(PURPOSE, secret.tenant, records.text(value, "id_token"), owner=secret.key)
        except (UpstreamFault, Malformed):
            return None
        if not endpoint:
            return None
        query = urlencode(
            {
                "id_token_hint": str(hint),
                "client_id": provider.settings.client_id,
                "post_logout_redirect_uri": self._settings.public_url + AFTERWARDS,
            }
        )
        gone = set_cookie(self._cookie, "", secure=self._settings.secure, max_age_s=0)
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{query}", (gone,)
