"""What clients may hear of without asking again: ``subscriptions/listen``, ``resources/subscribe``, a GET stream.

    modern   subscriptions/listen: acknowledged with the honoured subset, then events, each with the id of
             the listen; ends with a result (MCP 2026-07-28, subscriptions)
    legacy   resources/subscribe and a session's GET stream (MCP 2025-11-25, resources; transports)

- Each URI is a decision at `Point.MCP_RESOURCE_WATCH`, each task id one at ``MCP_TASK_GET``; what is not
  allowed, or not the caller's, is left out of what is honoured, and the answer does not say why.
- A stream never outlives its token: it ends with the result, and the client listens again with a new one.
- Streams per caller, URIs and tasks per stream are bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from firewall.core.action import Resource
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.permit import Refusal
from firewall.core.points import Point
from firewall.core.ports import Clock
from firewall.core.principal import Principal
from firewall.net import asgi
from firewall.net.runtime import Tasks
from firewall.net.tenure import Tenure
from firewall.wire import jsonrpc
from mcp_gateway import tasks
from mcp_gateway.catalog import Catalog, Endpoint
from mcp_gateway.heard import FILTERS, What
from mcp_gateway.hub import Hub
from mcp_gateway.listener import Judge, Listener, Watched
from mcp_gateway.message import SUBSCRIPTION_ID, Rejected
from mcp_gateway.relay import Turn
from mcp_gateway.session import Session
from mcp_gateway.sessions import Sessions
from mcp_gateway.settings import UpstreamSpec
from mcp_gateway.tasks import EXTENSION, EXTENSION_ID
from mcp_gateway.watching import Watching

URIS: Final = 256  # per stream or session
TASKS: Final = 64
PAUSE_S: Final = 0.02  # between two notifications of one stream
STALL_S: Final = 30.0
LISTEN_S: Final = 3600.0  # a stream's whole life; the client listens again


@dataclass(slots=True)
class _Attached:
    """A session that listens, and what brings it its events while there are any."""

    one: Listener
    pump: asyncio.Task[None] | None = None


class Subscriptions:
    """Serves those who listen. One per worker."""

    def __init__(
        self,
        *,
        hub: Hub,
        judge: Judge,
        catalog: Catalog,
        sessions: Sessions,
        watching: Watching,
        clock: Clock,
        tasks: Tasks,
    ) -> None:
        self._hub = hub
        self._judge = judge
        self._catalog = catalog
        self._sessions = sessions
        self._watching = watching
        self._clock = clock
        self._tasks = tasks
        self._attached: dict[bytes, _Attached] = {}
        self._ends: dict[asyncio.Event, Listener] = {}

    @property
    def handlers(self) -> Mapping[str, Callable[[Turn, Endpoint], Awaitable[str]]]:
        """Method → handler, as `dispatch` has them."""
        return {
            "subscriptions/listen": self.listen,
            "resources/subscribe": self._subscribe,
            "resources/unsubscribe": self._unsubscribe,
        }

    def close(self) -> None:
        """End every stream with its result: the worker stops."""
        for end in self._ends:
            end.set()

    def renew(self) -> None:
        """Follow a change of the endpoints: streams of one that changed end, sessions hear of its new upstreams."""
        endpoints = {endpoint.url: endpoint for endpoint in self._catalog.endpoints.values()}
        for end, one in self._ends.items():
            if endpoints.get(one.endpoint.url) != one.endpoint:
                end.set()
        for known in self._attached.values():
            now = endpoints.get(known.one.endpoint.url)
            if now != known.one.endpoint:
                self._hub.leave(known.one)
                if now is not None:
                    known.one.endpoint = now
                    self._hub.join(known.one, _held(known.one))

    # -- modern ------------------------------------------------------------------------------------------

    async def listen(self, turn: Turn, endpoint: Endpoint) -> str:
        """``subscriptions/listen``: serve the stream until the client leaves, its token ends, or we do.

        Raises Malformed (params_invalid, streams_full), Rejected (capability_missing).
        """
        call, principal = turn.call, turn.principal
        lists, uris, ids = _asked(call.params)
        if ids and not tasks.offers(call.capabilities, EXTENSION):
            raise Rejected("capability_missing", data={"requiredCapabilities": {"extensions": {EXTENSION_ID: {}}}})
        resource = self._catalog.resource(principal, endpoint)
        refusal = await self._watching.decide(turn, Point.MCP_RESOURCE_WATCH, resource, {})
        if refusal is not None:
            return await turn.refuse(refusal)
        one = Listener(principal, endpoint, call.version, call.capabilities, call.id, set(lists))
        honoured: JSONObject = {FILTERS[what]: True for what in lists}
        await self._honour(turn, endpoint, one, uris, ids, honoured)
        release = self._sessions.hold(principal)
        end = asyncio.Event()
        self._ends[end] = one
        try:
            # Joined before the lists are looked at: what changes from here on waits in the mailbox.
            self._hub.join(one, _held(one))
            await self._judge.look(one)
            return await self._stream(turn, one, resource, honoured, end)
        finally:
            del self._ends[end]
            self._hub.leave(one)
            release()

    async def _honour(
        self, turn: Turn, endpoint: Endpoint, one: Listener, uris: list[str], ids: list[str], honoured: JSONObject
    ) -> None:
        allowed: list[JSON] = []
        for uri in uris:
            watched = await self._watching.may_watch(turn, endpoint, uri)
            if isinstance(watched, Watched):
                one.watched[watched.spec.name, watched.own] = watched
                allowed.append(uri)
        if allowed:
            honoured["resourceSubscriptions"] = allowed
        mine: list[JSON] = [ours for ours in ids if await self._watching.may_follow(turn, endpoint, one, ours)]
        if mine:
            honoured["taskIds"] = mine

    async def _stream(
        self, turn: Turn, one: Listener, resource: Resource, honoured: JSONObject, end: asyncio.Event
    ) -> str:
        ack = jsonrpc.build_notification(
            "notifications/subscriptions/acknowledged", {"notifications": honoured, **one.meta}
        )
        verdict = await self._watching.say(turn, resource, "notifications/subscriptions/acknowledged", ack)
        if isinstance(verdict, Refusal):
            return await turn.refuse(verdict)
        await turn.out.notice(verdict)
        watch = self._tasks.spawn(_pull_when_gone(turn), "mcp.listen.watch")
        told = self._tasks.spawn(self._tell(turn, one), "mcp.listen.tell")
        stop = self._tasks.spawn(_waited(end), "mcp.listen.stop")
        try:
            async with Tenure(turn.still or _always):
                with turn.leash:
                    await asyncio.wait(
                        {told, stop}, timeout=self._left_s(turn.principal), return_when="FIRST_COMPLETED"
                    )
        finally:
            for task in (watch, told, stop):
                task.cancel()
            await asyncio.gather(watch, told, stop, return_exceptions=True)
        if turn.leash.pulled:
            return "cancelled"
        result: JSONObject = {"resultType": "complete", "_meta": {SUBSCRIPTION_ID: turn.call.id}}
        verdict = await self._watching.say(
            turn, resource, turn.call.method, jsonrpc.build_response(turn.call.id, result)
        )
        if isinstance(verdict, Refusal):
            return await turn.refuse(verdict)
        await turn.out.final(verdict)
        return "ok"

    async def _tell(self, turn: Turn, one: Listener) -> None:
        """Write events until the client takes none any more."""
        with contextlib.suppress(TimeoutError, OSError, RuntimeError):
            while True:
                cleared = await self._judge.judge(one, await one.next())
                if turn.still is not None and not turn.still():
                    return  # revoked meanwhile
                if cleared is not None:
                    async with asyncio.timeout(STALL_S):
                        await turn.out.notice(cleared)
                await asyncio.sleep(PAUSE_S)

    def _left_s(self, principal: Principal) -> float:
        if principal.expires_at <= 0:
            return LISTEN_S
        return max(0.0, min(LISTEN_S, principal.expires_at - self._clock.now_us() / 1e6))

    # -- legacy ------------------------------------------------------------------------------------------

    def attach(self, session: Session, principal: Principal, endpoint: Endpoint) -> Listener:
        """Let a session hear of changes on its standalone stream until it ends; a second call renews its principal."""
        known = self._attached.get(session.key)
        if known is not None:
            known.one.principal = principal
            self._wake(session, known)
            return known.one
        one = Listener(principal, endpoint, session.version, session.capabilities, None, set(FILTERS))
        known = self._attached[session.key] = _Attached(one)
        one.wake = partial(self._wake, session, known)
        session.on_end.append(partial(self._detach, session.key))
        self._hub.join(one, _held(one))
        self._wake(session, known)
        return one

    def _detach(self, key: bytes) -> None:
        known = self._attached.pop(key)
        self._hub.leave(known.one)
        if known.pump is not None:
            known.pump.cancel()

    def _wake(self, session: Session, known: _Attached) -> None:
        """Start what brings a session its events; an idle session has no task."""
        if known.pump is None:
            known.pump = self._tasks.spawn(self._push(session, known), "mcp.session.push")

    async def _push(self, session: Session, known: _Attached) -> None:
        """Bring a session what waits for it. While its principal's token is over, events wait for the next one."""
        one = known.one
        try:
            if not one.digests:
                await self._judge.look(one)
            while one.mail and not 0 < one.principal.expires_at <= self._clock.now_us() / 1e6:
                cleared = await self._judge.judge(one, await one.next())
                if cleared is not None:
                    session.push(cleared)
                await asyncio.sleep(PAUSE_S)
        finally:
            known.pump = None

    async def _subscribe(self, turn: Turn, endpoint: Endpoint) -> str:
        session = _session(turn)
        uri = turn.call.params.get("uri")
        if not isinstance(uri, str):
            raise Malformed("params_invalid")
        if uri not in session.subscriptions and len(session.subscriptions) >= URIS:
            raise Malformed("over_limit")
        watched = await self._watching.may_watch(turn, endpoint, uri)
        if isinstance(watched, Refusal):
            return await turn.refuse(watched)
        if watched is None:
            raise Malformed("params_invalid")
        session.subscriptions.add(uri)
        one = self.attach(session, turn.principal, endpoint)
        one.watched[watched.spec.name, watched.own] = watched
        self._hub.join(one, _held(one))
        return await self._empty(turn, endpoint)

    async def _unsubscribe(self, turn: Turn, endpoint: Endpoint) -> str:
        session = _session(turn)
        uri = turn.call.params.get("uri")
        if not isinstance(uri, str):
            raise Malformed("params_invalid")
        resource = self._catalog.resource(turn.principal, endpoint)
        refusal = await self._watching.decide(turn, Point.MCP_RESOURCE_WATCH, resource, {})
        if refusal is not None:
            return await turn.refuse(refusal)
        session.subscriptions.discard(uri)
        known = self._attached.get(session.key)
        if known is not None:
            one = known.one
            one.watched = {place: w for place, w in one.watched.items() if w.uri != uri}
            self._hub.join(one, _held(one))
        return await self._empty(turn, endpoint)

    async def _empty(self, turn: Turn, endpoint: Endpoint) -> str:
        resource = self._catalog.resource(turn.principal, endpoint)
        verdict = await self._watching.say(turn, resource, turn.call.method, jsonrpc.build_response(turn.call.id, {}))
        if isinstance(verdict, Refusal):
            return await turn.refuse(verdict)
        await turn.out.final(verdict)
        return "ok"


def _asked(params: JSONObject) -> tuple[list[What], list[str], list[str]]:
    """Return lists, URIs and task ids of a listen. Raises Malformed("params_invalid"); a flag that is not true is none."""
    asked = params.get("notifications")
    if not isinstance(asked, dict):
        raise Malformed("params_invalid")
    lists: list[What] = [what for what, flag in FILTERS.items() if asked.get(flag) is True]
    return lists, _texts(asked.get("resourceSubscriptions"), URIS), _texts(asked.get("taskIds"), TASKS)


def _texts(value: JSON, most: int) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > most:
        raise Malformed("params_invalid")
    texts = [entry for entry in value if isinstance(entry, str)]
    if len(texts) != len(value):
        raise Malformed("params_invalid")
    return list(dict.fromkeys(texts))


def _held(one: Listener) -> list[UpstreamSpec]:
    """Return the upstreams of an endpoint of which a caller holds any scope: others it hears nothing of."""
    scopes = one.principal.scopes
    return [s for s in one.endpoint.specs if scopes & {f"{s.name}:read", f"{s.name}:write"}]


def _session(turn: Turn) -> Session:
    if turn.session is None:
        raise Malformed("session_missing")
    return turn.session


async def _pull_when_gone(turn: Turn) -> None:
    await asgi.disconnected(turn.receive)
    turn.leash.pull()


def _always() -> bool:
    return True


async def _waited(event: asyncio.Event) -> None:
    await event.wait()
