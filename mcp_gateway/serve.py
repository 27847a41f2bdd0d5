"""The MCP endpoint in front: ``/mcp/<name>`` for one upstream, ``/mcp`` for all; both eras (raw ASGI).

Order of a POST: path → method → authenticate → Accept → Content-Type → body → strict parse → the
ladder of `message` → method. ``/mcp/x`` and ``/mcp/x/`` are the same endpoint; nothing redirects.
Each endpoint is a protected resource of its own: a token for one is worth nothing at another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Literal

from firewall.core.bounds import BODY_BYTES, REQUEST_READ_S
from firewall.core.errors import BartizanError, Malformed, Unauthenticated, fault
from firewall.core.exchange import Exchange
from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import FixedReply, Refusal
from firewall.core.points import Point
from firewall.core.ports import Clock, ResourceServer, UpstreamCredentials
from firewall.core.principal import Principal
from firewall.enforce.guard import Guard
from firewall.net import asgi
from firewall.net.runtime import Tasks
from firewall.net.upstream import UpstreamClient
from firewall.state.vault import Sealer
from firewall.wire import jsonrpc, strict_json
from mcp_gateway import headers as h
from mcp_gateway import reply
from mcp_gateway.action import request
from mcp_gateway.catalog import Catalog, Endpoint
from mcp_gateway.dispatch import Dispatch
from mcp_gateway.house import House, States
from mcp_gateway.inventory import Inventory, PinBook, Review
from mcp_gateway.message import Call, Notice, Rejected, RpcId, parse
from mcp_gateway.relay import Leash, Out, Relay, Turn
from mcp_gateway.sandbox import Support
from mcp_gateway.sessions import Session, Sessions
from mcp_gateway.settings import Settings, UpstreamSpec
from mcp_gateway.stdio import Launcher
from mcp_gateway.versions import LEGACY, MODERN_VERSIONS, point_of


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
        self._dispatch = Dispatch(
            guard,
            catalog=self._catalog,
            inventory=self.inventory,
            relay=Relay(guard, house, self.inventory, tasks),
            sessions=self._sessions,
            workers=settings.workers,
            page=settings.page,
        )
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
        if session is None:
            return await self._dispatch.serve(turn, endpoint)
        slot = (session.key, call.id, isinstance(call.id, str))
        if slot in self._running:
            await out.final(reply.failed("rpc_id", call.id, exchange.id))
            return "refused"
        self._running[slot] = turn.leash
        try:
            return await self._dispatch.serve(turn, endpoint)
        finally:
            del self._running[slot]

    # -- notifications ---------------------------------------------------------------------------------------------

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
