"""The A2A face: raw ASGI for ``/a2a/<name>``, its agent card, and the keys that sign our cards.

    authenticate ─▶ read ─▶ version ─▶ own the ids ─▶ guard ─▶ agent ─▶ guard, per object ─▶ reply

- Nothing is read of a request before its caller is known; nothing leaves, either way, that the
  guard did not clear or that is not our own fixed words.
- Both ``/a2a/<name>`` and ``/a2a/<name>/`` are served: many clients follow no redirect (GW-06).
- One watcher stands beside every call: a caller that leaves ends the call and the connection to
  the agent, and no task stays behind. The agent's *task* goes on; the caller may come back for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

from a2a_gateway import message, reply
from a2a_gateway.action import STREAMED, card_action
from a2a_gateway.call import Call, Outcome, clear_seen, refused, tell
from a2a_gateway.inventory import KEYS_PATH, WELL_KNOWN, Inventory, scope_of
from a2a_gateway.message import Send, TaskQuery
from a2a_gateway.parked import Parking
from a2a_gateway.relay import Relay
from a2a_gateway.tasks import Caller, TaskBook
from a2a_gateway.upstream import Upstream
from a2a_gateway.versions import HEADER, check_method, check_version
from firewall.core.action import Action
from firewall.core.bounds import BODY_BYTES, REQUEST_READ_S
from firewall.core.errors import FAULTS, BartizanError, Malformed, Unauthenticated, UpstreamFault
from firewall.core.exchange import Exchange
from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import Cleared, FixedReply, Refusal
from firewall.core.ports import ResourceServer
from firewall.core.principal import Actor, Principal
from firewall.enforce.guard import Guard
from firewall.net import asgi
from firewall.net.runtime import Tasks
from firewall.wire import http, jsonrpc, strict_json

PREFIX: Final = "/a2a/"
GONE: Final[Outcome] = ("cancelled", "client_gone")


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Bytes and seconds of one request body; how long a card may be kept by a client."""

    body_bytes: int = BODY_BYTES
    read_s: float = REQUEST_READ_S
    card_max_age_s: int = 60


class A2AGateway:
    """The ASGI application for every path under ``/a2a/``. One per worker."""

    def __init__(
        self,
        *,
        guard: Guard,
        resource_server: ResourceServer,
        inventory: Inventory,
        book: TaskBook,
        parking: Parking,
        upstream: Upstream,
        tasks: Tasks,
        settings: ServeSettings | None = None,
    ) -> None:
        self._guard = guard
        self._resource_server = resource_server
        self._inventory = inventory
        self._relay = Relay(guard, resource_server, book, parking, upstream, inventory.settings.public_url)
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
                else await self._resource_server.admit(
                    headers,
                    resource,
                    default_scope=scope_of(name),
                    method=str(scope["method"]),
                    path=str(scope["path"]),
                    address=asgi.client_ip(scope),
                )
            )
        except Unauthenticated as error:
            await asgi.write_fixed(send, self._unauthenticated(error, resource, name, scope))
            return
        exchange = self._guard.new_exchange(principal, "a2a", client_ip=asgi.client_ip(scope))
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
                await asgi.write_fixed(send, refused(self._resource_server, verdict, None, resource))
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
        return await clear_seen(self._guard, action, exchange, found)

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
            principal = await self._resource_server.admit(
                headers,
                resource,
                default_scope=scope_of(name),
                method="POST",
                path=str(scope["path"]),
                address=asgi.client_ip(scope),
            )
        except Unauthenticated as error:
            await asgi.write_fixed(send, self._unauthenticated(error, resource, name, scope))
            return
        traceparent = headers.get(b"traceparent", b"")
        exchange = self._guard.new_exchange(principal, "a2a", client_ip=asgi.client_ip(scope), traceparent=traceparent)
        outcome: Outcome = ("cancelled", "")
        try:
            if http.media_type(headers.get(b"content-type", b"")) != "application/json":
                raise Malformed("media_type")
            if headers.get(b"content-encoding", b"identity").lower() != b"identity":
                raise Malformed("media_type")  # whoever unpacks it on the way would read another message
            body = await asgi.read_body(scope, receive, self._settings.body_bytes, self._settings.read_s)
            exchange.bytes_in = len(body)
            work = self._request(scope, headers, body, send, name, principal, exchange)
            outcome = await asgi.while_connected(self._tasks, receive, work, gone=GONE, name="a2a")
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
            still = partial(self._resource_server.still, headers, resource, principal)
            call = Call(agent, principal, exchange, rpc_id, method, caller, out, send, allowed, resource, still)
            return await self._relay.forward(call, read, headers)
        except BartizanError as error:
            kind = "upstream_fault" if isinstance(error, UpstreamFault) or error.code == "agent_response" else "refused"
            await tell(out, send, reply.failed(error, rpc_id, exchange.id))
            return (kind, error.code)  # type: ignore[return-value]  # both words are outcomes
        except Exception:  # noqa: BLE001  the one blanket of this room: a caller is told `internal`, nothing else
            await tell(out, send, reply.fixed(FAULTS["internal"], rpc_id, exchange.id))
            return ("internal", "internal")

    # -- our own words -----------------------------------------------------------------------------------

    def _unauthenticated(self, error: Unauthenticated, resource: str, name: str, scope: asgi.Scope) -> FixedReply:
        code = "token_missing" if error.code == "token_missing" else "token_invalid"
        noted = self._resource_server.note_refused(error, resource, asgi.client_ip(scope))
        extra = self._resource_server.challenges(resource, error, scope_of(name))
        return reply.fixed(FAULTS[code], None, noted, extra=extra)


def _wrong_verb(allow: bytes) -> FixedReply:
    return reply.fixed(FAULTS["method_not_allowed"], extra=((b"allow", allow),))
