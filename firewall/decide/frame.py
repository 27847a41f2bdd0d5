"""What of a policy input is the same in a caller's next call of the same thing."""

from __future__ import annotations

from firewall.core.action import Protocol, Resource
from firewall.core.principal import Principal
from firewall.core.value import value


@value
class Frame:
    """What stands around the exchange's id and the time, up to the arguments; and what it was made of, kept alive.

    digest: SHA-256 of both pieces.
    """

    before: bytes
    after: bytes
    digest: bytes
    principal: Principal
    resource: Resource
    protocol: Protocol
