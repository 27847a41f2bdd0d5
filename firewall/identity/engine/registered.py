"""Which grants the token endpoint has. Metadata reads the names; the classes are loaded when a token is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Final

from firewall.identity.settings import IdentitySettings

if TYPE_CHECKING:
    from firewall.identity.engine.grant import TokenGrant


def _devices(settings: IdentitySettings) -> bool:
    return settings.device_grant


def _assertions(settings: IdentitySettings) -> bool:
    return bool(settings.trusted_issuers)


def _always(_settings: IdentitySettings) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Registered:
    """One grant: its ``grant_type``, ``module:class`` of the `TokenGrant`, and whether the settings offer it."""

    grant_type: str
    where: str
    offered: Callable[[IdentitySettings], bool] = _always

    def load(self) -> type[TokenGrant]:
        """Import and return the class."""
        module, _, name = self.where.partition(":")
        found: type[TokenGrant] = getattr(import_module(f"firewall.identity.{module}"), name)
        return found


# One line for each grant; tests/identity/test_engine.py loads them all.
GRANTS: Final = (
    Registered("authorization_code", "oauth21.grants.code:CodeGrant"),
    Registered("refresh_token", "oauth21.grants.refresh:RefreshGrant"),
    Registered("client_credentials", "oauth21.grants.client_credentials:ClientCredentials"),
    Registered("urn:ietf:params:oauth:grant-type:device_code", "rfc8628.grant:DeviceGrant", _devices),
    Registered("urn:ietf:params:oauth:grant-type:token-exchange", "rfc8693.grant:ExchangeGrant"),
    Registered("urn:ietf:params:oauth:grant-type:jwt-bearer", "id_jag.grant:IdentityAssertionGrant", _assertions),
)


def offered(settings: IdentitySettings) -> tuple[Registered, ...]:
    """Return the grants that these settings offer."""
    return tuple(grant for grant in GRANTS if grant.offered(settings))


def grant_types(settings: IdentitySettings) -> tuple[str, ...]:
    """Return what ``grant_types_supported`` says (RFC 8414 §2)."""
    return tuple(grant.grant_type for grant in offered(settings))
