"""The LLM face: raw ASGI for ``/v1/chat/completions``, ``/v1/messages`` and ``/v1/models``.

    authenticate ─▶ read ─▶ choose ─▶ guard ─▶ reserve ─▶ provider ─▶ guard, per call and text ─▶ reply
                                                  └────────────── settle, in any case ──────────────┘

- ``/v1`` is a resource of its own: a token for it says nothing anywhere else (DESIGN §6b-8). Clients
  that can only send a key send that token as the key.
- A route speaks one protocol and reaches providers of that protocol alone (`llm_router.dialect`).
- Nothing of a request is read before its caller is known.
- One watcher stands beside every call: a caller that leaves cancels the provider's work, what was used
  is charged, and no task stays behind.
- The head of a streamed reply is sent with its first event: until then an error is a status.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

from firewall.core.bounds import LLM_BODY_BYTES, REQUEST_READ_S
from firewall.core.errors import FAULTS, BartizanError, Malformed, Unauthenticated, UpstreamFault
from firewall.core.exchange import Exchange
from firewall.core.jsonvalue import JSON
from firewall.core.permit import Cleared, FixedReply, Refusal
from firewall.core.ports import Clock, ResourceServer
from firewall.core.principal import Principal
from firewall.enforce.guard import Guard
from firewall.enforce.token_rules import cure
from firewall.net import asgi
from firewall.net.runtime import Tasks
from firewall.net.tenure import Tenure
from firewall.wire import http, strict_json
from llm_router import action as act
from llm_router import answer as ans
from llm_router import reply
from llm_router.action import Route
from llm_router.answer import Head, Usage
from llm_router.choose import Model, Models
from llm_router.dialect import MODELS_PATH, PATHS, Dialect, authorization, dialect_of, route_of
from llm_router.meter import Meter, Tally, prompt_tokens
from llm_router.relay import Problem, Relay
from llm_router.release import Answer, AnswerStream, clear_request
from llm_router.request import Request

RESOURCE_PATH: Final = "/v1"
SCOPE: Final = "llm:invoke"
Outcome = tuple[Literal["ok", "refused", "upstream_fault", "cancelled", "internal"], str]
GONE: Final[Outcome] = ("cancelled", "client_gone")


@dataclass(frozen=True, slots=True)
class RouterSettings:
    """public_url: our origin. body_bytes, read_s: one request body."""

    public_url: str
    body_bytes: int = LLM_BODY_BYTES
    read_s: float = REQUEST_READ_S


@dataclass(frozen=True, slots=True)
class Spent:
    """What one call used, for telemetry; money in micro-USD. counted: whether the provider counted.

    duration_us: from the reservation to the end of the answer.
    """

    exchange_id: str
    principal: Principal
    model: Model
    usage: Usage
    micro_usd: int
    counted: bool
    duration_us: int


@dataclass(slots=True)
class _Call:
    """One request for an answer on its way. still: whether its caller's token is good now."""

    dialect: Dialect
    model: Model
    request: Request
    answer: Answer
    out: asgi.EventStream
    send: asgi.Send
    still: Callable[[], bool]

    @property
    def exchange(self) -> Exchange:
        return self.answer.exchange


class LLMRouter:
    """The ASGI application for the paths in `PATHS`. One per worker."""

    def __init__(
        self,
        *,
        guard: Guard,
        resource_server: ResourceServer,
        models: Models,
        meter: Meter,
        relay: Relay,
        clock: Clock,
        tasks: Tasks,
        settings: RouterSettings,
        on_spent: Callable[[Spent], None] = lambda _spent: None,
    ) -> None:
        self._guard = guard
        self._resource_server = resource_server
        self._models = models
        self._meter = meter
        self._relay = relay
        self._clock = clock
        self._tasks = tasks
        self._settings = settings
        self._resource = settings.public_url + RESOURCE_PATH
        self._on_spent = on_spent

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """Answer one HTTP request."""
        path = str(scope["path"])
        dialect = dialect_of(path, {})
        try:
            headers = asgi.header_map(scope)
            dialect = dialect_of(path, headers)
            verb = PATHS.get(path)
            if verb is None or scope["method"] != verb:
                await asgi.write_fixed(send, _not_here(dialect, verb))
                return
            given = authorization(dialect, headers)
            principal = await self._resource_server.admit(
                given, self._resource, default_scope=SCOPE, method=verb, path=path, address=asgi.client_ip(scope)
            )
        except Unauthenticated as error:
            await asgi.write_fixed(send, self._unauthenticated(error, dialect, scope))
            return
        except BartizanError as error:
            await asgi.write_fixed(send, reply.failed(error, words=dialect.words))
            return
        client = scope.get("client")
        exchange = self._guard.new_exchange(
            principal,
            "llm",
            client_ip=str(client[0]) if client else "",
            traceparent=headers.get(b"traceparent", b""),
        )
        exchange.verb = act.MODELS if path == MODELS_PATH else dialect.route.verb
        outcome: Outcome = ("cancelled", "")
        try:
            route = route_of(dialect, headers)
            if path == MODELS_PATH:
                outcome = await self._list(principal, exchange, send, dialect)
            else:
                outcome = await self._ask(scope, receive, send, headers, principal, exchange, dialect, route)
        except Malformed as error:
            if error.code != "client_gone":
                outcome = ("refused", error.code)
                await asgi.write_fixed(send, reply.failed(error, exchange.id, words=dialect.words))
        finally:
            self._guard.close(exchange, outcome=outcome[0], error=outcome[1])

    # -- models ---------------------------------------------------------------------------------------

    async def _list(self, principal: Principal, exchange: Exchange, send: asgi.Send, dialect: Dialect) -> Outcome:
        anthropic = dialect.protocol == "anthropic"
        action = act.models_action(principal, self._models.listed(principal.tenant), anthropic=anthropic)
        verdict = await self._guard.clear(action, exchange)
        if isinstance(verdict, Refusal):
            await asgi.write_fixed(send, self._refused(verdict, dialect))
            return ("refused", verdict.fault.code)
        await asgi.write_cleared(send, verdict)
        return ("ok", "")

    # -- answers --------------------------------------------------------------------------------------

    async def _ask(
        self,
        scope: asgi.Scope,
        receive: asgi.Receive,
        send: asgi.Send,
        headers: dict[bytes, bytes],
        principal: Principal,
        exchange: Exchange,
        dialect: Dialect,
        route: Route,
    ) -> Outcome:
        if http.media_type(headers.get(b"content-type", b"")) != "application/json":
            raise Malformed("media_type")
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Malformed("media_type")
        body = await asgi.read_body(scope, receive, self._settings.body_bytes, self._settings.read_s)
        exchange.bytes_in = len(body)
        request = dialect.parse(strict_json.loads(body))
        del body
        model = self._models.find(request.model, principal.tenant)
        if model is None:
            raise Malformed("model_unknown")
        if model.provider.protocol != dialect.protocol:
            # Its own protocol is relayed on its own route; translation has a room of its own to come.
            raise Malformed("operation_unsupported")
        tally = Tally(0)
        seconds = self._clock.now_us() // 1_000_000
        head = Head(dialect.id_prefix + exchange.id.removeprefix("x_"), seconds, model.alias)
        answer = dialect.answer(self._guard, exchange, principal, model, head, request, tally, route)
        given = authorization(dialect, headers)
        still = partial(self._resource_server.still, given, self._resource, principal)
        call = _Call(dialect, model, request, answer, asgi.EventStream(send), send, still)
        return await asgi.while_connected(self._tasks, receive, self._forward(call), gone=GONE, name="llm")

    async def _forward(self, call: _Call) -> Outcome:
        try:
            return await self._metered(call)
        except BartizanError as error:
            await self._tell(call, reply.failed(error, call.exchange.id, words=call.dialect.words))
            return ("upstream_fault" if isinstance(error, UpstreamFault) else "refused", error.code)
        except Exception:  # noqa: BLE001  the one blanket of this room: a caller is told `internal`, nothing else
            await self._tell(call, reply.fixed(FAULTS["internal"], call.exchange.id, words=call.dialect.words))
            return ("internal", "internal")
        finally:
            call.exchange.bytes_out += call.out.bytes_out

    async def _metered(self, call: _Call) -> Outcome:
        model, request, principal = call.model, call.request, call.answer.principal
        limit = min(request.limit or model.max_output_tokens, model.max_output_tokens)
        body = request.outgoing(model=model.name, limit=limit, limit_member=model.provider.limit_member)
        action = act.request_action(call.answer.route, principal, model, request, body, limit)
        verdict = await clear_request(self._guard, action, call.exchange, request)
        if isinstance(verdict, Refusal):
            await self._tell(call, self._refused(verdict, call.dialect))
            return ("refused", verdict.fault.code)
        tally = call.answer.tally
        tally.input_tokens = prompt_tokens(len(verdict.payload), request.images, request.image_chars)
        held = self._meter.reserve(principal, model.price, input_tokens=tally.input_tokens, output_tokens=limit)
        tally.reached = True
        started = self._clock.monotonic_ns()
        try:
            return await (self._stream(call, verdict) if request.stream else self._whole(call, verdict))
        except UpstreamFault as fault:
            tally.reached = fault.code in ("timeout", "cut_stream", "malformed", "too_large")
            raise
        finally:
            # Synchronous, so that no cancellation comes between: what was used is charged in any case.
            used = tally.actual()
            cost = self._meter.settle(held, used)
            duration_us = (self._clock.monotonic_ns() - started) // 1000
            self._on_spent(Spent(call.exchange.id, principal, model, used, cost, tally.usage is not None, duration_us))

    async def _whole(self, call: _Call, cleared: Cleared) -> Outcome:
        got = await self._relay.whole(cleared, call.model.provider, call.answer.principal)
        if isinstance(got, Problem):
            return await self._problem(call, got)
        verdict = await call.answer.whole(got)
        if isinstance(verdict, Refusal):
            await self._tell(call, self._refused(verdict, call.dialect))
            return ("refused", verdict.fault.code)
        call.exchange.bytes_out += len(verdict.payload)
        await asgi.write_cleared(call.send, verdict, extra=_request_id(call))
        return ("ok", "")

    async def _stream(self, call: _Call, cleared: Cleared) -> Outcome:
        async with Tenure(call.still) as tenure:
            return await self._streamed(call, cleared)
        assert tenure.over  # or the block would have returned
        raise Unauthenticated("token_invalid", "over")

    async def _streamed(self, call: _Call, cleared: Cleared) -> Outcome:
        ended: Refusal | Problem | None = None
        async with self._relay.stream(cleared, call.model.provider, call.answer.principal) as chunks:
            if isinstance(chunks, Problem):
                return await self._problem(call, chunks)
            stream = await call.answer.open()
            if isinstance(stream, Refusal):
                ended = stream
            else:
                async with aclosing(chunks.together()) as arriving:
                    async for values in arriving:
                        ended = await _relayed(call, stream, values)
                        if ended is not None:
                            break
                if ended is None:
                    events = await stream.finish()
                    if isinstance(events, Refusal):
                        ended = events
                    else:
                        await _send(call, events)
        if isinstance(ended, Problem):
            return await self._problem(call, ended)
        if ended is not None:
            await self._tell(call, self._refused(ended, call.dialect))
            return ("refused", ended.fault.code)
        if call.dialect.words.done is not None:
            await call.out.fixed_event(call.dialect.words.done)
        await call.out.close()
        return ("ok", "")

    # -- refusals and faults ------------------------------------------------------------------------------

    async def _problem(self, call: _Call, found: Problem) -> Outcome:
        """Tell a provider's refusal: its text passes the guard like anything else that it says."""
        call.answer.tally.reached = found.status == 502
        body = call.dialect.words.problem(found.status, found.message, found.code, call.exchange.id)
        action = act.error_action(
            call.answer.route, call.answer.principal, call.model, found.status, body, stream=call.request.stream
        )
        verdict = await self._guard.clear(action, call.exchange)
        if isinstance(verdict, Refusal):
            await self._tell(call, self._refused(verdict, call.dialect))
            return ("refused", verdict.fault.code)
        if call.out.opened:
            await call.out.event(verdict, event=call.dialect.words.error_event)
            await call.out.close()
        else:
            retry = ((b"retry-after", b"%d" % found.retry_after_s),) if found.retry_after_s else ()
            await asgi.write_cleared(call.send, verdict, status=found.status, extra=(*_request_id(call), *retry))
        return ("upstream_fault", "failed")

    async def _tell(self, call: _Call, told: FixedReply) -> None:
        """Say it where the caller reads: as the reply, or as the last event of an open stream."""
        if call.out.opened:
            await call.out.fixed_event(told, event=call.dialect.words.error_event)
            await call.out.close()
        else:
            await asgi.write_fixed(call.send, told)

    def _refused(self, refusal: Refusal, dialect: Dialect) -> FixedReply:
        challenge = cure(self._resource_server, self._resource, refusal)
        return reply.refused(refusal, challenge, words=dialect.words)

    def _unauthenticated(self, error: Unauthenticated, dialect: Dialect, scope: asgi.Scope) -> FixedReply:
        code = "token_missing" if error.code == "token_missing" else "token_invalid"
        extra = self._resource_server.challenges(self._resource, error, SCOPE)
        noted = self._resource_server.note_refused(error, self._resource, asgi.client_ip(scope))
        return reply.fixed(FAULTS[code], noted, extra=extra, words=dialect.words)


def _not_here(dialect: Dialect, verb: str | None) -> FixedReply:
    """Answer an unknown path (no verb) or another verb than the path's."""
    allow = ((b"allow", verb.encode()),) if verb else ()
    return reply.fixed(FAULTS["method_not_allowed" if verb else "path_unknown"], extra=allow, words=dialect.words)


async def _relayed(call: _Call, stream: AnswerStream, values: list[JSON]) -> Refusal | Problem | None:
    """Relay chunks that are there together; return what ends the answer. Raises UpstreamFault, after what came before."""
    ended: Refusal | Problem | None = None
    fault: UpstreamFault | None = None
    try:
        for value in values:
            if ans.is_error(value):
                ended = Problem(502, ans.error_text(value)[0] or "The provider ended its answer.", "")
            else:
                ended = await stream.take(value)
            if ended is not None:
                break
    except UpstreamFault as error:
        fault = error
    if not isinstance(ended, Refusal):
        ended = await stream.flush() or ended
    await _send(call, stream.taken())
    if fault is not None and ended is None:
        raise fault
    return ended


async def _send(call: _Call, events: list[Cleared]) -> None:
    if events:
        if not call.out.opened:
            await call.out.open(_request_id(call))
        await call.out.events([(cleared, call.dialect.event_name(cleared.body), "") for cleared in events])


def _request_id(call: _Call) -> tuple[tuple[bytes, bytes], ...]:
    return ((call.dialect.words.id_header, call.exchange.id.encode()),)
