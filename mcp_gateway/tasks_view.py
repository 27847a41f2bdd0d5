"""A task as one caller may see it: every part of it judged at the point of what it is.

The same object comes by ``tasks/get``, ``tasks/cancel``, ``notifications/tasks/status`` and
``notifications/tasks``; whichever way, it passes here (mcp reference §2, places 1, 2 and 4):

- a completed task's result is the result of its tool: the tool's facts, its output schema, its point;
- each entry of ``inputRequests`` is a question of the server, asked only where it may ask;
- an error is ours, with the upstream's code mapped and its text left out;
- what is left (status, text) is judged as `Point.MCP_TASK_STATUS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from firewall.core.action import Resource
from firewall.core.errors import Malformed, UpstreamFault
from firewall.core.exchange import Exchange
from firewall.core.jsonvalue import JSON, JSONObject, Path
from firewall.core.permit import Cleared, Refusal
from firewall.core.points import Point
from firewall.core.principal import Principal
from firewall.enforce.guard import Guard
from mcp_gateway import bridge, content, questions, tasks
from mcp_gateway.action import response
from mcp_gateway.apps import Rights
from mcp_gateway.catalog import Catalog, Endpoint
from mcp_gateway.content import Outward
from mcp_gateway.house import House, Refused
from mcp_gateway.inventory import Inventory, Tool
from mcp_gateway.schema import Verdict
from mcp_gateway.settings import UpstreamSpec
from mcp_gateway.tasks import Task
from mcp_gateway.tasks_table import Entry, TaskTable
from mcp_gateway.versions import MODERN


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads: the caller, where, the revision that it speaks, and the capabilities that it declared."""

    principal: Principal
    endpoint: Endpoint
    exchange: Exchange
    version: str
    capabilities: JSONObject


class TaskViews:
    """Judges tasks; no state but the table's."""

    def __init__(self, guard: Guard, house: House, catalog: Catalog, inventory: Inventory, table: TaskTable) -> None:
        self._guard = guard
        self._house = house
        self._catalog = catalog
        self._inventory = inventory
        self._table = table

    async def show(
        self,
        reader: Reader,
        spec: UpstreamSpec,
        entry: Entry,
        task: Task,
        wrap: Callable[[JSONObject], JSONObject],
        at: str,
        method: str,
    ) -> Cleared | Refusal:
        """Return a message that shows a task, sendable, and note the task's state.

        wrap: a task's members → the whole message, in which they stand as member ``at``. method: the
        wire's method for which it is told.
        Raises Malformed("result_shape") for another task's state, or a payload of a wrong shape;
        UpstreamFault, StateUnavailable.
        """
        if task.id != entry.theirs:
            raise Malformed("result_shape", "the upstream told another task's state")
        members = tasks.shown(task, entry.id, entry.shape)
        tool = await self.tool(reader.principal, spec, entry)
        resource, point = self.facts(reader.principal, spec, tool, "none"), Point.MCP_TASK_STATUS
        asks: JSONObject = {}
        arguments: JSONObject | None = None
        coupled: tuple[Path, ...] = ()
        if task.result is not None:
            outward = self._catalog.outward(reader.principal, reader.endpoint, spec)
            result = tool_result(task.result, outward, spec.apps)
            point, members["result"] = Point.MCP_TOOL_RESULT, result
            resource = self.facts(reader.principal, spec, tool, tool.check_result(task.result) if tool else "none")
            arguments = {"is_error": result.get("isError") is True, "structured": "structuredContent" in result}
            if "structuredContent" in result:
                coupled = ((at, "result", "content"), (at, "result", "structuredContent"))
        elif task.error is not None:
            members["error"] = told_error(task.error)
        elif task.asks is not None:
            asked = await self._asked(reader, spec, task.asks)
            if isinstance(asked, Refusal):
                return asked
            members["inputRequests"], asks = asked
        action = response(
            point, reader.principal, method, resource, wrap(members), version=reader.version, arguments=arguments
        )
        if point is Point.MCP_TOOL_RESULT:
            action = replace(action, arguments=arguments or {}, coupled=coupled)
        verdict = await self._guard.clear(action, reader.exchange)
        # Only what was shown can be answered.
        self._table.update(reader.principal.tenant, entry, task, asks=asks if isinstance(verdict, Cleared) else None)
        return verdict

    async def tool(self, principal: Principal, spec: UpstreamSpec, entry: Entry) -> Tool | None:
        """Return the tool that a task runs, as it is defined now; None when it, or its upstream, is gone."""
        try:
            return (await self._catalog.catalogue(principal, spec, spec.ttl_s)).tools.get(entry.tool)
        except (UpstreamFault, Refused):
            return None

    def facts(self, principal: Principal, spec: UpstreamSpec, tool: Tool | None, schema: Verdict) -> Resource:
        """Return what policy reads about a task: the facts of its tool now, or of its server when that is gone."""
        if tool is None:
            return self._house.resource(principal.tenant, spec)
        return self._inventory.resource(principal.tenant, tool, schema)

    async def _asked(
        self, reader: Reader, spec: UpstreamSpec, given: JSONObject
    ) -> tuple[JSONObject, JSONObject] | Refusal:
        """Return the questions of a waiting task as they may be shown, and what answers will be judged by."""
        declared = questions.declared(reader.capabilities, spec.asks)
        try:
            found = questions.listed(given, declared, upstream=spec.name, era=MODERN, new_id=str)
        except Malformed:
            raise Malformed("result_shape", "the task asks what may not be asked") from None
        resource = self._house.resource(reader.principal.tenant, spec)
        shown: JSONObject = {}
        kept: JSONObject = {}
        for key, question in found.items():
            body: JSONObject = {"method": question.method, "params": question.params}
            action = questions.ask_action(
                question, reader.principal, resource, body, version=reader.version, transport="http"
            )
            verdict = await self._guard.clear(action, reader.exchange)
            if isinstance(verdict, Refusal):
                return verdict
            shown[key], kept[key] = verdict.body, question.sealed()
        return shown, kept


def tool_result(result: JSON, outward: Outward, rights: Rights) -> JSONObject:
    """Return a tool's result as it stands inside a task. Raises Malformed("result_shape")."""
    whole = content.tool_result(0, MODERN, result, {}, outward, rights)["result"]
    assert isinstance(whole, dict)
    del whole["resultType"]  # the discriminator is that of the answer around it
    return whole


def told_error(error: JSONObject) -> JSONObject:
    """Return the JSON-RPC error of a failed task: mapped code, fixed text. Raises Malformed("result_shape")."""
    code = error.get("code")
    if not isinstance(code, int) or isinstance(code, bool):
        raise Malformed("result_shape")
    told = bridge.error(0, MODERN, code, error.get("data"))["error"]
    assert isinstance(told, dict)
    return told
