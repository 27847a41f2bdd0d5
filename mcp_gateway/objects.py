"""Handlers of tools, prompts, resources and completions: find the object, decide, carry.

An object that nobody lists is decided about as well, so that the attempt is recorded, and never
reaches an upstream.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import MappingProxyType

from firewall.core.action import Resource
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import Cleared
from firewall.core.points import Point
from mcp_gateway import asking, capabilities, lists, tasks, uris
from mcp_gateway import headers as h
from mcp_gateway.action import address_resource, prompt_resource
from mcp_gateway.catalog import Catalog, Endpoint
from mcp_gateway.content import Outward
from mcp_gateway.decider import Decider
from mcp_gateway.entries import Entry, Tool
from mcp_gateway.inventory import Inventory
from mcp_gateway.kinds import BY_METHOD, KINDS
from mcp_gateway.message import Call
from mcp_gateway.relay import Relay, Turn
from mcp_gateway.schema import Verdict
from mcp_gateway.search import OWN, Search
from mcp_gateway.sessions import Sessions
from mcp_gateway.settings import UpstreamSpec
from mcp_gateway.targets import CompletionTarget, Ours, PromptTarget, ResourceTarget, ToolTarget, uri_arguments
from mcp_gateway.upstream import Link
from mcp_gateway.versions import MODERN
from mcp_gateway.views import Views, names_in

Handler = Callable[[Turn, Endpoint], Awaitable[str]]
"""Serves one request; returns the exchange's outcome."""


Begin = Callable[[Turn, ToolTarget], Awaitable[str | None]]
"""Serves a tool call that may become a task; None when it is an ordinary one (`tasks_calls.TaskCalls`)."""


class Objects:
    """The handlers of a worker. page: entries per page of a list."""

    def __init__(
        self,
        decider: Decider,
        *,
        catalog: Catalog,
        inventory: Inventory,
        relay: Relay,
        sessions: Sessions,
        views: Views,
        page: int,
    ) -> None:
        self._decider = decider
        self._catalog = catalog
        self._inventory = inventory
        self._relay = relay
        self._sessions = sessions
        self._views = views
        self._page = page
        self._search = Search(decider, catalog=catalog, views=views, calls=self)
        self.begin: Begin | None = None
        self.handlers: Mapping[str, Handler] = MappingProxyType(
            {
                **dict.fromkeys(BY_METHOD, self.list),
                "tools/call": self._tools_call,
                "prompts/get": self._prompts_get,
                "resources/read": self._resources_read,
                "completion/complete": self._complete,
            }
        )

    # -- lists -----------------------------------------------------------------------------------------------

    async def list(self, turn: Turn, endpoint: Endpoint) -> str:
        """Answer one page of any list. Raises Malformed("params_invalid") for a cursor that is not ours."""
        call, principal = turn.call, turn.principal
        kind = BY_METHOD[call.method]
        info = KINDS[kind]
        place = f"{endpoint.url}#{info.method}"
        after = self._sessions.open_cursor(principal, place, call.params.get("cursor"))
        refusal = await self._decider.ask(turn, info.asked, self._catalog.resource(principal, endpoint), {})
        if refusal is not None:
            return await turn.refuse(refusal)
        if kind == "tool" and self._catalog.searched(endpoint):
            return await self._search.list(turn, endpoint)
        shelf, ttl_ms = await self._catalog.shelf(principal, endpoint, kind)
        view = self._views.view(principal, endpoint, shelf)
        names, following = lists.page(view.names(shelf), after, self._page)
        cursor = self._sessions.seal_cursor(principal, place, following)
        action = self._views.action(
            principal, endpoint, shelf, names, call.era, call.version, call.id, cursor=cursor, ttl_ms=ttl_ms
        )
        outcome, verdict = await self._decider.send(turn, action)
        if isinstance(verdict, Cleared):
            view.note(names, names_in(verdict, kind))
        return outcome

    # -- tools -------------------------------------------------------------------------------------------------

    def _tools_call(self, turn: Turn, endpoint: Endpoint) -> Awaitable[str]:
        given = turn.call.params.get("arguments")
        arguments = given if isinstance(given, dict) else None
        if turn.call.name in OWN and self._catalog.searched(endpoint):
            return self._search.call(turn, endpoint, turn.call.name, arguments or {})
        return self.call_tool(turn, endpoint, turn.call.name, arguments, mirrored=turn.call.era == MODERN)

    def call_tool(
        self, turn: Turn, endpoint: Endpoint, name: str, arguments: JSONObject | None, *, mirrored: bool
    ) -> Awaitable[str]:
        """Call a tool by its exposed name; return the exchange's outcome.

        mirrored: the client mirrors declared arguments as headers, which must agree.
        Raises Malformed (params_invalid, header_mismatch), UpstreamFault, Refused.

        Nearly always the list and the link are there: then nobody is waited for until the call is decided, and one
        look at the credential serves both. Where anything has to be waited for, `_waiting_call` looks at it again.
        """
        principal, call = turn.principal, turn.call
        spec, own = endpoint.route(name)
        if spec is None:
            return self._unknown_tool(turn, endpoint, name)
        key = self._catalog.key_for(principal, spec.name)
        known = self._inventory.fresh((principal.tenant, spec.name, key, "tool"), spec, spec.ttl_s)
        if known is None:
            return self._waiting_call(turn, endpoint, spec, name, own, arguments, mirrored)
        tool = known.entries.get(own)
        if not isinstance(tool, Tool):
            return self._unknown_tool(turn, endpoint, name)
        target = self._tool_target(turn, endpoint, tool, arguments, mirrored)
        if spec.asks or (self.begin is not None and tasks.concerned(call, tool.definition.value)):
            return self._call_or_task(turn, target)
        link = self._catalog.pool.ready(principal.tenant, spec.name, key)
        if link is None:
            return self._carry(turn, target)
        if link.opened.extensions:
            self._extend(call, target, link)
        return self._relay.carry(turn, target, link, self._catalog.credentials(principal, spec), key)

    async def _waiting_call(
        self,
        turn: Turn,
        endpoint: Endpoint,
        spec: UpstreamSpec,
        name: str,
        own: str,
        arguments: JSONObject | None,
        mirrored: bool,
    ) -> str:
        """As `call_tool`, of an upstream whose tools have to be asked for first."""
        known = await self._catalog.catalogue(turn.principal, spec, spec.ttl_s)
        tool = known.entries.get(own)
        if not isinstance(tool, Tool):
            return await self._unknown_tool(turn, endpoint, name)
        return await self._call_or_task(turn, self._tool_target(turn, endpoint, tool, arguments, mirrored))

    async def _call_or_task(self, turn: Turn, target: ToolTarget) -> str:
        if self.begin is not None and tasks.concerned(turn.call, target.tool.definition.value):
            outcome = await self.begin(turn, target)
            if outcome is not None:
                return outcome
        return await self._carry(turn, target)

    def _tool_target(
        self, turn: Turn, endpoint: Endpoint, tool: Tool, arguments: JSONObject | None, mirrored: bool
    ) -> ToolTarget:
        """Return the target of a call. Raises Malformed("header_mismatch")."""
        if mirrored and tool.definition.params:
            h.check_params(tool.definition.params, arguments or {}, turn.call.headers)
        outward = None if endpoint.name else self._outward(turn, endpoint, tool.spec)
        return ToolTarget(tool, arguments, partial(self._inventory.resource, turn.principal.tenant, tool), outward)

    async def _unknown_tool(self, turn: Turn, endpoint: Endpoint, name: str) -> str:
        resource = self._catalog.unknown(turn.principal, endpoint, name)
        refusal = await self._decider.ask(turn, Point.MCP_TOOL_CALL, resource, {})
        if refusal is not None:
            return await turn.refuse(refusal, tool_call=True)
        raise Malformed("params_invalid")

    # -- prompts -----------------------------------------------------------------------------------------------

    async def _prompts_get(self, turn: Turn, endpoint: Endpoint) -> str:
        call, principal = turn.call, turn.principal
        prompt = await self._catalog.find(principal, endpoint, call.name, "prompt")
        if prompt is None:
            return await self._unknown_prompt(turn, endpoint, call.name, Point.MCP_PROMPT_GET)
        given = call.params.get("arguments")
        arguments = given if isinstance(given, dict) else None
        outward = self._outward(turn, endpoint, prompt.spec)
        return await self._carry(turn, PromptTarget(prompt, arguments, self._facts(turn, prompt), outward))

    async def _unknown_prompt(self, turn: Turn, endpoint: Endpoint, name: str, point: Point) -> str:
        spec = self._catalog.spec_of(endpoint, name)
        state = self._inventory.state(turn.principal.tenant, spec)
        resource = prompt_resource(spec.facts, "?", state=state, pin="none", digest="", schema="none")
        refusal = await self._decider.ask(turn, point, resource, {})
        if refusal is not None and refusal.fault.code != "denied":
            return await turn.refuse(refusal)
        return await self._decider.unknown(turn, "params_invalid")

    # -- resources -----------------------------------------------------------------------------------------------

    async def _resources_read(self, turn: Turn, endpoint: Endpoint) -> str:
        call, principal = turn.call, turn.principal
        told = None if endpoint.name else uris.unwrapped(call.name)
        index = await self._catalog.index(principal, endpoint, told[0] if told else "")
        found = index.within(endpoint.name, call.name) if endpoint.name else index.find(call.name)
        if found is None:
            return await self._unknown_resource(turn, endpoint, told[1] if told else call.name, Point.MCP_RESOURCE_READ)
        outward = self._outward(turn, endpoint, found.entry.spec)
        return await self._carry(turn, ResourceTarget(found, self._facts(turn, found.entry), outward))

    async def _unknown_resource(self, turn: Turn, endpoint: Endpoint, uri: str, point: Point) -> str:
        spec = endpoint.specs[0]
        state = self._inventory.state(turn.principal.tenant, spec)
        resource = address_resource(spec.facts, "?", state=state, pin="none", digest="", schema="none")
        params: JSONObject = {"uri": uri}
        try:
            arguments, normal = uri_arguments(uri), turn.call.name
        except Malformed:
            arguments, normal = {}, ""  # another spelling: refused below, and no rule reads half of it
        refusal = await self._decider.ask(turn, point, resource, params, arguments=arguments)
        if refusal is not None and refusal.fault.code != "denied":
            return await turn.refuse(refusal)
        whole = self._catalog.resource(turn.principal, endpoint)
        return await self._decider.unknown(turn, "resource_unknown", about=whole, uri=normal)

    # -- completion --------------------------------------------------------------------------------------------

    async def _complete(self, turn: Turn, endpoint: Endpoint) -> str:
        """``completion/complete``. Raises Malformed("params_invalid")."""
        principal, params = turn.principal, turn.call.params
        ref, argument, context = params.get("ref"), params.get("argument"), params.get("context", {})
        known = context.get("arguments") if isinstance(context, dict) else None
        if not isinstance(ref, dict) or not isinstance(argument, dict) or not isinstance(context, dict):
            raise Malformed("params_invalid")
        if not isinstance(argument.get("name"), str) or not isinstance(argument.get("value"), str):
            raise Malformed("params_invalid")
        if known is not None and (
            not isinstance(known, dict) or not all(isinstance(value, str) for value in known.values())
        ):
            raise Malformed("params_invalid")
        point = Point.MCP_COMPLETION_ASK
        name, address = ref.get("name"), ref.get("uri")
        entry: Entry | None
        if ref.get("type") == "ref/prompt" and isinstance(name, str):
            entry = await self._catalog.find(principal, endpoint, name, "prompt")
            if entry is None:
                return await self._unknown_prompt(turn, endpoint, name, point)
        elif ref.get("type") == "ref/resource" and isinstance(address, str):
            told = None if endpoint.name else uris.unwrapped(address)
            index = await self._catalog.index(principal, endpoint, told[0] if told else "")
            entry = (
                index.templates.get(endpoint.name, {}).get(address) if endpoint.name else index.find_template(address)
            )
            if entry is None:
                return await self._unknown_prompt(turn, endpoint, "", point)
        else:
            raise Malformed("params_invalid")
        typed: JSONObject = {"name": argument["name"], "value": argument["value"]}
        return await self._carry(turn, CompletionTarget(entry, typed, known, self._facts(turn, entry)))

    # -- inside ---------------------------------------------------------------------------------------------------

    def _facts(self, turn: Turn, entry: Entry) -> Callable[[Verdict], Resource]:
        return partial(self._inventory.resource, turn.principal.tenant, entry)

    def _outward(self, turn: Turn, endpoint: Endpoint, spec: UpstreamSpec) -> Outward:
        """Return how URIs of a result are told; found out only if it holds any."""
        if endpoint.name:
            return None

        def tell(uri: str) -> str:
            outward = self._catalog.outward(turn.principal, endpoint, spec)
            return outward(uri) if outward is not None else uri

        return tell

    @staticmethod
    def _extend(call: Call, target: Ours, link: Link) -> None:
        """Tell a target which extensions its request declares upstream."""
        opened = link.opened
        if opened.extensions and call.era == MODERN and opened.era == MODERN:
            target.extensions = capabilities.extended(opened.extensions, capabilities.extensions(call.capabilities))

    async def _carry(self, turn: Turn, target: Ours) -> str:
        """Take a request to its upstream over the pooled link of the caller's credential."""
        principal, spec = turn.principal, target.spec
        link = await self._catalog.link(principal, spec, asking.declared(turn, spec), turn.call.era)
        self._extend(turn.call, target, link)
        credentials = self._catalog.credentials(principal, spec)
        return await self._relay.carry(turn, target, link, credentials, self._catalog.key_for(principal, spec.name))
