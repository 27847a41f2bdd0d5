"""Calls to remote agents: one HTTP exchange per operation, whole or streamed.

Only `Cleared` goes out, to the interface of the verified card alone; the credential is ours, never
the caller's (A2A-05: which header it travels in is configuration, not the card's word). What comes
back is strictly parsed here and judged elsewhere.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from a2a_gateway.action import UPSTREAM_ID
from a2a_gateway.inventory import Agent
from firewall.core.action import Headers
from firewall.core.bounds import STREAM_TOTAL_S, UPSTREAM_BODY_BYTES, UPSTREAM_IDLE_S, UPSTREAM_TOTAL_S
from firewall.core.errors import Malformed, UpstreamFault
from firewall.core.permit import Cleared
from firewall.core.ports import UpstreamCredentials
from firewall.core.principal import Principal
from firewall.net.upstream import Target, UpstreamClient, UpstreamStream
from firewall.wire import jsonrpc, sse, strict_json

Answer = jsonrpc.Response | jsonrpc.ErrorResponse

_OWN: Final = frozenset({b"a2a-version", b"content-type", b"accept", b"host", b"content-length", b"traceparent"})


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """Seconds and bytes of one call. A blocking send holds its connection up to ``deadline_s``."""

    deadline_s: float = UPSTREAM_TOTAL_S
    stream_s: float = STREAM_TOTAL_S
    idle_s: float = UPSTREAM_IDLE_S
    max_bytes: int = UPSTREAM_BODY_BYTES


class Upstream:
    """The outgoing side for all agents. Raises UpstreamFault; ``credentials`` when we have none."""

    def __init__(
        self, client: UpstreamClient, credentials: UpstreamCredentials, settings: UpstreamSettings | None = None
    ) -> None:
        self._client = client
        self._credentials = credentials
        self._settings = settings or UpstreamSettings()

    async def call(
        self, cleared: Cleared, agent: Agent, principal: Principal, *, deadline_s: float | None = None
    ) -> Answer:
        """Return an agent's answer to one request."""
        headers = await self._headers(agent, principal, b"application/json")
        reply = await self._client.request(
            cleared,
            _target(agent),
            headers=headers,
            deadline_s=deadline_s or self._settings.deadline_s,
            max_bytes=self._settings.max_bytes,
        )
        _check_status(reply.status)
        return _answer(reply.body, reply.status)

    async def connected(self, agent: Agent, principal: Principal) -> None:
        """Return if there is a credential to call an agent with for a caller now; nothing is sent to the agent.

        Raises ConsentNeeded, UpstreamFault.
        """
        await self._headers(agent, principal, b"application/json")

    @asynccontextmanager
    async def stream(
        self, cleared: Cleared, agent: Agent, principal: Principal
    ) -> AsyncGenerator[AsyncIterator[Answer]]:
        """Yield an agent's answers as they come; leaving the block closes the connection to it."""
        headers = await self._headers(agent, principal, b"text/event-stream")
        async with self._client.stream(
            cleared,
            _target(agent),
            headers=headers,
            deadline_s=self._settings.stream_s,
            idle_s=self._settings.idle_s,
        ) as incoming:
            _check_status(incoming.status)
            streamed = incoming.headers.get("content-type", "").partition(";")[0].strip().lower() == "text/event-stream"
            answers = self._events(incoming) if streamed and incoming.status == 200 else self._whole(incoming)
            async with aclosing(answers):
                yield answers

    async def _events(self, incoming: UpstreamStream) -> AsyncGenerator[Answer]:
        parser = sse.Parser()
        async for chunk in incoming.chunks():
            for event in parser.feed(chunk):
                if isinstance(event, Malformed):
                    raise UpstreamFault("malformed", event.code)
                if event.data:
                    yield _answer(event.data, 200)
        if parser.close() is not None:
            raise UpstreamFault("cut_stream")

    async def _whole(self, incoming: UpstreamStream) -> AsyncGenerator[Answer]:
        """An agent that refuses a stream at once answers with one JSON document."""
        body = bytearray()
        async for chunk in incoming.chunks():
            body += chunk
            if len(body) > self._settings.max_bytes:
                raise UpstreamFault("too_large")
        yield _answer(bytes(body), incoming.status)

    async def _headers(self, agent: Agent, principal: Principal, accept: bytes) -> Headers:
        ours = await self._credentials.headers_for(principal, agent.name)
        if any(name.lower() in _OWN for name, _ in ours):
            raise UpstreamFault("credentials", "a credential cannot travel in a protocol header")
        return (*ours, (b"accept", accept))


def _target(agent: Agent) -> Target:
    if agent.card is None:
        raise UpstreamFault("unreachable", "there is no verified card")
    spec = agent.spec
    return Target(
        agent.card.url,
        network=spec.network,
        ca_file=spec.ca_file,
        client_cert=spec.client_cert,
        client_key=spec.client_key,
    )


def _check_status(status: int) -> None:
    if status in (401, 403, 407):
        raise UpstreamFault("credentials", "the agent does not accept our credential")


def _answer(body: bytes, status: int) -> Answer:
    """Return the JSON-RPC answer to our request; raises UpstreamFault("malformed")."""
    try:
        read = jsonrpc.parse(strict_json.loads(body))
    except Malformed as error:
        raise UpstreamFault("malformed", error.code) from None
    if isinstance(read, jsonrpc.Response) and (read.id != UPSTREAM_ID or status != 200):
        raise UpstreamFault("malformed", "an answer to something else")
    if isinstance(read, jsonrpc.ErrorResponse) and read.id not in (UPSTREAM_ID, None):
        raise UpstreamFault("malformed", "an answer to something else")
    if not isinstance(read, jsonrpc.Response | jsonrpc.ErrorResponse):
        raise UpstreamFault("malformed", "not an answer")
    return read
