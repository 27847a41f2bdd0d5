"""Calls that begin tasks, in every pair of eras.

| client, server | a ``tools/call`` |
|---|---|
| 2025-11-25 both | ``params.task`` where the tool's pinned ``execution.taskSupport`` allows it, else -32601 |
| modern both, extension declared by both | the server decides; its ``resultType: "task"`` becomes one of ours |
| any other client, a tool that demands a core task | bridged: the call waits for the task's result |
| otherwise | no task: ``params.task`` is ignored, the extension is not declared (mcp reference §5.7) |
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import NoReturn

from firewall.core.errors import Malformed, UpstreamFault
from firewall.core.points import Point
from firewall.wire import jsonrpc
from mcp_gateway import bridge, reply, tasks
from mcp_gateway.action import request
from mcp_gateway.asking import Retry, declared
from mcp_gateway.catalog import Catalog
from mcp_gateway.house import House, Refused
from mcp_gateway.relay import Relay, Turn
from mcp_gateway.settings import UpstreamSpec
from mcp_gateway.state_seal import carried
from mcp_gateway.targets import ToolTarget
from mcp_gateway.tasks import CORE, CORE_VERSION, EXTENSION, EXTENSION_ID, Task
from mcp_gateway.tasks_errand import Errand
from mcp_gateway.tasks_table import Entry, TaskTable
from mcp_gateway.tasks_targets import ResultTarget, TaskableTarget
from mcp_gateway.tasks_view import TaskViews
from mcp_gateway.upstream import Link
from mcp_gateway.versions import LEGACY, MODERN


class TaskCalls:
    """Begins tasks; its state is the table's."""

    def __init__(
        self, *, house: House, catalog: Catalog, relay: Relay, table: TaskTable, views: TaskViews, errand: Errand
    ) -> None:
        self._house = house
        self._catalog = catalog
        self._relay = relay
        self._table = table
        self._views = views
        self._errand = errand

    async def begin(self, turn: Turn, target: ToolTarget) -> str | None:
        """Serve a ``tools/call`` that may become a task and return its outcome, or None when it is an ordinary one.

        Raises Malformed (params_invalid, over_limit), UpstreamFault, Refused, StateUnavailable.
        """
        call = turn.call
        support = tasks.support(target.tool.definition.value)
        extended = call.era == MODERN and tasks.offers(call.capabilities, EXTENSION)
        if support == "forbidden" and "task" not in call.params and not extended:
            return None
        link = await self._catalog.link(turn.principal, target.spec, declared(turn, target.spec), turn.call.era)
        room = partial(self._table.room, turn.principal, turn.resource_url)
        if extended and extends(link) and room():
            return await self._carry(turn, target, link, EXTENSION, None)
        if not has_core(link):
            return None
        if call.version != CORE_VERSION:
            return await self._wait(turn, target, link) if support == "required" else None
        wanted = "task" in call.params
        if (wanted and support == "forbidden") or (not wanted and support == "required"):
            await turn.out.final(reply.unknown_method(call.id, call.era, turn.exchange.id))
            return "refused"
        if not wanted:
            return None
        ttl_ms = tasks.wanted_ttl(call.params)
        if not room():
            raise Malformed("over_limit")
        return await self._carry(turn, target, link, CORE, ttl_ms)

    async def _carry(self, turn: Turn, target: ToolTarget, link: Link, shape: tasks.Shape, ttl_ms: int | None) -> str:
        principal, spec = turn.principal, target.spec
        key = self._catalog.key_for(principal, spec.name)

        def claim(task: Task) -> Entry:
            return self._table.claim(
                principal,
                turn.resource_url,
                task,
                upstream=spec.name,
                key=key,
                tool=target.tool.definition.name,
                shape=shape,
                decision=turn.exchange.decisions[-1] if turn.exchange.decisions else "",
            )

        facts = partial(self._views.facts, principal, spec, target.tool)
        taskable = TaskableTarget(target, shape, claim, facts, ttl_ms)
        return await self._relay.carry(turn, taskable, link, self._catalog.credentials(principal, spec), key)

    # -- across eras -----------------------------------------------------------------------------------

    async def _wait(self, turn: Turn, target: ToolTarget, link: Link) -> str:
        """Begin a task that the client knows nothing of, and answer its call with the task's result.

        Bounded by the upstream's deadline; where no result comes of it, the task is cancelled.
        """
        principal, spec = turn.principal, target.spec
        facts = partial(self._views.facts, principal, spec, target.tool)
        credentials, key = self._catalog.credentials(principal, spec), self._catalog.key_for(principal, spec.name)

        def waiting(theirs: str) -> ResultTarget:
            return ResultTarget(spec, target.tool, theirs, "", facts, target.outward)

        retry: Retry | None = None
        if carried(turn.call):
            # An exchange that waits, parked, has its task. Where none does (the server asked with an error, or
            # we did), the task that was there is over: what is sent again is the call.
            step = await self._relay.resume(turn, waiting(""), link, credentials, key)
            if isinstance(step, str):
                return step
            retry = step
        begun = await self._begun(turn, TaskableTarget(target, CORE, _unclaimed, facts, None), link)
        if isinstance(begun, str):
            return begun
        outcome = "cancelled"
        try:
            outcome = await self._relay.send(turn, waiting(begun.id), link, credentials, key, retry)
        finally:
            if outcome != "ok":
                await self._abandon(turn, spec, link, begun.id)
        return outcome

    async def _begun(self, turn: Turn, target: TaskableTarget, link: Link) -> Task | str:
        call, principal = turn.call, turn.principal
        rpc_id, version = link.next_id(), link.opened.version
        body = bridge.request(call, version, rpc_id, target.upstream_params(call), trace=turn.exchange.traceparent)
        action = request(
            Point.MCP_TOOL_CALL,
            principal,
            call.method,
            target.asking(),
            body,
            version=version,
            transport=link.transport,
            headers=target.headers(version),
            arguments=target.arguments,
        )
        credentials = self._catalog.credentials(principal, target.spec)
        answer = await self._errand.run(turn, target.spec, link, rpc_id, action, credentials)
        if isinstance(answer, str):
            return answer
        try:
            return tasks.announced(answer, CORE)[0]
        except Malformed:
            raise UpstreamFault("malformed", "a tool that demands a task began none") from None

    async def _abandon(self, turn: Turn, spec: UpstreamSpec, link: Link, theirs: str) -> None:
        """Cancel a task that nobody waits for any more, as far as its server lets us."""
        if not tasks.cancels(link.opened.capabilities):
            return
        rpc_id = link.next_id()
        body = jsonrpc.build_request(rpc_id, "tasks/cancel", {"taskId": theirs})
        with contextlib.suppress(UpstreamFault, Refused):
            cleared = await self._house.clear(
                turn.principal.tenant,
                spec,
                "tasks/cancel",
                body,
                version=link.opened.version,
                point=Point.MCP_TASK_CANCEL,
            )
            headers = await self._catalog.credentials(turn.principal, spec)()
            async with link.exchange(rpc_id, cleared, headers) as messages:
                async for value in messages:
                    if "method" not in value:
                        break


def has_core(link: Link) -> bool:
    """Return whether a server lets ``tools/call`` become a core task."""
    opened = link.opened
    return opened.era == LEGACY and opened.version == CORE_VERSION and tasks.offers(opened.capabilities, CORE)


def extends(link: Link) -> bool:
    """Return whether a server has the tasks extension."""
    return link.opened.era == MODERN and EXTENSION_ID in link.opened.extensions


def _unclaimed(_task: Task) -> NoReturn:
    raise Malformed("result_shape")
