"""The MCP endpoint in front: ``/mcp/<name>`` for one upstream, ``/mcp`` for all; both eras (raw ASGI).

Order of a POST: path → method → authenticate → Accept → Content-Type → body → strict parse → the
ladder of `message` → method. A legacy client also has GET (a session's standalone stream, or one taken
up again) and DELETE (the end of its session); in the modern era both are 405. ``/mcp/x`` and ``/mcp/x/``
are the same endpoint; nothing redirects. Each endpoint is a protected resource of its own: a token for
one is worth nothing at another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import partial

from firewall.core.bounds import BODY_BYTES, REQUEST_READ_S
from firewall.core.errors import BartizanError, Malformed, Unauthenticated
from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import FixedReply, Refusal
from firewall.core.points import Point
from firewall.core.ports import Clock, Collection, Ids, Reachable, ResourceServer, UpstreamCredentials
from firewall.enforce.guard import Guard
from firewall.enforce.token_rules import cure
from firewall.net import asgi
from firewall.net.handover import HANDED
from firewall.net.runtime import RandomIds, Tasks
from firewall.net.upstream import UpstreamClient
from firewall.state.memory import MemoryStore
from firewall.state.vault import Sealer
from firewall.wire import jsonrpc, strict_json
from mcp_gateway import child_words, reply
from mcp_gateway.action import request as request_action
from mcp_gateway.afterwards import Afterwards
from mcp_gateway.asking import Asking
from mcp_gateway.catalog import Catalog
from mcp_gateway.child_words import ChildWords
from mcp_gateway.conversation import Conversations
from mcp_gateway.dispatch import TOLD, Dispatch
from mcp_gateway.elsewhere import Elsewhere
from mcp_gateway.endpoints import Endpoint
from mcp_gateway.face import LegacyFace
from mcp_gateway.hearsay import Hearsay
from mcp_gateway.house import House, States
from mcp_gateway.incoming import Request, check_media, not_allowed, says_legacy, split
from mcp_gateway.inventory import Inventory, PinBook, Review
from mcp_gateway.leash import Leash
from mcp_gateway.linking import Linking
from mcp_gateway.message import Answer, Call, Notice, Rejected, parse
from mcp_gateway.out import LegacyOut, Out
from mcp_gateway.owner import Neighbours, Owners
from mcp_gateway.relay import Relay, Turn
from mcp_gateway.sandbox import Support
from mcp_gateway.session import Session
from mcp_gateway.sessions import Sessions
from mcp_gateway.settings import Settings, UpstreamSpec
from mcp_gateway.standing import Standing
from mcp_gateway.state_seal import StateSeal
from mcp_gateway.stdio import Launcher
from mcp_gateway.versions import LEGACY, REQUESTS, is_notification, point_of


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
        near: Neighbours | None = None,
        burnt: Collection | None = None,
        task_rows: Collection | None = None,
        word_rows: Collection | None = None,
        reachable: Reachable | None = None,
        ids: Ids = RandomIds(),  # noqa: B008  has no state
    ) -> None:
        self._guard = guard
        self._auth = auth
        self._tasks = tasks
        self._near = near
        self._ids = ids
        self.sessions = Sessions(
            sealer,
            clock,
            settings.sessions,
            tasks=tasks,
            worker=near.worker if near is not None else 0,
        )
        house = House(guard, registry, settings.public_url)
        rows = word_rows if word_rows is not None else MemoryStore(clock).collection(child_words.COLLECTION)
        self.words = ChildWords(rows, clock, house.masked)
        launcher = Launcher(settings, support, house, tasks, clock, self.words)
        self._catalog = Catalog(
            settings,
            house=house,
            launcher=launcher if near is None else Owners(launcher, near, self._spec_of),
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
        spent = burnt if burnt is not None else MemoryStore(clock).collection("mcp_request_state")
        self._seal = StateSeal(sealer, spent, clock)
        self._asking = Asking(
            guard,
            house,
            self._seal,
            Conversations(tasks, ids),
            ids,
            worker=near.worker if near is not None else 0,
        )
        relay = Relay(guard, house, self.inventory, tasks, self._asking)
        self._dispatch = Dispatch(
            guard,
            catalog=self._catalog,
            inventory=self.inventory,
            relay=relay,
            sessions=self.sessions,
            page=settings.page,
            linking=Linking(self._catalog, self._seal),
            reachable=reachable,
        )
        self._later = Afterwards(
            guard,
            house=house,
            catalog=self._catalog,
            inventory=self.inventory,
            relay=relay,
            sessions=self.sessions,
            rows=task_rows if task_rows is not None else MemoryStore(clock).collection("mcp_tasks"),
            digest=self._dispatch.views.digest,
            clock=clock,
            ids=ids,
            tasks=tasks,
        )
        self._dispatch.use(self._later)
        self._standing = Standing(guard, auth, self.sessions, tasks, clock, self._later.subscriptions.attach)
        self._elsewhere = Elsewhere(near, self.sessions, self._seal)
        heard = self._later.hub.heard
        relay.heard = heard if near is None else Hearsay(near, heard, self._spec_of, tasks).heard

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Every endpoint with its resource URL, for the resource metadata."""
        return tuple({e.url: e for e in self._catalog.endpoints.values()}.values())

    @property
    def sandbox_missing(self) -> dict[str, tuple[str, ...]]:
        """Stdio upstream → the walls that its child lacks on this kernel."""
        return self._catalog.missing_walls

    def _spec_of(self, name: str) -> UpstreamSpec | None:
        endpoint = self._catalog.endpoints.get(f"/mcp/{name}")
        return endpoint.specs[0] if endpoint is not None else None

    def serve_only(self, specs: tuple[UpstreamSpec, ...]) -> None:
        """Serve exactly these upstreams from now on. Raises ConfigFault, and then changes nothing."""
        self._catalog.serve_only(specs)
        self._later.subscriptions.renew()

    async def warm(self, tenant: str) -> dict[str, str]:
        """Open and read every upstream for a tenant; return what failed, by fault code."""
        return await self._catalog.warm(tenant)

    async def close(self) -> None:
        """End every link and child, within a second."""
        self._later.subscriptions.close()
        self.sessions.close()
        await self._asking.conversations.close()
        await self._catalog.pool.close()

    # -- HTTP ------------------------------------------------------------------------------------------

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """Serve one HTTP request."""
        path = scope["path"]
        endpoint = self._catalog.endpoints.get(path)
        if endpoint is None or ("raw_path" in scope and scope["raw_path"].partition(b"?")[0] != path.encode()):
            await asgi.write_fixed(send, reply.failed("path_unknown", None, ""))
            return
        try:
            headers, routing = split(scope["headers"])
        except Malformed as error:
            await asgi.write_fixed(send, reply.failed(error.code, None, ""))
            return
        method = scope["method"]
        if method != "POST" and (method not in ("GET", "DELETE") or not says_legacy(routing)):
            await asgi.write_fixed(send, not_allowed(routing))
            return
        address = asgi.client_ip(scope)
        try:
            principal = await self._auth.admit(
                headers,
                endpoint.url,
                default_scope=endpoint.scope,
                method=method,
                path=path,
                handed=HANDED in scope,
                address=address,
            )
        except Unauthenticated as error:
            told = "token_missing" if error.code == "token_missing" else "token_invalid"
            challenges = self._auth.challenges(endpoint.url, error, endpoint.scope)
            noted = self._auth.note_refused(error, endpoint.url, address)
            await asgi.write_fixed(send, reply.challenged(told, challenges, noted))
            return
        except BartizanError as error:  # state that does not answer: nobody is let in
            await asgi.write_fixed(send, reply.failed(error.code, None, ""))
            return
        request = Request(scope, receive, send, headers, routing, endpoint, principal, address)
        if self._near is not None and await self._elsewhere.session(request):
            return
        if method == "DELETE":
            await asgi.write_fixed(send, self._end_session(request))
        elif method == "GET":
            await self._standing.serve(request)
        else:
            await self._exchange(request)

    async def _exchange(self, request: Request) -> None:
        """Serve one POST: read, parse and dispatch; close its exchange whatever happens."""
        headers = request.headers
        exchange = request.exchange = self._guard.new_exchange(
            request.principal, "mcp", client_ip=request.client_ip, traceparent=headers.get(b"traceparent", b"")
        )
        request.out = Out(request.send, self._tasks, streams=request.prefers_stream)
        outcome = "internal"
        turn: Turn | None = None
        try:
            try:
                check_media(headers)
                if b"content-length" in headers:
                    asgi.check_length(headers[b"content-length"], BODY_BYTES)
                data = await asgi.body_of(request.receive, BODY_BYTES, REQUEST_READ_S)
                exchange.bytes_in = len(data)
                if not data:
                    raise Malformed("body_missing")
                message = parse(strict_json.loads(data), request.routing)
                exchange.verb = message.method
                if not isinstance(message, Call):
                    outcome = await self._unasked(message, request)
                    return
                if self._near is not None and (owner := self._elsewhere.parked_at(message, request)) is not None:
                    outcome = await self._elsewhere.hand_on(owner, data, message, request)
                    return
            except Malformed as error:
                outcome = await self._unread(error, request)
                return
            if (message.method, message.era) not in REQUESTS:
                exchange.verb, exchange.outcome = "unknown", "method_unknown"
                await request.out.final(reply.unknown_method(message.id, message.era, exchange.id))
                outcome = "refused"
                return
            turn = self._turn(message, request)
            if message.era == LEGACY and message.method != "initialize":
                outcome = await self._in_session(message, request, turn)
                return
            try:
                outcome = await self._dispatch.handlers[message.method](turn, request.endpoint)
            except TOLD as error:
                outcome = await self._dispatch.fail(turn, request.endpoint, error)
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except Exception as error:  # noqa: BLE001  the room's one blanket: nothing of an error's text leaves
            code = error.code if isinstance(error, BartizanError) else "internal"
            if not request.out.done:
                await request.out.final(reply.failed(code, None, exchange.id))
        finally:
            out = request.out
            out.on_open = None  # what it holds holds it: without this every request would leave a ring
            if turn is not None and turn.watch is not None:
                turn.watch.stop()
            out.stop()
            self._guard.close(exchange, outcome=outcome, error=exchange.outcome)

    def _turn(self, call: Call, request: Request) -> Turn:
        """Return what serving a request is told of it; see `Turn`."""
        exchange, principal, endpoint, out = request.exchange, request.principal, request.endpoint, request.out
        if call.traceparent and not exchange.trace_id:
            exchange.follow(call.traceparent.encode("ascii", "ignore"))
        turn = Turn(
            principal,
            exchange,
            call,
            out,
            request.receive,
            Leash(),
            endpoint.url,
            partial(cure, self._auth, endpoint.url),
            still=partial(self._standing.still, request.headers, endpoint, principal),
        )
        if call.method != "subscriptions/listen":  # a listen ends by itself, with a result
            out.on_open = partial(self._standing.watch, turn)  # most answers open no stream, and need none
        return turn

    async def _unread(self, error: Malformed, request: Request) -> str:
        """Tell why a body cannot be read."""
        exchange = request.exchange
        exchange.outcome = error.code
        if isinstance(error, Rejected):
            await request.out.final(reply.rejected(error, exchange.id))
        elif error.code != "client_gone":
            await request.out.final(reply.failed(error.code, None, exchange.id))
        return "refused"

    def _unasked(self, message: Notice | Answer, request: Request) -> Awaitable[str]:
        """Take what is no request. Raises Malformed."""
        return self._notice(message, request) if isinstance(message, Notice) else self._answer(message, request)

    async def _in_session(self, call: Call, request: Request, turn: Turn) -> str:
        """Serve a legacy client's request, which belongs to a session."""
        exchange, endpoint = request.exchange, request.endpoint
        try:
            session = self._session(request)
            ended = session.begin(call.id, turn.leash)
        except Malformed as error:
            await request.out.final(reply.failed(error.code, call.id, exchange.id))
            return "refused"
        try:
            turn.session, turn.face = session, LegacyFace(session, self._guard, self._ids)
            turn.call = session.speaks(call)
            out = LegacyOut(request.send, self._tasks, session, streams=request.prefers_stream)
            out.on_open, request.out.on_open = request.out.on_open, None
            turn.out = request.out = out
            return await self._dispatch.serve(turn, endpoint)
        finally:
            ended()

    # -- what is no request ------------------------------------------------------------------------------------------

    async def _notice(self, notice: Notice, request: Request) -> str:
        """Notifications are answered 202; those without a row in the table end here, unread. Raises Malformed."""
        exchange, principal, out = request.exchange, request.principal, request.out
        if not is_notification(notice.method) or point_of(notice.method, notice.era, "request") is None:
            exchange.verb = "unknown"
            await out.final(reply.accepted())
            return "ok"
        session = self._session(request)
        params: JSONObject = {}
        target = notice.params.get("requestId")
        if notice.method == "notifications/cancelled" and isinstance(target, (str, int)):
            params = {"requestId": target}
        action = request_action(
            Point.MCP_NOTIFY_CLIENT,
            principal,
            notice.method,
            self._catalog.resource(principal, request.endpoint),
            jsonrpc.build_notification(notice.method, params),
            version=session.version,
            transport="http",
        )
        verdict = await self._guard.clear(action, exchange)
        if isinstance(verdict, Refusal):
            await out.final(reply.failed(verdict.fault.code, None, verdict.decision_id))
            return "refused"
        if notice.method == "notifications/initialized":
            session.initialized = True
        elif isinstance(target, (str, int)) and not isinstance(target, bool):
            session.cancel(target)
        await out.final(reply.accepted())
        return "ok"

    async def _answer(self, answer: Answer, request: Request) -> str:
        """Deliver a client's answer to whoever asked; it is decided about there. Raises Malformed."""
        if not self._session(request).answered(answer):
            self.sessions.unasked += 1
        await request.out.final(reply.accepted())
        return "ok"

    def _session(self, request: Request) -> Session:
        """Return the legacy session of a request. Raises Malformed: session_missing, session_unknown."""
        return self.sessions.open(request.principal, request.endpoint.url, request.session_id)

    def _end_session(self, request: Request) -> FixedReply:
        try:
            self.sessions.end(self._session(request))
        except Malformed as error:
            return reply.failed(error.code, None, "")
        return reply.ended()
