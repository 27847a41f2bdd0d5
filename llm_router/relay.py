"""The way to a provider: one POST, its own credential, a whole answer or a stream of parsed chunks.

The caller's token never travels (AUTH-02): what a provider sees is what `UpstreamCredentials` holds
for it. Nothing is tried twice here: clients retry by themselves, and attempts would multiply.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from firewall.core.bounds import KIB, SSE_EVENT_BYTES, STREAM_TOTAL_S, UPSTREAM_BODY_BYTES
from firewall.core.errors import Malformed, UpstreamFault
from firewall.core.jsonvalue import JSON
from firewall.core.permit import Cleared
from firewall.core.ports import UpstreamCredentials
from firewall.core.principal import Principal
from firewall.net.upstream import Target, UpstreamClient, UpstreamStream
from firewall.wire import http, sse, strict_json
from llm_router import answer as ans
from llm_router.choose import Provider

# Where a provider takes requests, by the protocol that it speaks.
PATHS: Final = {"openai": "/chat/completions", "anthropic": "/messages"}
ERROR_BYTES: Final = 64 * KIB
DRAIN_S: Final = 0.05
# A provider's refusals that are about the prompt or the pace: their text helps the caller. All others
# are about us (key, address, model name) or the provider, and are told in our own words.
TOLD: Final = {400: 400, 413: 400, 422: 400, 429: 429}
RETRY_DIGITS: Final = 6
TOGETHER: Final = 64  # chunks of one read that are decided in one go


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """Seconds: a whole answer, a whole stream, the wait for a stream's head and between two chunks. Bytes."""

    whole_s: float = 300.0
    stream_s: float = STREAM_TOTAL_S
    idle_s: float = 120.0
    answer_bytes: int = UPSTREAM_BODY_BYTES
    event_bytes: int = SSE_EVENT_BYTES


@dataclass(frozen=True, slots=True)
class Problem:
    """A provider's refusal that may be told. status: towards the client. retry_after_s: 0 where none was named."""

    status: int
    message: str
    code: str
    retry_after_s: int = 0


class Chunks:
    """A streamed answer that is still arriving: its chunks as values, together where they arrived together."""

    def __init__(self, stream: UpstreamStream, settings: RelaySettings) -> None:
        self._stream = stream
        self._parser = sse.Parser(settings.event_bytes)

    async def together(self) -> AsyncGenerator[list[JSON]]:
        """Yield the chunks up to ``[DONE]``, a ``message_stop`` or the end of the body. Close it when leaving early.

        Raises UpstreamFault: malformed, too_large, cut_stream, timeout; each after what came before it.
        """
        arriving = self._stream.chunks()
        async for data in arriving:
            values: list[JSON] = []
            done, wrong = False, None
            try:
                done = self._read(data, values)
            except Malformed as error:
                wrong = _fault(error)
            for first in range(0, len(values), TOGETHER):
                yield values[first : first + TOGETHER]
            if wrong is not None:
                raise wrong
            if done:
                await _drain(arriving)
                return
        if self._parser.close() is not None:
            raise UpstreamFault("cut_stream", "the stream ended inside an event")

    def _read(self, data: bytes, values: list[JSON]) -> bool:
        """Append the chunks that end in data; return whether the last of all was among them. Raises Malformed."""
        for event in self._parser.feed(data):
            if isinstance(event, Malformed):
                raise event
            if event.data == b"[DONE]":
                return True
            value = strict_json.loads(event.data)
            values.append(value)
            if isinstance(value, dict) and value.get("type") == "message_stop":
                return True
        return False


class Relay:
    """Calls providers. One per worker."""

    def __init__(
        self, client: UpstreamClient, credentials: UpstreamCredentials, settings: RelaySettings | None = None
    ) -> None:
        self._client = client
        self._credentials = credentials
        self._settings = settings or RelaySettings()

    async def whole(self, cleared: Cleared, provider: Provider, principal: Principal) -> JSON | Problem:
        """Return the parsed answer, or the provider's refusal. Raises UpstreamFault."""
        headers = await self._credentials.headers_for(principal, provider.name)
        reply = await self._client.request(
            cleared,
            target(provider),
            headers=headers,
            deadline_s=self._settings.whole_s,
            max_bytes=self._settings.answer_bytes,
        )
        if reply.status != 200:
            return problem(reply.status, reply.headers, reply.body[:ERROR_BYTES])
        _check_type(reply.headers, "application/json")
        try:
            return strict_json.loads(reply.body)
        except Malformed as error:
            raise _fault(error) from None

    @asynccontextmanager
    async def stream(
        self, cleared: Cleared, provider: Provider, principal: Principal
    ) -> AsyncGenerator[Chunks | Problem]:
        """Yield the arriving answer, or the provider's refusal; leaving the block cancels the provider's work."""
        headers = await self._credentials.headers_for(principal, provider.name)
        async with self._client.stream(
            cleared,
            target(provider),
            headers=headers,
            deadline_s=self._settings.stream_s,
            idle_s=self._settings.idle_s,
        ) as stream:
            if stream.status != 200:
                yield problem(stream.status, stream.headers, await _read(stream))
                return
            _check_type(stream.headers, "text/event-stream")
            yield Chunks(stream, self._settings)


def target(provider: Provider) -> Target:
    """Return where a provider takes requests."""
    return Target(provider.base_url.rstrip("/") + PATHS[provider.protocol], provider.network)


def problem(status: int, headers: dict[str, str], body: bytes) -> Problem:
    """Return what may be told of a provider's error. Raises UpstreamFault: credentials, failed, malformed."""
    if status in (401, 403):
        raise UpstreamFault("credentials", "the provider refused our credential")
    if status not in TOLD:
        raise UpstreamFault("failed" if status >= 400 else "malformed")
    try:
        message, code = ans.error_text(strict_json.loads(body))
    except Malformed:
        message, code = "", ""
    wait = headers.get("retry-after", "")
    retry = int(wait) if wait.isascii() and wait.isdigit() and len(wait) <= RETRY_DIGITS else 0
    return Problem(TOLD[status], message or "The provider refused the request.", code, retry)


async def _drain(arriving: AsyncIterator[bytes]) -> None:
    """Read the end of a body that has said everything, so that its connection can be used again."""
    try:
        async with asyncio.timeout(DRAIN_S):
            async for _ in arriving:
                pass
    except (TimeoutError, UpstreamFault):
        return  # it is closed instead


async def _read(stream: UpstreamStream) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for data in stream.chunks():
        parts.append(data)
        size += len(data)
        if size > ERROR_BYTES:
            break
    return b"".join(parts)[:ERROR_BYTES]


def _check_type(headers: dict[str, str], wanted: str) -> None:
    if http.media_type(headers.get("content-type", "").encode("latin-1", "replace")) != wanted:
        raise UpstreamFault("malformed", "the provider answered with another content type")


def _fault(error: Malformed) -> UpstreamFault:
    return UpstreamFault("too_large" if error.code == "sse_event_too_large" else "malformed", error.code)
