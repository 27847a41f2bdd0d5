"""What of a policy input is the same in a caller's next call of the same thing."""

from __future__ import annotations

from firewall.core.action import Protocol, Resource
from firewall.core.value import value

# The subject and the end of the context, encoded; two that are equal are one object.
Caller = tuple[bytes, bytes]


@value
class Frame:
    """What stands around the exchange's id and the time, up to the arguments; and what it was made of, kept alive.

    digest: SHA-256 of both pieces. size: their bytes. caller: all that it says of a principal; of several tokens it may say the same.
    """

    before: bytes
    after: bytes
    digest: bytes
    size: int
    caller: Caller
    resource: Resource
    protocol: Protocol
