"""The MCP endpoint in front: ``/mcp/<name>`` for one upstream, ``/mcp`` for all; both eras (raw ASGI).

Order of a POST: path → method → authenticate → Accept → Content-Type → body → strict parse → the
ladder of `message` → method. ``/mcp/x`` and ``/mcp/x/`` are the same endpoint; nothing redirects.
Each endpoint is a protected resource of its own: a token for one is worth nothing at another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, Literal

from firewall.core.action import Headers, Resource
from firewall.core.bounds import BODY_BYTES, REQUEST_READ_S
from firewall.core.errors import BartizanError, Malformed, StateUnavailable, Unauthenticated, UpstreamFault, fault
from firewall.core.exchange import Exchange
from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import Cleared, FixedReply, Refusal
from firewall.core.points import Point
from firewall.core.ports import Clock, ResourceServer, UpstreamCredentials
from firewall.core.principal import Principal
from firewall.enforce.guard import Guard
from firewall.net import asgi
from firewall.net.runtime import Tasks
from firewall.net.upstream import UpstreamClient
from firewall.state.vault import Sealer
from firewall.wire import jsonrpc, strict_json
from mcp_gateway import bridge, lists, reply
from mcp_gateway import headers as h
from mcp_gateway.action import request, response
from mcp_gateway.catalog import Catalog, Endpoint
from mcp_gateway.house import House, Refused, States
from mcp_gateway.inventory import Inventory, PinBook, Review
from mcp_gateway.message import Call, Notice, Rejected, RpcId, parse
from mcp_gateway.relay import Leash, Out, Relay, Turn
from mcp_gateway.sandbox import Support
from mcp_gateway.sessions import Session, Sessions
from mcp_gateway.settings import Settings, UpstreamSpec
from mcp_gateway.stdio import Launcher
from mcp_gateway.versions import LEGACY, MODERN, MODERN_VERSIONS, negotiated, point_of

CLIENT_INFO_MEMBERS: Final = ("name", "title", "version")


class MCPGateway:
    """The ASGI application of ``/mcp`` and ``/mcp/<name>``. One per worker."""

    def __init__(
        self,
        settings: Settings,
        *,
        guard: Guard,
        auth: ResourceServer,
        credentials: UpstreamCredentials,
        client: UpstreamClient,
        pins: PinBook,
        registry: States,
        review: Review,
        sealer: Sealer,
        clock: Clock,
        tasks: Tasks,
        support: Support,
    ) -> None:
        self._guard = guard
        self._auth = auth
        self._tasks = tasks
        self._workers = settings.workers
        self._page = settings.page
        self._sessions = Sessions(sealer, clock, settings.session_ttl_s)
        house = House(guard, registry, settings.public_url)
        self._catalog = Catalog(
            settings,
            house=house,
            launcher=Launcher(settings, support, house, tasks, clock),
            client=client,
            credentials=credentials,
            tasks=tasks,
        )
        self.inventory = Inventory(
            pool=self._catalog.pool,
            house=house,
            pins=pins,
            registry=registry,
            review=review,
            review_severity=settings.review_severity,
            clock=clock,
        )
        self._catalog.use(self.inventory)
        self._relay = Relay(guard, house, self.inventory, tasks)
        self._running: dict[tuple[bytes, RpcId, bool], Leash] = {}

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Every endpoint with its resource URL, for the resource metadata."""
        return tuple({e.url: e for e in self._catalog.endpoints.values()}.values())

    @property
    def sandbox_missing(self) -> dict[str, tuple[str, ...]]:
        """Stdio upstream → the walls that its child lacks on this kernel."""
        return self._catalog.missing_walls

    def serve_only(self, specs: tuple[UpstreamSpec, ...]) -> None:
        """Serve exactly these upstreams from now on. Raises ConfigFault, and then changes nothing."""
        self._catalog.serve_only(specs)

    async def warm(self, tenant: str) -> dict[str, str]:
        """Open and read every upstream for a tenant; return what failed, by fault code."""
        return await self._catalog.warm(tenant)

    async def close(self) -> None:
        """End every link and child, within a second."""
        await self._catalog.pool.close()

    # -- HTTP ------------------------------------------------------------------------------------------

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """Serve one HTTP request."""
        path = scope["path"]
        endpoint = self._catalog.endpoints.get(path)
        if endpoint is None or scope.get("raw_path", path.encode()).partition(b"?")[0] != path.encode():
            await asgi.write_fixed(send, reply.failed("path_unknown", None, ""))
            return
        try:
            raw: list[tuple[bytes, bytes]] = list(scope["headers"])
            headers = asgi.header_map({"headers": [pair for pair in raw if not pair[0].startswith(b"mcp-")]})
        except Malformed as error:
            await asgi.write_fixed(send, reply.failed(error.code, None, ""))
            return
        if scope["method"] not in ("POST", "DELETE"):
            await asgi.write_fixed(send, _not_allowed(raw))
            return
        try:
            principal = self._auth.authenticate(headers, endpoint.url, default_scope=endpoint.scope)
        except Unauthenticated as error:
            told: Literal["token_missing", "token_invalid"] = (
                "token_missing" if error.code == "token_missing" else "token_invalid"
            )
            challenge = self._auth.challenge(endpoint.url, told, error.scope or endpoint.scope)
            await asgi.write_fixed(send, reply.challenged(told, challenge, ""))
            return
        except BartizanError as error:  # state that does not answer: nobody is let in
            await asgi.write_fixed(send, reply.failed(error.code, None, ""))
            return
        if scope["method"] == "DELETE":
            await asgi.write_fixed(send, self._end_session(principal, endpoint, raw))
            return
        client = scope.get("client")
        exchange = self._guard.new_exchange(
            principal,
            "mcp",
            client_ip=client[0] if client else "",
            traceparent=headers.get(b"traceparent", b""),
        )
        out = Out(send, self._tasks, streams=_prefers_stream(headers))
        outcome = "internal"
        try:
            outcome = await self._post(scope, receive, out, raw, headers, endpoint, principal, exchange)
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except Exception as error:  # noqa: BLE001  the room's one blanket: nothing of an error's text leaves
            code = error.code if isinstance(error, BartizanError) else "internal"
            if not out.done:
                await out.final(reply.failed(code, None, exchange.id))
        finally:
            out.stop()
            self._guard.close(exchange, outcome=outcome, error=exchange.outcome)

    async def _post(
        self,
        scope: asgi.Scope,
        receive: asgi.Receive,
        out: Out,
        raw: list[tuple[bytes, bytes]],
        headers: Mapping[bytes, bytes],
        endpoint: Endpoint,
        principal: Principal,
        exchange: Exchange,
    ) -> str:
        """Read, parse and dispatch; return the exchange's outcome."""
        try:
            _check_media(headers)
            data = await asgi.read_body(scope, receive, BODY_BYTES, REQUEST_READ_S)
            exchange.bytes_in = len(data)
            if not data:
                raise Malformed("body_missing")
            message = parse(strict_json.loads(data), raw)
        except Rejected as error:
            await out.final(reply.rejected(error, exchange.id))
            return "refused"
        except Malformed as error:
            if error.code != "client_gone":
                await out.final(reply.failed(error.code, None, exchange.id))
            return "refused"
        exchange.verb = message.method
        if isinstance(message, Notice):
            return await self._notice(message, raw, out, endpoint, principal, exchange)
        return await self._call(message, raw, receive, out, endpoint, principal, exchange)

    async def _call(
        self,
        call: Call,
        raw: list[tuple[bytes, bytes]],
        receive: asgi.Receive,
        out: Out,
        endpoint: Endpoint,
        principal: Principal,
        exchange: Exchange,
    ) -> str:
        if point_of(call.method, call.era, "request") is None:
            exchange.verb = "unknown"
            await out.final(reply.unknown_method(call.id, call.era, exchange.id))
            return "refused"
        if call.traceparent and not exchange.trace_id:
            fresh = self._guard.new_exchange(principal, "mcp", traceparent=call.traceparent.encode("ascii", "ignore"))
            exchange.trace_id, exchange.parent_span, exchange.sampled = fresh.trace_id, fresh.parent_span, fresh.sampled
        session: Session | None = None
        try:
            if call.era == LEGACY and call.method != "initialize":
                session = self._session(principal, endpoint, raw)
        except Malformed as error:
            await out.final(reply.failed(error.code, call.id, exchange.id))
            return "refused"

        def challenge(refusal: Refusal) -> bytes:
            if not refusal.challenge:
                return b""
            return self._auth.challenge(endpoint.url, "scope_missing", " ".join(sorted(refusal.challenge)))

        turn = Turn(principal, exchange, call, out, receive, Leash(), endpoint.url, challenge)
        try:
            match call.method:
                case "tools/call":
                    return await self._tools_call(turn, endpoint, session)
                case "tools/list":
                    return await self._tools_list(turn, endpoint)
                case "ping":
                    return await self._pong(turn, endpoint)
                case _:
                    return await self._open_session(turn, endpoint)
        except UpstreamFault as error:
            return await turn.fail(error)
        except Refused as error:
            return await turn.refuse(error.refusal, tool_call=call.method == "tools/call")
        except StateUnavailable:
            await out.final(reply.failed("policy_unavailable", call.id, exchange.id))
            return "refused"
        except Rejected as error:
            error.rpc_id = call.id
            await out.final(reply.rejected(error, exchange.id))
            return "refused"
        except Malformed as error:
            await out.final(reply.failed(error.code, call.id, exchange.id))
            return "refused"

    # -- methods ---------------------------------------------------------------------------------------------

    async def _open_session(self, turn: Turn, endpoint: Endpoint) -> str:
        """``initialize`` and ``server/discover``: answered here, from what the upstream said of itself."""
        call, principal = turn.call, turn.principal
        if call.era == LEGACY and self._workers > 1:
            await turn.out.final(reply.failed("legacy_unavailable", call.id, turn.exchange.id))
            return "refused"
        asked = _open_params(call)
        resource = self._catalog.resource(principal, endpoint)
        refusal = await self._ask(turn, Point.MCP_SESSION_OPEN, resource, asked)
        if refusal is not None:
            return await turn.refuse(refusal)
        opened = await self._catalog.opened(principal, endpoint)
        version = call.version
        extra: Headers = ()
        if call.era == LEGACY:
            wanted = call.params.get("protocolVersion")
            version = negotiated(wanted if isinstance(wanted, str) else "")
            extra = ((h.SESSION, self._sessions.start(principal, endpoint.url, version)),)
        body = bridge.session_opened(call.id, call.era, version, opened)
        return await self._tell(turn, Point.MCP_SESSION_OPENED, resource, body, extra=extra)

    async def _pong(self, turn: Turn, endpoint: Endpoint) -> str:
        resource = self._catalog.resource(turn.principal, endpoint)
        return await self._tell(turn, Point.MCP_PONG, resource, jsonrpc.build_response(turn.call.id, {}))

    async def _tools_list(self, turn: Turn, endpoint: Endpoint) -> str:
        call, principal = turn.call, turn.principal
        after = self._sessions.open_cursor(principal, endpoint.url, call.params.get("cursor"))
        resource = self._catalog.resource(principal, endpoint)
        refusal = await self._ask(turn, Point.MCP_TOOL_LIST, resource, {})
        if refusal is not None:
            return await turn.refuse(refusal)
        shown = await self._catalog.visible(principal, endpoint)
        names, following = lists.page(sorted(shown), after, self._page)
        tools = [lists.shown(shown[name].definition, call.era, name) for name in names]
        items: JSONObject = {"items": [self.inventory.item(principal.tenant, shown[name], name) for name in names]}
        cursor = self._sessions.seal_cursor(principal, endpoint.url, following)
        body = bridge.tools_listed(call.id, call.era, tools, cursor, 0)
        return await self._tell(turn, Point.MCP_TOOL_LISTED, resource, body, arguments=items)

    async def _tools_call(self, turn: Turn, endpoint: Endpoint, session: Session | None) -> str:
        call, principal = turn.call, turn.principal
        tool = await self._catalog.find(principal, endpoint, call.name)
        if tool is None:
            return await self._unknown_tool(turn, endpoint)
        arguments = call.params.get("arguments", {})
        if call.era == MODERN and isinstance(arguments, dict):
            h.check_params(tool.definition.params, arguments, call.headers)
        credentials = self._catalog.credentials(principal, tool.spec)
        key = self._catalog.key(principal, tool.spec)
        link = await self._catalog.link(principal, tool.spec)
        if session is None:
            return await self._relay.carry(turn, tool, link, credentials, key)
        slot = (session.key, call.id, isinstance(call.id, str))
        if slot in self._running:
            raise Malformed("rpc_id")
        self._running[slot] = turn.leash
        try:
            return await self._relay.carry(turn, tool, link, credentials, key)
        finally:
            del self._running[slot]

    async def _unknown_tool(self, turn: Turn, endpoint: Endpoint) -> str:
        """Decide about a tool that nobody lists, so that the attempt is recorded; never forward it."""
        resource = self._catalog.unknown(turn.principal, endpoint, turn.call.name)
        refusal = await self._ask(turn, Point.MCP_TOOL_CALL, resource, {})
        if refusal is not None:
            return await turn.refuse(refusal, tool_call=True)
        raise Malformed("params_invalid")

    async def _notice(
        self,
        notice: Notice,
        raw: list[tuple[bytes, bytes]],
        out: Out,
        endpoint: Endpoint,
        principal: Principal,
        exchange: Exchange,
    ) -> str:
        """Notifications are answered 202; those without a row in the table end here, unread."""
        if point_of(notice.method, notice.era, "request") is None:
            exchange.verb = "unknown"
            await out.final(reply.accepted())
            return "ok"
        try:
            session = self._session(principal, endpoint, raw)
        except Malformed as error:
            await out.final(reply.failed(error.code, None, exchange.id))
            return "refused"
        params: JSONObject = {}
        target = notice.params.get("requestId")
        if notice.method == "notifications/cancelled" and isinstance(target, (str, int)):
            params = {"requestId": target}
        action = request(
            Point.MCP_NOTIFY_CLIENT,
            principal,
            notice.method,
            self._catalog.resource(principal, endpoint),
            jsonrpc.build_notification(notice.method, params),
            version=session.version,
            transport="http",
        )
        verdict = await self._guard.clear(action, exchange)
        if isinstance(verdict, Refusal):
            await out.final(reply.failed(verdict.fault.code, None, verdict.decision_id))
            return "refused"
        if isinstance(target, (str, int)) and not isinstance(target, bool):
            leash = self._running.get((session.key, target, isinstance(target, str)))
            if leash is not None:
                leash.pull()
        await out.final(reply.accepted())
        return "ok"

    # -- decisions ---------------------------------------------------------------------------------------------

    async def _ask(self, turn: Turn, point: Point, resource: Resource, params: JSONObject) -> Refusal | None:
        """Decide about a request that ends here: nothing of it is forwarded."""
        body = jsonrpc.build_request(turn.call.id, turn.call.method, params)
        action = request(
            point, turn.principal, turn.call.method, resource, body, version=turn.call.version, transport="http"
        )
        verdict = await self._guard.clear(action, turn.exchange)
        return verdict if isinstance(verdict, Refusal) else None

    async def _tell(
        self,
        turn: Turn,
        point: Point,
        resource: Resource,
        body: JSONObject,
        *,
        arguments: JSONObject | None = None,
        extra: Headers = (),
    ) -> str:
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

    # -- sessions --------------------------------------------------------------------------------------------------

    def _session(self, principal: Principal, endpoint: Endpoint, raw: list[tuple[bytes, bytes]]) -> Session:
        """Return the legacy session of a request. Raises Malformed: session_missing, session_unknown."""
        token = h.collect(raw).get(h.SESSION, b"")
        if not token:
            raise Malformed("session_missing")
        return self._sessions.open(principal, endpoint.url, token)

    def _end_session(self, principal: Principal, endpoint: Endpoint, raw: list[tuple[bytes, bytes]]) -> FixedReply:
        try:
            if _says_modern(raw):
                return _not_allowed(raw)
            session = self._session(principal, endpoint, raw)
        except Malformed as error:
            return reply.failed(error.code, None, "")
        self._sessions.end(session)
        for slot, leash in list(self._running.items()):
            if slot[0] == session.key:
                leash.pull()
        return reply.ended()


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


def _check_media(headers: Mapping[bytes, bytes]) -> None:
    """Raise Malformed: not_acceptable, media_type. A wildcard accepts both forms of answer."""
    accepted = {part.partition(b";")[0].strip().lower() for part in headers.get(b"accept", b"").split(b",")}
    if b"*/*" not in accepted and not {b"application/json", b"text/event-stream"} <= accepted:
        raise Malformed("not_acceptable")
    if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
        raise Malformed("media_type")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Malformed("media_type")  # whoever unpacks it on the way would read another message


def _prefers_stream(headers: Mapping[bytes, bytes]) -> bool:
    accepted = headers.get(b"accept", b"").lower()
    return b"application/json" in accepted.partition(b"text/event-stream")[2]


def _says_modern(raw: list[tuple[bytes, bytes]]) -> bool:
    return h.collect(raw).get(h.VERSION, b"").decode("latin-1") in MODERN_VERSIONS


def _not_allowed(raw: list[tuple[bytes, bytes]]) -> FixedReply:
    try:
        modern = _says_modern(raw)
    except Malformed:
        modern = True
    allow = reply.ALLOW_MODERN if modern else reply.ALLOW_LEGACY
    return reply.failed(fault("method_not_allowed").code, None, "", headers=(allow,))
