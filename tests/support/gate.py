"""What a ResourceServer made of a table of tokens has beside ``authenticate`` and ``challenge``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from firewall.core.action import Headers
from firewall.core.errors import BartizanError, Unauthenticated
from firewall.core.principal import Principal


class TableGate:
    """admit, still and challenges over the two that a subclass has."""

    authenticate: Any
    challenge: Any

    async def admit(
        self,
        headers: Mapping[bytes, bytes],
        resource: str,
        *,
        default_scope: str,
        method: str = "",
        path: str = "",
        handed: bool = False,
        address: str = "",
    ) -> Principal:
        found: Principal = self.authenticate(headers, resource, default_scope=default_scope)
        return found

    def still(self, headers: Mapping[bytes, bytes], resource: str, principal: Principal) -> bool:
        try:
            now: Principal = self.authenticate(headers, resource, default_scope="")
        except BartizanError:
            return False
        return now.key == principal.key

    def note_refused(self, error: Unauthenticated, resource: str, address: str) -> str:
        return ""

    def challenges(self, resource: str, error: Unauthenticated, scope: str) -> Headers:
        return ((b"www-authenticate", self.challenge(resource, error.code, error.scope or scope)),)
