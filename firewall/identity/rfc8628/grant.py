"""``grant_type=urn:ietf:params:oauth:grant-type:device_code`` (RFC 8628 §3.4), on authlib's grant."""

from __future__ import annotations

from typing import ClassVar

from authlib.oauth2.rfc8628 import DeviceCodeGrant

from firewall.identity.engine.grant import ANY_CLIENT, TokenBody, TokenGrant
from firewall.identity.oauth21.codes import CodeFacts
from firewall.identity.oauth21.grants.person import first_tokens
from firewall.identity.people.users import User
from firewall.identity.rfc8628.endpoint import GRANT_TYPE as DEVICE_CODE


class Decided:
    """A device code whose person agreed, as authlib asks about it (its ``DeviceCredentialMixin``)."""

    __slots__ = ("facts",)

    def __init__(self, facts: CodeFacts) -> None:
        self.facts = facts

    def get_client_id(self) -> str:
        """Return the client that asked: `DeviceCodes.poll` gave it to no other."""
        return self.facts.client_id

    def get_scope(self) -> str:
        """Return the agreed scopes."""
        return " ".join(self.facts.scopes)


class DeviceGrant(TokenGrant, DeviceCodeGrant):  # type: ignore[misc] # authlib is published without types
    """Answers a polling device. The rules of polling are those of `DeviceCodes.poll`, which takes the code."""

    GRANT_TYPE = DEVICE_CODE
    TOKEN_ENDPOINT_AUTH_METHODS: ClassVar[list[str]] = list(ANY_CLIENT)

    def query_device_credential(self, device_code: str) -> Decided:
        """Return the decided code, once. Raises OAuthError as `DeviceCodes.poll` does."""
        facts = self.parts.devices.poll(device_code, self.client.client_id)
        self.concerns(facts.tenant, facts.subject, facts.grant_id)
        return Decided(facts)

    def validate_device_credential(self, credential: Decided) -> User:
        """Return the person who agreed, as the account stands now. Raises OAuthError: invalid_target, invalid_grant."""
        self.check_same_resource(credential.facts.resource)
        return self.user(credential.facts.tenant, credential.facts.subject)

    def generate_token(
        self,
        user: User,
        scope: str | None = None,
        grant_type: str | None = None,
        expires_in: int | None = None,
        include_refresh_token: bool = True,
    ) -> TokenBody:
        """Save the grant and return its first tokens. Raises OAuthError."""
        return first_tokens(self, self.request.credential.facts, user, renewable=include_refresh_token)
