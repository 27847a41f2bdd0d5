"""A modern server that insists on tasks, for a client that knows none: the call waits for the result.

The extension is never declared for such a client; a server that needs it says so (-32021), and only then
is it asked again, with the extension and a task that stays ours (mcp reference §5.7). The client sees one
blocking call, bounded by the upstream's deadline; where no result comes of it, the task is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import Final

from firewall.core.errors import Malformed, UpstreamFault
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.permit import Refusal
from firewall.core.points import Point
from firewall.enforce.guard import Guard
from firewall.wire import jsonrpc
from mcp_gateway import bridge, tasks
from mcp_gateway.action import request, response
from mcp_gateway.catalog import Catalog
from mcp_gateway.house import House, Refused
from mcp_gateway.relay import Turn
from mcp_gateway.targets import Target, ToolTarget
from mcp_gateway.tasks import EXTENSION, EXTENSION_ID, Task
from mcp_gateway.tasks_errand import Errand
from mcp_gateway.upstream import Link
from mcp_gateway.versions import ERROR, MODERN

POLL_S: Final = 1.0  # where a server suggests no interval
POLL_MAX_S: Final = 5.0
DECLARED: Final[JSONObject] = {"extensions": {EXTENSION_ID: {}}}


class TaskWait:
    """Waits for tasks that clients know nothing of; no state of its own."""

    def __init__(self, guard: Guard, *, house: House, catalog: Catalog, errand: Errand) -> None:
        self._guard = guard
        self._house = house
        self._catalog = catalog
        self._errand = errand

    async def insists(self, turn: Turn, target: Target, link: Link, data: JSON) -> str | None:
        """Serve a call whose server answered -32021; return its outcome, or None where tasks are not what it lacks.

        Raises UpstreamFault (timeout, malformed, question_unanswered), StateUnavailable.
        """
        required = data.get("requiredCapabilities") if isinstance(data, dict) else None
        if (
            not isinstance(target, ToolTarget)
            or not isinstance(required, dict)
            or set(required) != {"extensions"}
            or not tasks.offers(required, EXTENSION)
            or link.opened.era != MODERN
            or turn.call.era == MODERN  # it can declare the extension itself
        ):
            return None
        begun = await self._ask(
            turn, target, link, "tools/call", target.upstream_params(turn.call), Point.MCP_TOOL_CALL
        )
        if isinstance(begun, str):
            return begun
        try:
            task = tasks.announced(begun, EXTENSION)[0]
        except Malformed:
            raise UpstreamFault("malformed", "a server that insists on a task began none") from None
        outcome = "cancelled"
        try:
            async with asyncio.timeout(target.spec.deadline_s):
                outcome = await self._until_over(turn, target, link, task)
        except TimeoutError:
            raise UpstreamFault("timeout") from None
        finally:
            if outcome != "ok":
                await self._abandon(turn, target, link, task.id)
        return outcome

    async def _until_over(self, turn: Turn, target: ToolTarget, link: Link, task: Task) -> str:
        theirs = task.id
        while not task.over:
            if task.status == "input_required":
                raise UpstreamFault("question_unanswered")  # a task's questions belong to who can follow it
            poll_s = POLL_S if task.poll_ms is None else task.poll_ms / 1000
            await asyncio.sleep(min(max(poll_s, tasks.POLL_MS_MIN / 1000), POLL_MAX_S))
            told = await self._state(turn, target, link, theirs)
            if isinstance(told, str):
                return told
            task = told
        if task.status == "completed" and task.result is None:  # an announcement has no payload
            told = await self._state(turn, target, link, theirs)
            if isinstance(told, str):
                return told
            task = told
        return await self._tell(turn, target, link, task)

    async def _state(self, turn: Turn, target: ToolTarget, link: Link, theirs: str) -> Task | str:
        """Return a task's state, or the outcome of a call that was answered already."""
        told = await self._ask(turn, target, link, "tasks/get", {"taskId": theirs}, Point.MCP_TASK_GET)
        if isinstance(told, str):
            return told
        try:
            task = tasks.read(told, EXTENSION)
        except Malformed:
            raise UpstreamFault("malformed", "the state of a task has no known shape") from None
        if task.id != theirs:
            raise UpstreamFault("malformed", "the upstream told another task's state")
        return task

    async def _tell(self, turn: Turn, target: ToolTarget, link: Link, task: Task) -> str:
        call, principal = turn.call, turn.principal
        try:
            if task.result is not None:
                body, resource = target.result(call, task.result, link.opened)
                action = response(target.answered, principal, target.method, resource, body, version=call.version)
            else:
                code = task.error.get("code") if task.error is not None else -32603
                body = bridge.error(call.id, call.era, code if isinstance(code, int) else -32603, None)
                resource = self._house.resource(principal.tenant, target.spec)
                action = response(Point.MCP_ERROR, principal, ERROR, resource, body, version=call.version)
        except Malformed:
            raise UpstreamFault("malformed", "the result of a task has no known shape") from None
        verdict = await self._guard.clear(action, turn.exchange)
        if isinstance(verdict, Refusal):
            return await turn.refuse(verdict, tool_call=True)
        await turn.out.final(verdict)
        return "ok"

    async def _ask(
        self, turn: Turn, target: ToolTarget, link: Link, method: str, params: JSONObject, point: Point
    ) -> JSONObject | str:
        principal = turn.principal
        rpc_id, version = link.next_id(), link.opened.version
        body = jsonrpc.build_request(
            rpc_id,
            method,
            {**params, "_meta": bridge.envelope(version, trace=turn.exchange.traceparent, declared=DECLARED)},
        )
        first = point is Point.MCP_TOOL_CALL
        action = request(
            point,
            principal,
            method,
            target.asking(),
            body,
            version=version,
            transport=link.transport,
            headers=target.headers(version) if first else None,
            arguments=target.arguments if first else {},
        )
        return await self._errand.run(
            turn, target.spec, link, rpc_id, action, self._catalog.credentials(principal, target.spec)
        )

    async def _abandon(self, turn: Turn, target: ToolTarget, link: Link, theirs: str) -> None:
        rpc_id, version = link.next_id(), link.opened.version
        params: JSONObject = {"taskId": theirs, "_meta": bridge.envelope(version, declared=DECLARED)}
        clear = partial(self._house.clear, version=version, point=Point.MCP_TASK_CANCEL)
        with contextlib.suppress(UpstreamFault, Refused):
            cleared = await clear(
                turn.principal.tenant,
                target.spec,
                "tasks/cancel",
                jsonrpc.build_request(rpc_id, "tasks/cancel", params),
            )
            headers = await self._catalog.credentials(turn.principal, target.spec)()
            async with link.exchange(rpc_id, cleared, headers) as messages:
                async for value in messages:
                    if "method" not in value:
                        break
