"""The A2A face: raw ASGI for ``/a2a/<name>``, its agent card, and the keys that sign our cards.

    authenticate ─▶ read ─▶ version ─▶ own the ids ─▶ guard ─▶ agent ─▶ guard, per object ─▶ reply

- Nothing is read of a request before its caller is known; nothing leaves, either way, that the
  guard did not clear or that is not our own fixed words.
- Both ``/a2a/<name>`` and ``/a2a/<name>/`` are served: many clients follow no redirect (GW-06).
- One watcher stands beside every call: a caller that leaves ends the call and the connection to
  the agent, and no task stays behind. The agent's *task* goes on; the caller may come back for it.
- A blocked event ends its stream with a JSON-RPC error, and the agent's task is cancelled (GW-40).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Final, Literal

from a2a_gateway import message, reply
from a2a_gateway.action import STREAMED, card_action, error_action, event_action, request_action
from a2a_gateway.chunks import Chunks
from a2a_gateway.inventory import KEYS_PATH, WELL_KNOWN, Agent, Inventory, scope_of
from a2a_gateway.message import Event, Send, TaskQuery
from a2a_gateway.tasks import Caller, Progress, TaskBook
from a2a_gateway.upstream import Answer, Upstream
from a2a_gateway.versions import HEADER, Method, check_method, check_version
from firewall.core.action import Action
from firewall.core.bounds import BODY_BYTES, REQUEST_READ_S
from firewall.core.errors import FAULTS, AuditUnavailable, BartizanError, Malformed, Unauthenticated, UpstreamFault
from firewall.core.exchange import Exchange
from firewall.core.finding import Finding
from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import Cleared, FixedReply, Refusal
from firewall.core.points import Point
from firewall.core.ports import ResourceServer
from firewall.core.principal import Actor, Principal
from firewall.enforce.guard import Guard
from firewall.net import asgi
from firewall.net.runtime import Tasks
from firewall.wire import http, jsonrpc, strict_json

PREFIX: Final = "/a2a/"
CALL_OFF_S: Final = 2.0
Outcome = tuple[Literal["ok", "refused", "upstream_fault", "cancelled", "internal"], str]
# Faults of a call that never reached the agent: its message id may come again.
NOT_SENT: Final = frozenset({"unreachable", "blocked_address", "credentials"})


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Bytes and seconds of one request body; how long a card may be kept by a client."""

    body_bytes: int = BODY_BYTES
    read_s: float = REQUEST_READ_S
    card_max_age_s: int = 60


@dataclass(slots=True)
class _Call:
    """One JSON-RPC request on its way."""

    agent: Agent
    principal: Principal
    exchange: Exchange
    rpc_id: jsonrpc.ID
    method: Method
    caller: Caller
    out: asgi.EventStream
    send: asgi.Send
    allowed: frozenset[str]
    resource: str
    progress: Progress = field(default_factory=Progress)
    named: set[tuple[str, str]] = field(default_factory=set)


class A2AGateway:
    """The ASGI application for every path under ``/a2a/``. One per worker."""

    def __init__(
        self,
        *,
        guard: Guard,
        resource_server: ResourceServer,
        inventory: Inventory,
        book: TaskBook,
        upstream: Upstream,
        tasks: Tasks,
        settings: ServeSettings | None = None,
    ) -> None:
        self._guard = guard
        self._resource_server = resource_server
        self._inventory = inventory
        self._book = book
        self._upstream = upstream
        self._tasks = tasks
        self._settings = settings or ServeSettings()
        self._keys = reply.document(inventory.keys_document(), max_age_s=300)

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """Answer one HTTP request."""
        path, verb = str(scope["path"]), str(scope["method"])
        try:
            if path == KEYS_PATH:
                await asgi.write_fixed(send, self._keys if verb == "GET" else _wrong_verb(b"GET"))
                return
            name, _, rest = path.removeprefix(PREFIX).partition("/")
            if not path.startswith(PREFIX) or rest not in ("", WELL_KNOWN[1:]) or self._inventory.spec(name) is None:
                await asgi.write_fixed(send, reply.fixed(FAULTS["path_unknown"]))
            elif rest:
                known = verb in ("GET", "HEAD")  # the server leaves out the body of an answer to HEAD
                await (self._card(scope, send, name) if known else asgi.write_fixed(send, _wrong_verb(b"GET, HEAD")))
            elif verb != "POST":
                await asgi.write_fixed(send, _wrong_verb(b"POST"))
            else:
                await self._rpc(scope, receive, send, name)
        except BartizanError as error:
            # Only what went wrong before an exchange was open; the rest is answered where it is known.
            await asgi.write_fixed(send, reply.failed(error))

    # -- the card ---------------------------------------------------------------------------------------

    async def _card(self, scope: asgi.Scope, send: asgi.Send, name: str) -> None:
        headers = asgi.header_map(scope)
        resource = self._inventory.settings.resource(name)
        spec = self._inventory.spec(name)
        assert spec is not None
        try:
            principal = (
                self._stranger(resource, spec.tenants)
                if spec.public_card
                else self._resource_server.authenticate(headers, resource, default_scope=scope_of(name))
            )
        except Unauthenticated as error:
            await asgi.write_fixed(send, self._unauthenticated(error, resource, name))
            return
        exchange = self._guard.new_exchange(principal, "a2a", client_ip=_client_ip(scope))
        outcome: Outcome = ("internal", "internal")
        try:
            agent = await self._inventory.get(name)
            if agent is None or agent.problem == "unreachable":
                outcome = ("upstream_fault", "unreachable")
                await asgi.write_fixed(send, reply.fixed(FAULTS["upstream_unreachable"], None, exchange.id))
                return
            served: JSONObject = agent.served if agent.served is not None else {}
            verdict = await self._clear_card(card_action(principal, agent.card_resource, served), exchange, served)
            if isinstance(verdict, Refusal):
                outcome = ("refused", verdict.fault.code)
                await asgi.write_fixed(send, self._refused(verdict, None, resource))
            elif agent.served is None or verdict.payload != strict_json.dumps(agent.served):
                # A transformed card would carry a signature that is not its own (DESIGN §6b-9).
                outcome = ("refused", "quarantined")
                await asgi.write_fixed(send, reply.fixed(FAULTS["quarantined"], None, verdict.decision_id))
            else:
                outcome = ("ok", "")
                kept = b"public" if spec.public_card else b"private"
                extra = (
                    (b"etag", agent.etag.encode()),
                    (b"cache-control", kept + b", max-age=%d" % self._settings.card_max_age_s),
                )
                if agent.etag.encode() in headers.get(b"if-none-match", b""):
                    await asgi.write_fixed(send, FixedReply(304, extra, b""))
                else:
                    await asgi.write_cleared(send, verdict, extra=extra)
        finally:
            self._guard.close(exchange, outcome=outcome[0], error=outcome[1])

    async def _clear_card(self, action: Action, exchange: Exchange, served: JSONObject) -> Cleared | Refusal:
        """Inspect all of a card but ``signatures``: that member is ours, and looks like a secret to a detector."""
        inspected: JSONObject = {k: v for k, v in served.items() if k != "signatures"}
        found = self._guard.scanner.scan(inspected, action.point, action.principal.tenant)
        return await self._clear_seen(action, exchange, found)

    async def _clear_seen(self, action: Action, exchange: Exchange, seen: list[Finding]) -> Cleared | Refusal:
        """As `Guard.clear`, with findings in place of a scan of the body."""
        verdict = await self._guard.check_remote(action, exchange, seen)
        if isinstance(verdict, Refusal):
            return verdict
        cleared = self._guard.commit_or_refuse(verdict, exchange)
        if isinstance(cleared, Cleared):
            try:
                await self._guard.settle(cleared)  # at once, unless records must be on disk first
            except AuditUnavailable:
                return Refusal(FAULTS["audit_unavailable"], cleared.decision_id)
        return cleared

    def _stranger(self, resource: str, tenants: tuple[str, ...]) -> Principal:
        """Whoever may read a public card: nobody in particular, with no scope at all."""
        tenant = self._inventory.settings.home_tenant if "*" in tenants else tenants[0]
        chain = (Actor("anonymous", "anonymous"),)
        return Principal(
            tenant, "", "anonymous", "anonymous", frozenset(), resource, chain, 0, kind="anonymous", auth_method="none"
        )

    # -- JSON-RPC ---------------------------------------------------------------------------------------

    async def _rpc(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send, name: str) -> None:
        headers = asgi.header_map(scope)
        resource = self._inventory.settings.resource(name)
        try:
            principal = self._resource_server.authenticate(headers, resource, default_scope=scope_of(name))
        except Unauthenticated as error:
            await asgi.write_fixed(send, self._unauthenticated(error, resource, name))
            return
        traceparent = headers.get(b"traceparent", b"")
        exchange = self._guard.new_exchange(principal, "a2a", client_ip=_client_ip(scope), traceparent=traceparent)
        outcome: Outcome = ("cancelled", "")
        try:
            if http.media_type(headers.get(b"content-type", b"")) != "application/json":
                raise Malformed("media_type")
            body = await asgi.read_body(scope, receive, self._settings.body_bytes, self._settings.read_s)
            exchange.bytes_in = len(body)
            work = self._request(scope, headers, body, send, name, principal, exchange)
            outcome = await while_connected(self._tasks, receive, work)
        except Malformed as error:
            if error.code != "client_gone":
                outcome = ("refused", error.code)
                await asgi.write_fixed(send, reply.failed(error, None, exchange.id))
        finally:
            self._guard.close(exchange, outcome=outcome[0], error=outcome[1])

    async def _request(
        self,
        scope: asgi.Scope,
        headers: dict[bytes, bytes],
        body: bytes,
        send: asgi.Send,
        name: str,
        principal: Principal,
        exchange: Exchange,
    ) -> Outcome:
        out = asgi.EventStream(send)
        rpc_id: jsonrpc.ID | None = None
        try:
            request = jsonrpc.parse(strict_json.loads(body))
            if not isinstance(request, jsonrpc.Request):
                raise Malformed("rpc_shape")
            rpc_id = request.id
            method = check_method(request.method)
            check_version(headers.get(HEADER), scope.get("query_string", b""))
            exchange.verb = method
            wanted = b"text/event-stream" if method == STREAMED else b"application/json"
            if b"accept" in headers and not http.accepts(headers[b"accept"], wanted):
                raise Malformed("not_acceptable")
            agent = await self._inventory.get(name)
            if agent is None:
                raise Malformed("path_unknown")
            allowed = frozenset(agent.spec.extensions)
            read: Send | TaskQuery = (
                message.parse_send(request.params, allowed)
                if method in ("SendMessage", STREAMED)
                else message.parse_task_query(method, request.params, allowed)
            )
            caller = Caller.of(principal, name)
            resource = self._inventory.settings.resource(name)
            call = _Call(agent, principal, exchange, rpc_id, method, caller, out, send, allowed, resource)
            return await self._forward(call, read, headers)
        except BartizanError as error:
            kind = "upstream_fault" if isinstance(error, UpstreamFault) or error.code == "agent_response" else "refused"
            await self._tell(out, send, reply.failed(error, rpc_id, exchange.id))
            return (kind, error.code)  # type: ignore[return-value]  # both words are outcomes
        except Exception:  # noqa: BLE001  the one blanket of this room: a caller is told `internal`, nothing else
            await self._tell(out, send, reply.fixed(FAULTS["internal"], rpc_id, exchange.id))
            return ("internal", "internal")

    async def _forward(self, call: _Call, read: Send | TaskQuery, headers: dict[bytes, bytes]) -> Outcome:
        agent = call.agent
        if agent.problem == "unreachable":
            raise UpstreamFault("unreachable")
        params = self._outgoing(call, read, agent.card.tenant if agent.card is not None else "")
        asked = headers.get(b"a2a-extensions", b"").decode("latin-1").split(",")
        action = request_action(
            call.method,
            call.principal,
            agent.resource,
            read,
            params,
            trace=_trace(call.exchange),
            extensions=tuple(uri.strip() for uri in asked if uri.strip() in call.allowed),
        )
        verdict = await self._guard.clear(action, call.exchange)
        if isinstance(verdict, Refusal):
            return await self._refuse(call, verdict)
        if agent.card is None:  # policy let a card without a pin pass: it still names no place to call
            raise Malformed("quarantined")
        once = self._book.first(call.caller, read.message_id) if isinstance(read, Send) else ""
        try:
            return await (self._stream(call, verdict) if call.method == STREAMED else self._unary(call, verdict))
        except UpstreamFault as fault:
            if fault.code in NOT_SENT:
                self._book.undo(call.caller, once)
            raise

    def _outgoing(self, call: _Call, read: Send | TaskQuery, tenant: str) -> JSONObject:
        """Return the params with the agent's ids; raises Malformed("task_unknown") for ids not the caller's."""
        book, caller, progress = self._book, call.caller, call.progress
        if isinstance(read, TaskQuery):
            progress.task_id = book.theirs(caller, "task", read.task_id)
            return read.outgoing(task_id=progress.task_id, tenant=tenant)
        if read.task_id:
            progress.task_id = book.theirs(caller, "task", read.task_id)
        if read.context_id:
            progress.context_id = book.theirs(caller, "context", read.context_id)
        references = book.all_theirs(caller, "task", read.references)
        return read.outgoing(
            task_id=progress.task_id, context_id=progress.context_id, references=references, tenant=tenant
        )

    # -- whole answers ----------------------------------------------------------------------------------

    async def _unary(self, call: _Call, cleared: Cleared) -> Outcome:
        answer = await self._upstream.call(cleared, call.agent, call.principal)
        verdict = await self._guard.clear(self._answered(call, answer), call.exchange)
        if isinstance(verdict, Refusal):
            return await self._refuse(call, verdict)
        call.exchange.bytes_out = len(verdict.payload)
        await asgi.write_cleared(call.send, verdict)
        return ("ok", "")

    def _answered(self, call: _Call, answer: Answer) -> Action:
        if isinstance(answer, jsonrpc.ErrorResponse):
            return error_action(call.method, call.principal, call.agent.resource, answer, call.rpc_id)
        event = self._event(call, answer)
        return event_action(call.method, call.principal, call.agent.resource, event, call.rpc_id)

    def _event(self, call: _Call, answer: jsonrpc.Response) -> Event:
        """Return what an agent showed, read, in order, and under our ids; raises Malformed("agent_response")."""
        try:
            event = (
                message.parse_event(answer.result, call.allowed)
                if call.method == STREAMED
                else message.parse_result(call.method, answer.result, call.allowed)
            )
        except Malformed as error:
            raise Malformed("agent_response", error.detail) from None
        call.progress.feed(event)
        for kind, theirs in (("task", event.task_id), ("context", event.context_id)):
            if theirs and (kind, theirs) not in call.named:
                self._book.claim(call.caller, "task" if kind == "task" else "context", theirs)
                call.named.add((kind, theirs))
        return message.remapped(
            event, lambda kind, theirs: self._book.ours(call.caller, "task" if kind == "task" else "context", theirs)
        )

    # -- streams ----------------------------------------------------------------------------------------

    async def _stream(self, call: _Call, cleared: Cleared) -> Outcome:
        scanner, tenant = self._guard.scanner, call.principal.tenant
        chunks = Chunks(lambda text: scanner.scan(text, Point.A2A_TASK_UPDATE, tenant))
        refusal: Refusal | None = None
        failure: BartizanError | None = None
        try:
            async with self._upstream.stream(cleared, call.agent, call.principal) as answers:
                async for answer in answers:
                    verdict = await self._clear_event(call, answer, chunks)
                    if isinstance(verdict, Refusal):
                        refusal = verdict
                        break
                    await call.out.open()
                    await call.out.event(verdict)
                    if call.progress.ended or isinstance(answer, jsonrpc.ErrorResponse):
                        break
        except BartizanError as error:
            failure = error
        call.exchange.bytes_out = call.out.bytes_out
        if refusal is not None or (isinstance(failure, Malformed) and failure.code == "agent_response"):
            await self._call_off(call)
        if refusal is not None:
            return await self._refuse(call, refusal)
        if failure is not None:
            raise failure
        if not call.out.opened:
            raise Malformed("agent_response", "a stream without an event")
        await call.out.close()
        return ("ok", "")

    async def _clear_event(self, call: _Call, answer: Answer, chunks: Chunks) -> Cleared | Refusal:
        if isinstance(answer, jsonrpc.ErrorResponse):
            return await self._guard.clear(self._answered(call, answer), call.exchange)
        event = self._event(call, answer)
        action = event_action(call.method, call.principal, call.agent.resource, event, call.rpc_id)
        across = chunks.feed(event)
        if not across:
            return await self._guard.clear(action, call.exchange)
        within = self._guard.scanner.scan(action.body, action.point, call.principal.tenant)
        return await self._clear_seen(action, call.exchange, [*within, *across])

    async def _call_off(self, call: _Call) -> None:
        """Cancel the agent's task after its stream was blocked; best effort, within two seconds."""
        progress = call.progress
        if not progress.task_id or progress.ended or call.agent.card is None:
            return
        query = TaskQuery({"id": progress.task_id})
        params = query.outgoing(task_id=progress.task_id, tenant=call.agent.card.tenant)
        action = request_action("CancelTask", call.principal, call.agent.resource, query, params)
        try:
            verdict = await self._guard.clear(action, call.exchange)
            if isinstance(verdict, Cleared):
                await self._upstream.call(verdict, call.agent, call.principal, deadline_s=CALL_OFF_S)
        except BartizanError:
            return

    # -- our own words -----------------------------------------------------------------------------------

    async def _refuse(self, call: _Call, refusal: Refusal) -> Outcome:
        await self._tell(call.out, call.send, self._refused(refusal, call.rpc_id, call.resource))
        return ("refused", refusal.fault.code)

    def _refused(self, refusal: Refusal, rpc_id: jsonrpc.ID | None, resource: str) -> FixedReply:
        if not refusal.challenge:
            return reply.refused(refusal, rpc_id)
        scope = " ".join(refusal.challenge)
        return reply.refused(refusal, rpc_id, self._resource_server.challenge(resource, "scope_missing", scope))

    def _unauthenticated(self, error: Unauthenticated, resource: str, name: str) -> FixedReply:
        code: Literal["token_missing", "token_invalid"] = (
            "token_missing" if error.code == "token_missing" else "token_invalid"
        )
        challenge = self._resource_server.challenge(resource, code, error.scope or scope_of(name))
        return reply.fixed(FAULTS[code], extra=((b"www-authenticate", challenge),))

    async def _tell(self, out: asgi.EventStream, send: asgi.Send, told: FixedReply) -> None:
        """Say it where the caller reads: as the reply, or as the last event of an open stream.

        A plain event that is a JSON-RPC error response, as the specification has it (§9.4.2): the
        SDKs raise it; an ``error``-typed one is heard by one of them only.
        """
        if out.opened:
            await out.fixed_event(told)
            await out.close()
        else:
            await asgi.write_fixed(send, told)


async def while_connected(tasks: Tasks, receive: asgi.Receive, work: Coroutine[object, None, Outcome]) -> Outcome:
    """Return what ``work`` returns, or cancel it and return ``cancelled`` when the client leaves first."""
    job = tasks.spawn(work, "a2a-call")
    gone = tasks.spawn(asgi.disconnected(receive), "a2a-gone")
    try:
        await asyncio.wait({job, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not job.done():
            # The server also reports a finished reply this way: let the last step of the call end.
            await asyncio.sleep(0)
        return job.result() if job.done() else ("cancelled", "client_gone")
    finally:
        for task in (job, gone):
            task.cancel()
        await asyncio.gather(job, gone, return_exceptions=True)


def _wrong_verb(allow: bytes) -> FixedReply:
    return reply.fixed(FAULTS["method_not_allowed"], extra=((b"allow", allow),))


def _client_ip(scope: asgi.Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


def _trace(exchange: Exchange) -> bytes:
    """Return the ``traceparent`` to send on, or b"" (W3C Trace Context §3.2)."""
    if not exchange.trace_id or not exchange.parent_span:
        return b""
    return f"00-{exchange.trace_id}-{exchange.parent_span}-{'01' if exchange.sampled else '00'}".encode()
