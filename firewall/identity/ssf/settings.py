"""Who may tell us of security events. Frozen values; only `firewall.config` reads files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from firewall.core.errors import ConfigFault, Malformed
from firewall.core.jsonvalue import JSON
from firewall.net.dial import Network
from firewall.wire import jwt

PATH: Final = "/ssf/events"
LEAST_SECRET_CHARS: Final = 16


@dataclass(frozen=True, slots=True)
class Transmitter:
    """One transmitter. Durations in seconds.

    audience: what its events name as ``aud``. jwks, jwks_uri: its keys, exactly one of the two. push_secret,
    poll_secret: ``env:NAME`` or ``file:/path``, "" for none; never the secret. accounts: the issuer under which its
    people are linked here. email: whether an address may name a person. window_s: how old an event may be.
    silent_s: after how long without a word an alarm is raised, 0 never. tenant: whose people it speaks of.
    """

    name: str
    issuer: str
    audience: str
    tenant: str = "default"
    jwks: JSON = None
    jwks_uri: str = ""
    push_secret: str = ""
    poll_url: str = ""
    poll_secret: str = ""
    poll_s: int = 15
    accounts: str = ""
    email: bool = False
    window_s: int = 3600
    silent_s: int = 0
    network: Network = "public"

    def __post_init__(self) -> None:
        if not self.issuer or not self.audience:
            raise ConfigFault("signals_issuer", self.name, fix="write issuer and audience as its events name them")
        if self.jwks is not None:
            try:
                jwt.keys_of(self.jwks)
            except Malformed as error:
                raise ConfigFault("signals_keys", f"{self.name}: {error.detail}", fix="give a JWK Set") from None
        for url in (self.jwks_uri, self.poll_url):
            if url and not url.startswith("https://") and self.network == "public":
                raise ConfigFault("signals_url", self.name, fix="keys and events are fetched by https only")
