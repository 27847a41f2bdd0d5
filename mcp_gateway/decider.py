"""Where handlers decide: a request that ends here, and an answer of our own, each through the guard."""

from __future__ import annotations

from firewall.core.action import Action, Headers, Resource
from firewall.core.errors import fault
from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import Cleared, FixedReply, Refusal
from firewall.core.points import Point
from firewall.enforce.guard import Guard
from firewall.wire import jsonrpc, strict_json
from mcp_gateway.action import request, response
from mcp_gateway.relay import Turn
from mcp_gateway.reply import JSON_TYPE, NO_STORE
from mcp_gateway.versions import ERROR, LEGACY

LEGACY_RESOURCE_UNKNOWN = -32002  # until 2025-11-25; -32602 since (SEP-2164)


class Decider:
    """Decisions of handlers; no state of its own."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard

    async def ask(
        self, turn: Turn, point: Point, resource: Resource, params: JSONObject, *, arguments: JSONObject | None = None
    ) -> Refusal | None:
        """Decide about a request that ends here: nothing of it is forwarded."""
        body = jsonrpc.build_request(turn.call.id, turn.call.method, params)
        action = request(
            point,
            turn.principal,
            turn.call.method,
            resource,
            body,
            version=turn.call.version,
            transport="http",
            arguments=arguments,
        )
        verdict = await self.guard.clear(action, turn.exchange)
        return verdict if isinstance(verdict, Refusal) else None

    async def tell(
        self,
        turn: Turn,
        point: Point,
        resource: Resource,
        body: JSONObject,
        *,
        arguments: JSONObject | None = None,
        extra: Headers = (),
    ) -> str:
        """Decide about an answer of our own and send it; return the exchange's outcome."""
        action = response(
            point,
            turn.principal,
            turn.call.method,
            resource,
            body,
            version=turn.call.version,
            arguments=arguments,
        )
        return (await self.send(turn, action, extra=extra))[0]

    async def send(
        self, turn: Turn, action: Action, *, extra: Headers = (), tool_call: bool = False
    ) -> tuple[str, Cleared | Refusal]:
        """Decide about an answer and send it, or its refusal; return the exchange's outcome and the verdict."""
        verdict = await self.guard.clear(action, turn.exchange)
        if isinstance(verdict, Cleared):
            await turn.out.final(verdict, extra=extra)
            return "ok", verdict
        return await turn.refuse(verdict, tool_call=tool_call), verdict

    async def unknown(self, turn: Turn, code: str, *, about: Resource | None = None, uri: str = "") -> str:
        """Tell that an object is not known: 400 in the modern era, on 200 in the legacy one.

        about, uri: what was asked for and in which spelling, for a resource: the specification wants the
        URI told back (SEP-2164). It is the caller's own, in normal form, and decided about like any reply.
        """
        told, legacy = fault(code), turn.call.era == LEGACY
        rpc_code = LEGACY_RESOURCE_UNKNOWN if legacy and code == "resource_unknown" else told.rpc_code
        status = 200 if legacy else told.status
        data: JSONObject = {"decision_id": turn.exchange.id}
        if about is not None and uri:
            body = jsonrpc.build_error(turn.call.id, rpc_code, told.text, {**data, "uri": uri})
            action = response(Point.MCP_ERROR, turn.principal, ERROR, about, body, version=turn.call.version)
            verdict = await self.guard.clear(action, turn.exchange)
            if isinstance(verdict, Cleared):
                await turn.out.final(verdict, status=status)
                return "refused"
        body = jsonrpc.build_error(turn.call.id, rpc_code, told.text, data)
        await turn.out.final(FixedReply(status, (JSON_TYPE, NO_STORE), strict_json.dumps(body)))
        return "refused"
