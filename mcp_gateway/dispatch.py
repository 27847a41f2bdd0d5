"""Method → handler: what each request means once it is read, checked and its caller known.

Every handler decides through the guard before anything is read for the caller, and tells what it
found through the guard as well; requests that reach an upstream go on in `relay`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Final

from firewall.core.action import Headers, Resource
from firewall.core.errors import Malformed, StateUnavailable, UpstreamFault
from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import Cleared, Refusal
from firewall.core.points import Point
from firewall.enforce.guard import Guard
from firewall.wire import jsonrpc
from mcp_gateway import asking, bridge, lists, reply
from mcp_gateway import headers as h
from mcp_gateway.action import request, response
from mcp_gateway.afterwards import Afterwards
from mcp_gateway.catalog import Catalog, Endpoint
from mcp_gateway.house import Refused
from mcp_gateway.inventory import Inventory
from mcp_gateway.message import LOG_LEVELS, Call, Rejected
from mcp_gateway.relay import Relay, Turn
from mcp_gateway.sessions import Sessions
from mcp_gateway.targets import Target, ToolTarget
from mcp_gateway.versions import LEGACY, MODERN, negotiated

CLIENT_INFO_MEMBERS: Final = ("name", "title", "version")

Handler = Callable[[Turn, Endpoint], Awaitable[str]]
"""Serves one request; returns the exchange's outcome."""


class Dispatch:
    """The handlers of a worker. page: entries per page of a list."""

    def __init__(
        self,
        guard: Guard,
        *,
        catalog: Catalog,
        inventory: Inventory,
        relay: Relay,
        sessions: Sessions,
        page: int,
    ) -> None:
        self._guard = guard
        self._catalog = catalog
        self._inventory = inventory
        self._relay = relay
        self._sessions = sessions
        self._page = page
        self._later: Afterwards | None = None
        self.handlers: Mapping[str, Handler] = MappingProxyType(
            {
                "initialize": self._open_session,
                "server/discover": self._open_session,
                "ping": self._pong,
                "logging/setLevel": self._set_level,
                "tools/list": self._tools_list,
                "tools/call": self._tools_call,
            }
        )

    def use(self, later: Afterwards) -> None:
        """Take what serves tasks and subscriptions, which itself needs the relay."""
        self._later = later
        self.handlers = MappingProxyType({**self.handlers, **later.handlers})

    async def serve(self, turn: Turn, endpoint: Endpoint) -> str:
        """Answer a request whose method has a row for its era; return the exchange's outcome.

        Faults and refusals are answered here, each in its fixed words.
        """
        call, out = turn.call, turn.out
        try:
            return await self.handlers[call.method](turn, endpoint)
        except UpstreamFault as error:
            return await turn.fail(error)
        except Refused as error:
            return await turn.refuse(error.refusal, tool_call=call.method == "tools/call")
        except StateUnavailable:
            await out.final(reply.failed("policy_unavailable", call.id, turn.exchange.id))
            return "refused"
        except Rejected as error:
            error.rpc_id = call.id
            await out.final(reply.rejected(error, turn.exchange.id))
            return "refused"
        except Malformed as error:
            await out.final(reply.failed(error.code, call.id, turn.exchange.id))
            return "refused"

    # -- sessions --------------------------------------------------------------------------------------

    async def _open_session(self, turn: Turn, endpoint: Endpoint) -> str:
        """``initialize`` and ``server/discover``: answered here, from what the upstream said of itself."""
        call, principal = turn.call, turn.principal
        resource = self._catalog.resource(principal, endpoint)
        refusal = await self.ask(turn, Point.MCP_SESSION_OPEN, resource, _open_params(call))
        if refusal is not None:
            return await turn.refuse(refusal)
        opened = await self._catalog.opened(principal, endpoint)
        version = call.version
        extra: Headers = ()
        if call.era == LEGACY:
            wanted = call.params.get("protocolVersion")
            version = negotiated(wanted if isinstance(wanted, str) else "")
            session_id = self._sessions.start(principal, endpoint.url, version, capabilities=call.capabilities)
            extra = ((h.SESSION, session_id),)
        body = bridge.session_opened(call.id, call.era, version, opened)
        return await self.tell(turn, Point.MCP_SESSION_OPENED, resource, body, extra=extra)

    async def _pong(self, turn: Turn, endpoint: Endpoint) -> str:
        resource = self._catalog.resource(turn.principal, endpoint)
        return await self.tell(turn, Point.MCP_PONG, resource, jsonrpc.build_response(turn.call.id, {}))

    async def _set_level(self, turn: Turn, endpoint: Endpoint) -> str:
        """``logging/setLevel``: kept by the session, which filters by it; upstreams are told per request."""
        level, session = turn.call.params.get("level"), turn.session
        if not isinstance(level, str) or level not in LOG_LEVELS or session is None:
            raise Malformed("params_invalid")
        resource = self._catalog.resource(turn.principal, endpoint)
        refusal = await self.ask(turn, Point.MCP_NOTIFY_CLIENT, resource, {"level": level})
        if refusal is not None:
            return await turn.refuse(refusal)
        session.level = level
        return await self.tell(turn, Point.MCP_PONG, resource, jsonrpc.build_response(turn.call.id, {}))

    # -- tools -------------------------------------------------------------------------------------------

    async def _tools_list(self, turn: Turn, endpoint: Endpoint) -> str:
        call, principal = turn.call, turn.principal
        after = self._sessions.open_cursor(principal, endpoint.url, call.params.get("cursor"))
        resource = self._catalog.resource(principal, endpoint)
        refusal = await self.ask(turn, Point.MCP_TOOL_LIST, resource, {})
        if refusal is not None:
            return await turn.refuse(refusal)
        shown = await self._catalog.visible(principal, endpoint)
        names, following = lists.page(sorted(shown), after, self._page)
        tools = [lists.shown(shown[name].definition, call.era, name) for name in names]
        items: JSONObject = {"items": [self._inventory.item(principal.tenant, shown[name], name) for name in names]}
        cursor = self._sessions.seal_cursor(principal, endpoint.url, following)
        body = bridge.listed(call.id, call.era, "tools", list(tools), cursor, 0)
        return await self.tell(turn, Point.MCP_TOOL_LISTED, resource, body, arguments=items)

    async def _tools_call(self, turn: Turn, endpoint: Endpoint) -> str:
        call, principal = turn.call, turn.principal
        tool = await self._catalog.find(principal, endpoint, call.name)
        if tool is None:
            return await self._unknown_tool(turn, endpoint)
        given = call.params.get("arguments")
        arguments = given if isinstance(given, dict) else None
        if call.era == MODERN:
            h.check_params(tool.definition.params, arguments or {}, call.headers)
        facts = partial(self._inventory.resource, principal.tenant, tool)
        return await self._carry(turn, ToolTarget(tool, arguments, facts))

    async def _unknown_tool(self, turn: Turn, endpoint: Endpoint) -> str:
        """Decide about a tool that nobody lists, so that the attempt is recorded; never forward it."""
        resource = self._catalog.unknown(turn.principal, endpoint, turn.call.name)
        refusal = await self.ask(turn, Point.MCP_TOOL_CALL, resource, {})
        if refusal is not None:
            return await turn.refuse(refusal, tool_call=True)
        raise Malformed("params_invalid")

    async def _carry(self, turn: Turn, target: Target) -> str:
        """Take a request to its upstream over the pooled link of the caller's credential."""
        principal, spec = turn.principal, target.spec
        if isinstance(target, ToolTarget) and self._later is not None:
            outcome = await self._later.calls.begin(turn, target)
            if outcome is not None:
                return outcome
        link = await self._catalog.link(principal, spec, asking.declared(turn, spec))
        credentials = self._catalog.credentials(principal, spec)
        return await self._relay.carry(turn, target, link, credentials, self._catalog.key(principal, spec))

    # -- decisions -----------------------------------------------------------------------------------------

    async def ask(self, turn: Turn, point: Point, resource: Resource, params: JSONObject) -> Refusal | None:
        """Decide about a request that ends here: nothing of it is forwarded."""
        body = jsonrpc.build_request(turn.call.id, turn.call.method, params)
        action = request(
            point, turn.principal, turn.call.method, resource, body, version=turn.call.version, transport="http"
        )
        verdict = await self._guard.clear(action, turn.exchange)
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
        verdict = await self._guard.clear(action, turn.exchange)
        if isinstance(verdict, Cleared):
            await turn.out.final(verdict, extra=extra)
            return "ok"
        return await turn.refuse(verdict)


def _open_params(call: Call) -> JSONObject:
    """Return what is inspected of a session's opening: the asked revision and the client's name for itself."""
    params: JSONObject = {}
    wanted = call.params.get("protocolVersion")
    if isinstance(wanted, str):
        params["protocolVersion"] = wanted
    info = call.params.get("clientInfo")
    if isinstance(info, dict):
        params["clientInfo"] = {k: info[k] for k in CLIENT_INFO_MEMBERS if isinstance(info.get(k), str)}
    return params
