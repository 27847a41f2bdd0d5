"""Exchange: one request and everything that followed it; closed exactly once, in ``finally``."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from firewall.core.principal import Principal

_HEX: Final = b"0123456789abcdef"


@dataclass(slots=True)
class Exchange:
    """Ids, times and counters of one request. Mutable; owned by the gateway's shell.

    id: our own unguessable id, in every record and every error of this request.
    started_ns: monotonic nanoseconds.
    trace_id, parent_span, sampled: the caller's ``traceparent``, verified for shape only; "" without one.
    client_ip: peer address after trusted-proxy rules.
    """

    id: str
    principal: Principal
    protocol: str
    started_ns: int
    client_ip: str = ""
    trace_id: str = ""
    parent_span: str = ""
    sampled: bool = False
    upstream: str = ""
    verb: str = ""
    intent_uid: str = ""
    outcome: str = ""
    decisions: list[str] = field(default_factory=list)
    bytes_in: int = 0
    bytes_out: int = 0
    settled: bool = False  # the record of the answer says how this ended: no other is needed if it did
    closed: bool = False

    def follow(self, traceparent: bytes) -> None:
        """Take up a caller's trace: ``00-<32 hex>-<16 hex>-<2 hex>`` (W3C Trace Context §3.2.2); else nothing happens."""
        value = traceparent
        if len(value) != 55 or value[:3] != b"00-" or value[35:36] != b"-" or value[52:53] != b"-":
            return
        trace, span, flags = value[3:35], value[36:52], value[53:55]
        if trace.strip(_HEX) or span.strip(_HEX) or flags.strip(_HEX):
            return
        if trace.strip(b"0") == b"" or span.strip(b"0") == b"":
            return
        self.trace_id = trace.decode()
        self.parent_span = span.decode()
        self.sampled = bool(int(flags, 16) & 1)

    @property
    def span_id(self) -> str:
        """Our own span's id, 16 hex characters: a digest of the exchange's random id, so nobody stores it."""
        return blake2b(self.id.encode(), digest_size=8, person=b"span").hexdigest()

    @property
    def traceparent(self) -> str:
        """What goes on upstream (W3C Trace Context §3.2.2): the caller's trace with our span as parent, or ""."""
        if not self.trace_id:
            return ""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"
