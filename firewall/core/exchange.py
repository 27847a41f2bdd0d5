"""Exchange: one request and everything that followed it; closed exactly once, in ``finally``."""

from __future__ import annotations

from dataclasses import dataclass, field

from firewall.core.principal import Principal


@dataclass(slots=True)
class Exchange:
    """Ids, times and counters of one request. Mutable; owned by the gateway's shell.

    id: our own unguessable id, in every record and every error of this request.
    started_ns: monotonic nanoseconds.
    trace: ``traceparent`` parts (trace id, parent span id, sampled), verified for shape only.
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
    closed: bool = False
