"""What we present to an upstream: a secret of our own, or nothing. Never the caller's token (AUTH-02, RS-16).

The inbound token is not even within reach here: a Principal does not carry it. The other sources stand
in front of this one, in the fixed order of oauth reference §1-6 (`broker`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from firewall.core.errors import ConfigFault, UpstreamFault
from firewall.core.principal import Principal

SECRET_BYTES = 8192
FORBIDDEN_HEADERS = frozenset(
    {"host", "content-length", "content-type", "transfer-encoding", "connection", "cookie", "dpop", "forwarded"}
)


@dataclass(frozen=True, slots=True)
class CredentialSettings:
    """Where the secret of one upstream comes from.

    kind: ``none`` sends nothing. ``env`` and ``file`` name where the secret is; a file must be
    readable by its owner only and is read again when it changes. header and prefix say how it is
    sent (``Authorization: Bearer …``, ``X-Api-Key: …``).
    """

    kind: Literal["none", "env", "file"] = "none"
    name: str = ""
    header: str = "Authorization"
    prefix: str = "Bearer "


class StaticUpstreamCredentials:
    """Implements `core.ports.UpstreamCredentials`. An upstream that is not configured gets nothing, by an error."""

    def __init__(self, settings: Mapping[str, CredentialSettings], environment: Mapping[str, str]) -> None:
        for upstream, credential in settings.items():
            check_credential(upstream, credential)
        self._settings = dict(settings)
        self._environment = environment
        self._files: dict[str, tuple[int, bytes]] = {}

    def add(self, upstream: str, credential: CredentialSettings) -> None:
        """Configure one more upstream (a registration)."""
        check_credential(upstream, credential)
        self._settings[upstream] = credential

    def has(self, upstream: str) -> bool:
        """Return whether a secret is configured for an upstream."""
        known = self._settings.get(upstream)
        return known is not None and known.kind != "none"

    async def headers_for(self, principal: Principal, upstream: str) -> tuple[tuple[bytes, bytes], ...]:
        """Return the credential headers; see the port."""
        credential = self._settings.get(upstream)
        if credential is None:
            raise UpstreamFault("credentials", f"upstream {upstream} has no credential setting")
        if credential.kind == "none":
            return ()
        secret = self._from_environment(credential) if credential.kind == "env" else self._from_file(credential)
        return ((credential.header.lower().encode("ascii"), credential.prefix.encode("ascii") + secret),)

    def key_for(self, principal: Principal, upstream: str) -> str:
        """Return the pool key: tenants never share a session, even where they share a secret."""
        credential = self._settings.get(upstream)
        return f"{principal.tenant}/{credential.kind if credential else 'missing'}"

    def _from_environment(self, credential: CredentialSettings) -> bytes:
        return _usable(self._environment.get(credential.name, "").encode("utf-8", "surrogateescape"))

    def _from_file(self, credential: CredentialSettings) -> bytes:
        try:
            with Path(credential.name).open("rb") as file:
                facts = os.fstat(file.fileno())
                if stat.S_IMODE(facts.st_mode) & 0o077:
                    raise UpstreamFault("credentials", f"{credential.name} is readable by others", fix="chmod 600")
                kept = self._files.get(credential.name)
                if kept is not None and kept[0] == facts.st_mtime_ns:
                    return kept[1]
                secret = _usable(file.read(SECRET_BYTES + 1).strip())
        except OSError:
            raise UpstreamFault("credentials", f"{credential.name} cannot be read") from None
        self._files[credential.name] = (facts.st_mtime_ns, secret)
        return secret


def _usable(secret: bytes) -> bytes:
    if not secret or len(secret) > SECRET_BYTES or any(not 0x20 <= byte <= 0x7E for byte in secret):
        raise UpstreamFault("credentials", "the secret is missing, too long or holds characters a header cannot carry")
    return secret


def check_credential(upstream: str, credential: CredentialSettings) -> None:
    """Raise ConfigFault: credential_name, credential_header, for a setting that could not be sent."""
    where = f"upstream {upstream}"
    if credential.kind != "none" and not credential.name:
        raise ConfigFault("credential_name", where, fix="name the environment variable or the file")
    header = credential.header
    if not header.replace("-", "").isalnum() or not header.isascii() or header.lower() in FORBIDDEN_HEADERS:
        raise ConfigFault("credential_header", where, fix="use a header such as Authorization or X-Api-Key")
    if not credential.prefix.isascii() or any(c < " " for c in credential.prefix):
        raise ConfigFault("credential_header", where, fix="use plain characters in the prefix")
