"""Method → handler: what each request means once it is read, checked and its caller known.

Every handler decides through the guard before anything is read for the caller, and tells what it
found through the guard as well; requests that reach an upstream go on in `relay`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from firewall.core.action import Headers
from firewall.core.errors import ConsentNeeded, Malformed, StateUnavailable, UpstreamFault
from firewall.core.jsonvalue import JSONObject
from firewall.core.points import Point
from firewall.core.ports import Reachable
from firewall.enforce.guard import Guard
from firewall.wire import jsonrpc
from mcp_gateway import bridge, capabilities, reply
from mcp_gateway import headers as h
from mcp_gateway.afterwards import Afterwards
from mcp_gateway.catalog import Catalog, Endpoint
from mcp_gateway.decider import Decider
from mcp_gateway.house import Refused
from mcp_gateway.inventory import Inventory
from mcp_gateway.linking import Linking, unopened
from mcp_gateway.message import LOG_LEVELS, Call, Rejected
from mcp_gateway.objects import Handler, Objects
from mcp_gateway.relay import Relay, Turn
from mcp_gateway.sessions import Sessions
from mcp_gateway.versions import LEGACY, negotiated
from mcp_gateway.views import Views

__all__ = ["Dispatch", "Handler"]

# What a handler may raise; anything else is a fault of ours.
TOLD: Final = (UpstreamFault, Refused, StateUnavailable, Malformed)
CLIENT_INFO_MEMBERS: Final = ("name", "title", "version")


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
        linking: Linking,
        reachable: Reachable | None = None,
    ) -> None:
        self._linking = linking
        self._catalog = catalog
        self._sessions = sessions
        self._decider = Decider(guard)
        self.views = Views(guard, catalog, inventory, reachable)
        self.objects = Objects(
            self._decider,
            catalog=catalog,
            inventory=inventory,
            relay=relay,
            sessions=sessions,
            views=self.views,
            page=page,
        )
        self.handlers: Mapping[str, Handler] = MappingProxyType(
            {
                "initialize": self._open_session,
                "server/discover": self._open_session,
                "ping": self._pong,
                "logging/setLevel": self._set_level,
                **self.objects.handlers,
            }
        )

    def use(self, later: Afterwards) -> None:
        """Take what serves tasks and subscriptions, which itself needs the relay."""
        self.objects.begin = later.calls.begin
        self.handlers = MappingProxyType({**self.handlers, **later.handlers})

    async def serve(self, turn: Turn, endpoint: Endpoint) -> str:
        """Answer a request whose method has a row for its era; return the exchange's outcome."""
        try:
            return await self.handlers[turn.call.method](turn, endpoint)
        except TOLD as error:
            return await self.fail(turn, endpoint, error)

    async def fail(self, turn: Turn, endpoint: Endpoint, error: Exception) -> str:
        """Answer a request whose handler raised one of `TOLD`, in fixed words; return the exchange's outcome."""
        call, out = turn.call, turn.out
        if isinstance(error, ConsentNeeded):
            if await self._linking.connected(turn, error):
                return await self.serve(turn, endpoint)
            return await self._linking.tell(turn, error)
        if isinstance(error, UpstreamFault):
            return await turn.fail(error)
        if isinstance(error, Refused):
            return await turn.refuse(error.refusal, tool_call=call.method == "tools/call")
        if isinstance(error, StateUnavailable):
            await out.final(reply.failed("policy_unavailable", call.id, turn.exchange.id))
            return "refused"
        if isinstance(error, Rejected):
            error.rpc_id = call.id
            await out.final(reply.rejected(error, turn.exchange.id))
            return "refused"
        if isinstance(error, Malformed):
            await out.final(reply.failed(error.code, call.id, turn.exchange.id))
            return "refused"
        raise error

    # -- sessions --------------------------------------------------------------------------------------

    async def _open_session(self, turn: Turn, endpoint: Endpoint) -> str:
        """``initialize`` and ``server/discover``: answered here, from what the upstream said of itself."""
        call, principal = turn.call, turn.principal
        resource = self._catalog.resource(principal, endpoint)
        refusal = await self._decider.ask(turn, Point.MCP_SESSION_OPEN, resource, _open_params(call))
        if refusal is not None:
            return await turn.refuse(refusal)
        try:
            opened = await self._catalog.opened(principal, endpoint)
        except ConsentNeeded as needed:
            opened = unopened(needed.upstream)
        version = call.version
        extra: Headers = ()
        session_id = b""
        if call.era == LEGACY:
            wanted = call.params.get("protocolVersion")
            version = negotiated(wanted if isinstance(wanted, str) else "")
            session_id = self._sessions.start(principal, endpoint.url, version, capabilities=call.capabilities)
            extra = ((h.SESSION, session_id),)
        body = bridge.session_opened(call.id, call.era, version, opened, _extensions(call))
        outcome = await self._decider.tell(turn, Point.MCP_SESSION_OPENED, resource, body, extra=extra)
        if session_id and outcome != "ok":  # its id was told to nobody
            self._sessions.end(self._sessions.open(principal, endpoint.url, session_id))
        return outcome

    async def _pong(self, turn: Turn, endpoint: Endpoint) -> str:
        resource = self._catalog.resource(turn.principal, endpoint)
        return await self._decider.tell(turn, Point.MCP_PONG, resource, jsonrpc.build_response(turn.call.id, {}))

    async def _set_level(self, turn: Turn, endpoint: Endpoint) -> str:
        """``logging/setLevel``: kept by the session, which filters by it; upstreams are told per request."""
        level, session = turn.call.params.get("level"), turn.session
        if not isinstance(level, str) or level not in LOG_LEVELS or session is None:
            raise Malformed("params_invalid")
        resource = self._catalog.resource(turn.principal, endpoint)
        refusal = await self._decider.ask(turn, Point.MCP_NOTIFY_CLIENT, resource, {"level": level})
        if refusal is not None:
            return await turn.refuse(refusal)
        session.level = level
        return await self._decider.tell(turn, Point.MCP_PONG, resource, jsonrpc.build_response(turn.call.id, {}))


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


def _extensions(call: Call) -> JSONObject:
    """Return the extensions that a client declares, in either era."""
    told = call.params.get("capabilities") if call.era == LEGACY else call.capabilities
    return capabilities.extensions(told) if isinstance(told, dict) else {}
