"""One request about a task, to its upstream and back: what it says meanwhile is not relayed.

`relay` carries what may take long; a task's state, its end and its answers are asked for here.
"""

from __future__ import annotations

from firewall.core.action import Action
from firewall.core.errors import Malformed, UpstreamFault
from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import Cleared, Refusal
from firewall.core.points import Point
from firewall.enforce.guard import Guard
from firewall.wire import jsonrpc
from mcp_gateway import bridge
from mcp_gateway.action import response
from mcp_gateway.house import House
from mcp_gateway.relay import Turn
from mcp_gateway.settings import UpstreamSpec
from mcp_gateway.upstream import Credentials, Link
from mcp_gateway.versions import ERROR


class Errand:
    """Sends decided requests and reads their answers; no state of its own."""

    def __init__(self, guard: Guard, house: House) -> None:
        self._guard = guard
        self._house = house

    async def run(
        self, turn: Turn, spec: UpstreamSpec, link: Link, rpc_id: int, action: Action, credentials: Credentials
    ) -> JSONObject | str:
        """Return the result of a request, or the exchange's outcome where the client was answered already.

        Answered are refusals, and an upstream's error by its mapped code. Raises UpstreamFault, StateUnavailable.
        """
        cleared = await self._guard.clear(action, turn.exchange)
        if isinstance(cleared, Refusal):
            return await turn.refuse(cleared, tool_call=turn.call.method == "tools/call")
        headers = await credentials()
        async with link.exchange(rpc_id, cleared, headers) as messages:
            async for value in messages:
                if "method" in value:
                    continue
                try:
                    answer = jsonrpc.parse(value)
                except Malformed:
                    break
                if isinstance(answer, jsonrpc.ErrorResponse):
                    return await self._failed(turn, spec, answer)
                if isinstance(answer, jsonrpc.Response) and isinstance(answer.result, dict):
                    return answer.result
                break
        raise UpstreamFault("malformed", "the answer about a task has no known shape")

    async def _failed(self, turn: Turn, spec: UpstreamSpec, answer: jsonrpc.ErrorResponse) -> str:
        call = turn.call
        body = bridge.error(call.id, call.era, answer.code, answer.data)
        resource = self._house.resource(turn.principal.tenant, spec)
        action = response(Point.MCP_ERROR, turn.principal, ERROR, resource, body, version=call.version)
        verdict = await self._guard.clear(action, turn.exchange)
        if not isinstance(verdict, Cleared):
            return await turn.refuse(verdict)
        await turn.out.final(verdict, status=bridge.error_status(body, call.era))
        return "ok"
