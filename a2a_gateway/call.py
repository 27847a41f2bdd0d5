"""One JSON-RPC request while it is handled, and how its caller is told something in our own words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from a2a_gateway import reply
from a2a_gateway.inventory import Agent
from a2a_gateway.parked import Parked
from a2a_gateway.tasks import Caller, Progress
from a2a_gateway.versions import Method
from firewall.core.action import Action
from firewall.core.errors import FAULTS, AuditUnavailable
from firewall.core.exchange import Exchange
from firewall.core.finding import Finding
from firewall.core.permit import Cleared, FixedReply, Refusal
from firewall.core.ports import ResourceServer
from firewall.core.principal import Principal
from firewall.enforce.guard import Guard
from firewall.enforce.token_rules import cure
from firewall.net import asgi
from firewall.wire import jsonrpc

Outcome = tuple[Literal["ok", "refused", "upstream_fault", "cancelled", "internal"], str]


@dataclass(slots=True)
class Call:
    """One JSON-RPC request. resource: the agent's URI here; allowed: extension URIs that may pass.

    still: whether the caller's token is good now; a stream ends when it is not.

    progress: the order of what came back, in the agent's ids; named: (kind, the agent's id) → the id it is shown
    under, of those claimed for the caller so far. known: the same of ids that are only mentioned.

    resumed: the task of ours whose message this sends, until the agent has a task of its own for it.
    answered: with a message instead. bare: the answer has no wrapper, whatever the method upstream is.
    """

    agent: Agent
    principal: Principal
    exchange: Exchange
    rpc_id: jsonrpc.ID
    method: Method
    caller: Caller
    out: asgi.EventStream
    send: asgi.Send
    allowed: frozenset[str]
    resource: str
    still: Callable[[], bool]
    progress: Progress = field(default_factory=Progress)
    named: dict[tuple[str, str], str] = field(default_factory=dict)
    known: dict[tuple[str, str], str] = field(default_factory=dict)
    resumed: Parked | None = None
    answered: bool = False
    bare: bool = False


def refused(resource_server: ResourceServer, refusal: Refusal, rpc_id: jsonrpc.ID | None, resource: str) -> FixedReply:
    """Return the reply for a refusal, with the challenge where a scope would cure it."""
    return reply.refused(refusal, rpc_id, cure(resource_server, resource, refusal))


async def tell(out: asgi.EventStream, send: asgi.Send, told: FixedReply) -> None:
    """Say it where the caller reads: as the reply, or as the last event of an open stream.

    A plain event that is a JSON-RPC error response, as the specification has it (§9.4.2): the
    SDKs raise it; an ``error``-typed one is heard by one of them only.
    """
    if out.opened:
        await out.fixed_event(told)
        await out.close()
    else:
        await asgi.write_fixed(send, told)


async def clear_seen(guard: Guard, action: Action, exchange: Exchange, seen: list[Finding]) -> Cleared | Refusal:
    """As `Guard.clear`, with findings in place of a scan of the body."""
    verdict = await guard.check_remote(action, exchange, seen)
    if isinstance(verdict, Refusal):
        return verdict
    cleared = guard.commit(verdict, exchange)
    if isinstance(cleared, Cleared):
        try:
            await guard.settle(cleared)  # at once, unless records must be on disk first
        except AuditUnavailable:
            return Refusal(FAULTS["audit_unavailable"], cleared.decision_id)
    return cleared
