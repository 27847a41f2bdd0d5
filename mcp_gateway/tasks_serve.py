"""``tasks/*``: a caller's own tasks, by ids of ours (MCP 2025-11-25, tasks; extension ``io.modelcontextprotocol/tasks``).

Every request about a task is decided at `Point.MCP_TASK_GET` or ``MCP_TASK_CANCEL`` with the present facts
of the task's tool; what comes back passes `tasks_view`. An id that is not the caller's own is answered as
an unknown one, after a decision, so that guessing is counted and recorded.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

from firewall.core.action import Resource
from firewall.core.errors import Malformed, UpstreamFault, fault
from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import Cleared, FixedReply, Refusal
from firewall.core.points import Point
from firewall.enforce.guard import Guard
from firewall.wire import jsonrpc, strict_json
from mcp_gateway import bridge, questions, reply, tasks
from mcp_gateway.action import request, response
from mcp_gateway.asking import declared
from mcp_gateway.catalog import Catalog, Endpoint
from mcp_gateway.house import House
from mcp_gateway.message import Rejected
from mcp_gateway.relay import Relay, Turn
from mcp_gateway.sessions import Sessions
from mcp_gateway.settings import UpstreamSpec
from mcp_gateway.tasks import CORE, CORE_VERSION, EXTENSION, EXTENSION_ID, TERMINAL
from mcp_gateway.tasks_errand import Errand
from mcp_gateway.tasks_table import Entry, TaskTable
from mcp_gateway.tasks_targets import ResultTarget
from mcp_gateway.tasks_view import Reader, TaskViews
from mcp_gateway.versions import MODERN

PAGE: Final = 100
_CORE_ONLY: Final = frozenset({"tasks/result", "tasks/list"})
_EXTENSION_ONLY: Final = frozenset({"tasks/update"})
_CURSOR: Final = "task:"


class NotMine(Exception):
    """A task that this caller does not have: unknown, expired, another's, another endpoint's."""


class NoMethod(Exception):
    """The session's revision, or the server behind it, has no such method."""


class TaskServer:
    """Serves tasks; one per worker, its state is the table's."""

    def __init__(
        self,
        guard: Guard,
        *,
        house: House,
        catalog: Catalog,
        relay: Relay,
        sessions: Sessions,
        table: TaskTable,
        views: TaskViews,
        errand: Errand,
    ) -> None:
        self._guard = guard
        self._house = house
        self._catalog = catalog
        self._relay = relay
        self._sessions = sessions
        self._table = table
        self._views = views
        self._errand = errand

    @property
    def handlers(self) -> Mapping[str, Callable[[Turn, Endpoint], Awaitable[str]]]:
        """Method → handler, as `dispatch` has them."""
        return {
            "tasks/get": partial(self._served, self._get),
            "tasks/result": partial(self._served, self._result),
            "tasks/list": partial(self._served, self._list),
            "tasks/cancel": partial(self._served, self._cancel),
            "tasks/update": partial(self._served, self._update),
        }

    # -- requests about tasks --------------------------------------------------------------------------

    async def _served(self, handler: Callable[[Turn, Endpoint], Awaitable[str]], turn: Turn, endpoint: Endpoint) -> str:
        """Check that the peer has the method, serve it, and answer for what is not there."""
        call = turn.call
        shape = EXTENSION if call.era == MODERN else CORE
        absent = _CORE_ONLY if shape == EXTENSION else _EXTENSION_ONLY
        if call.method in absent or (shape == CORE and call.version != CORE_VERSION):
            await turn.out.final(reply.unknown_method(call.id, call.era, turn.exchange.id))
            return "refused"
        if shape == EXTENSION and not tasks.offers(call.capabilities, EXTENSION):
            raise Rejected("capability_missing", data={"requiredCapabilities": {"extensions": {EXTENSION_ID: {}}}})
        try:
            return await handler(turn, endpoint)
        except NoMethod:
            await turn.out.final(reply.unknown_method(call.id, call.era, turn.exchange.id))
            return "refused"
        except NotMine:
            refusal = await self._decide(turn, self._catalog.resource(turn.principal, endpoint))
            if refusal is not None:
                return await turn.refuse(refusal)
            await turn.out.final(not_known(turn))
            return "refused"

    async def _get(self, turn: Turn, endpoint: Endpoint) -> str:
        entry, spec = self._mine(turn, endpoint)
        return await self._state(turn, endpoint, spec, entry, Point.MCP_TASK_GET)

    async def _cancel(self, turn: Turn, endpoint: Endpoint) -> str:
        entry, spec = self._mine(turn, endpoint)
        if entry.shape == CORE:
            link = await self._catalog.link(turn.principal, spec, declared(turn, spec), turn.call.era)
            if not tasks.cancels(link.opened.capabilities):
                raise NoMethod
            if entry.status in TERMINAL:
                raise Malformed("params_invalid")  # 2025-11-25: a task that is over cannot be cancelled
            return await self._state(turn, endpoint, spec, entry, Point.MCP_TASK_CANCEL)
        answer = await self._ask(turn, spec, entry, {}, Point.MCP_TASK_CANCEL)
        return answer if isinstance(answer, str) else await self._acknowledge(turn, spec)

    async def _state(self, turn: Turn, endpoint: Endpoint, spec: UpstreamSpec, entry: Entry, point: Point) -> str:
        """Ask the upstream about a task and show what it says."""
        answer = await self._ask(turn, spec, entry, {}, point)
        if isinstance(answer, str):
            return answer
        call = turn.call
        modern: JSONObject = {"resultType": "complete"} if call.era == MODERN else {}
        try:
            task = tasks.read(answer, entry.shape)
            verdict = await self._views.show(
                Reader(turn.principal, endpoint, turn.exchange, call.version, call.capabilities),
                spec,
                entry,
                task,
                lambda members: jsonrpc.build_response(call.id, {**modern, **members}),
                "result",
                call.method,
            )
        except Malformed:
            raise UpstreamFault("malformed", "the state of a task has no known shape") from None
        if isinstance(verdict, Refusal):
            return await turn.refuse(verdict)
        await turn.out.final(verdict)
        return "ok"

    async def _result(self, turn: Turn, endpoint: Endpoint) -> str:
        entry, spec = self._mine(turn, endpoint)
        principal = turn.principal
        tool = await self._views.tool(principal, spec, entry)
        link = await self._catalog.link(principal, spec, declared(turn, spec), turn.call.era)
        facts = partial(self._views.facts, principal, spec, tool)
        target = ResultTarget(
            spec, tool, entry.theirs, entry.id, facts, self._catalog.outward(principal, endpoint, spec)
        )
        credentials = self._catalog.credentials(principal, spec)
        return await self._relay.carry(turn, target, link, credentials, self._catalog.key_for(principal, spec.name))

    async def _list(self, turn: Turn, endpoint: Endpoint) -> str:
        """Answered from our table alone: what an upstream lists may be another caller's (mcp reference §5.7)."""
        call, principal = turn.call, turn.principal
        after = self._sessions.open_cursor(principal, endpoint.url, call.params.get("cursor"))
        if after and not after.startswith(_CURSOR):
            raise Malformed("params_invalid")
        resource = self._catalog.resource(principal, endpoint)
        refusal = await self._decide(turn, resource)
        if refusal is not None:
            return await turn.refuse(refusal)
        page, following = self._table.of(principal, endpoint.url, after.removeprefix(_CURSOR), PAGE)
        result: JSONObject = {"tasks": [tasks.shown(entry.task, entry.id, CORE) for entry in page]}
        if following:
            result["nextCursor"] = self._sessions.seal_cursor(principal, endpoint.url, _CURSOR + following)
        return await self._tell(turn, resource, jsonrpc.build_response(call.id, result))

    async def _update(self, turn: Turn, endpoint: Endpoint) -> str:
        """Deliver a client's answers to the questions of a task that were shown to it; others are ignored."""
        entry, spec = self._mine(turn, endpoint)
        given = turn.call.params.get("inputResponses")
        if not isinstance(given, dict) or len(given) > tasks.QUESTIONS:
            raise Malformed("params_invalid")
        link = await self._catalog.link(turn.principal, spec, declared(turn, spec), turn.call.era)
        resource = self._house.resource(turn.principal.tenant, spec)
        answers: JSONObject = {}
        for key, value in given.items():
            if key not in entry.asks:
                continue
            question = questions.unsealed(entry.asks[key])
            told = questions.answer(question, value, roots=spec.roots)
            action = questions.answer_action(
                question,
                told,
                turn.principal,
                resource,
                told.result,
                version=link.opened.version,
                transport=link.transport,
            )
            verdict = await self._guard.clear(action, turn.exchange)
            if isinstance(verdict, Refusal):
                return await turn.refuse(verdict)
            answers[key] = verdict.body
        if not answers:
            refusal = await self._decide(turn, resource)
            return await turn.refuse(refusal) if refusal else await self._acknowledge(turn, spec)
        # Each question is answered once: it is closed here before the answer leaves.
        if not self._table.close(turn.principal.tenant, entry, answers):
            return await self._acknowledge(turn, spec)  # answered meanwhile
        answer = await self._ask(turn, spec, entry, {"inputResponses": answers}, Point.MCP_TASK_GET)
        return answer if isinstance(answer, str) else await self._acknowledge(turn, spec)

    # -- steps -----------------------------------------------------------------------------------------

    def _mine(self, turn: Turn, endpoint: Endpoint) -> tuple[Entry, UpstreamSpec]:
        """Return the caller's own task and its upstream. Raises NotMine, Malformed("params_invalid")."""
        ours = tasks.task_id(turn.call.params)
        try:
            entry = self._table.find(turn.principal, endpoint.url, ours)
        except Malformed:
            raise NotMine from None
        spec = next((s for s in endpoint.specs if s.name == entry.upstream), None)
        shape = EXTENSION if turn.call.era == MODERN else CORE
        if spec is None or entry.shape != shape or self._catalog.key_for(turn.principal, spec.name) != entry.key:
            raise NotMine
        return entry, spec

    async def _ask(
        self, turn: Turn, spec: UpstreamSpec, entry: Entry, extra: JSONObject, point: Point
    ) -> JSONObject | str:
        """Put a request about a task to its upstream; return the result, or the outcome when it is answered already."""
        call, principal = turn.call, turn.principal
        link = await self._catalog.link(principal, spec, declared(turn, spec), turn.call.era)
        tool = await self._views.tool(principal, spec, entry)
        rpc_id = link.next_id()
        version = link.opened.version
        params: JSONObject = {"taskId": entry.theirs, **extra}
        body = bridge.request(call, version, rpc_id, params, trace=turn.exchange.traceparent)
        action = request(
            point,
            principal,
            call.method,
            self._views.facts(principal, spec, tool, "none"),
            body,
            version=version,
            transport=link.transport,
        )
        return await self._errand.run(turn, spec, link, rpc_id, action, self._catalog.credentials(principal, spec))

    async def _acknowledge(self, turn: Turn, spec: UpstreamSpec) -> str:
        resource = self._house.resource(turn.principal.tenant, spec)
        return await self._tell(turn, resource, jsonrpc.build_response(turn.call.id, {"resultType": "complete"}))

    async def _decide(self, turn: Turn, resource: Resource) -> Refusal | None:
        """Decide about a request that ends here; nothing of it is forwarded, and no id of it is told to policy."""
        call = turn.call
        body = jsonrpc.build_request(call.id, call.method, {})
        action = request(
            Point.MCP_TASK_GET, turn.principal, call.method, resource, body, version=call.version, transport="http"
        )
        verdict = await self._guard.clear(action, turn.exchange)
        return verdict if isinstance(verdict, Refusal) else None

    async def _tell(self, turn: Turn, resource: Resource, body: JSONObject) -> str:
        call = turn.call
        action = response(Point.MCP_TASK_STATUS, turn.principal, call.method, resource, body, version=call.version)
        verdict = await self._guard.clear(action, turn.exchange)
        if not isinstance(verdict, Cleared):
            return await turn.refuse(verdict)
        await turn.out.final(verdict)
        return "ok"


def not_known(turn: Turn) -> FixedReply:
    """Return the answer about a task that is not the caller's: 400 in the modern era, 200 in the legacy one."""
    call, told = turn.call, fault("mcp_task_unknown")
    body = jsonrpc.build_error(call.id, told.rpc_code, told.text, {"decision_id": turn.exchange.id})
    status = told.status if call.era == MODERN else 200  # there a 4xx is about the session, not the call
    return FixedReply(status, (reply.JSON_TYPE, reply.NO_STORE), strict_json.dumps(body))
