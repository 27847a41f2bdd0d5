"""Credentials that can be renewed: an upstream client that tries a second time, once, with a fresh one.

Whoever makes a credential header may make it a `LiveHeader`; every gateway passes headers on as they are,
so that one place serves tools, lists, sessions, streams, agents and models alike. A request that was
refused for its credential was not executed: 401, or 403 that asks for more scope (RFC 6750 §3.1).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Protocol, TypeAlias

from firewall.core.action import Headers
from firewall.core.permit import Cleared
from firewall.net.upstream import Method, Target, UpstreamClient, UpstreamReply, UpstreamStream

Renew: TypeAlias = Callable[[int, str], Awaitable["LiveHeader | None"]]
"""(status, WWW-Authenticate) → another credential to try, None when there is no better one. Raises UpstreamFault."""


class LiveHeader(tuple[bytes, bytes]):
    """A header, like any (name, value) pair, whose maker can be asked for another when it is refused."""

    renew: Renew

    def __new__(cls, name: bytes, value: bytes, renew: Renew) -> LiveHeader:
        """Return the pair. renew: asked at most once per request."""
        self = super().__new__(cls, (name, value))
        self.renew = renew
        return self


class Closable(UpstreamClient, Protocol):
    """An upstream client that holds connections."""

    async def close(self) -> None:
        """Close every connection."""


class RenewingClient:
    """UpstreamClient over another one."""

    def __init__(self, inner: Closable) -> None:
        self.inner = inner

    async def close(self) -> None:
        """Close every connection."""
        await self.inner.close()

    async def request(
        self,
        cleared: Cleared,
        target: Target,
        *,
        headers: Headers = (),
        deadline_s: float,
        max_bytes: int,
        method: Method = "POST",
    ) -> UpstreamReply:
        """See UpstreamClient.request."""
        inner = self.inner
        reply = await inner.request(
            cleared, target, headers=headers, deadline_s=deadline_s, max_bytes=max_bytes, method=method
        )
        if reply.status not in (401, 403):
            return reply
        again = await _renewed(headers, reply.status, reply.headers)
        if again is None:
            return reply
        return await inner.request(
            cleared, target, headers=again, deadline_s=deadline_s, max_bytes=max_bytes, method=method
        )

    def stream(
        self,
        cleared: Cleared,
        target: Target,
        *,
        headers: Headers = (),
        deadline_s: float,
        idle_s: float,
        method: Method = "POST",
    ) -> AbstractAsyncContextManager[UpstreamStream]:
        """See UpstreamClient.stream."""

        def begin(given: Headers) -> AbstractAsyncContextManager[UpstreamStream]:
            return self.inner.stream(
                cleared, target, headers=given, deadline_s=deadline_s, idle_s=idle_s, method=method
            )

        if not any(isinstance(pair, LiveHeader) for pair in headers):
            return begin(headers)
        return _RenewingStream(begin, headers)


class _RenewingStream:
    """One exchange that may begin twice."""

    __slots__ = ("_begin", "_context", "_headers")

    def __init__(
        self, begin: Callable[[Headers], AbstractAsyncContextManager[UpstreamStream]], headers: Headers
    ) -> None:
        self._begin = begin
        self._headers = headers
        self._context: AbstractAsyncContextManager[UpstreamStream] | None = None

    async def __aenter__(self) -> UpstreamStream:
        context = self._begin(self._headers)
        stream = await context.__aenter__()
        if stream.status in (401, 403):
            try:
                again = await _renewed(self._headers, stream.status, stream.headers)
            except BaseException:
                await context.__aexit__(None, None, None)
                raise
            if again is not None:
                await context.__aexit__(None, None, None)
                context = self._begin(again)
                stream = await context.__aenter__()
        self._context = context
        return stream

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        context = self._context
        return await context.__aexit__(kind, error, trace) if context is not None else None


async def _renewed(headers: Headers, status: int, told: dict[str, str]) -> Headers | None:
    challenge = told.get("www-authenticate", "")
    if status == 403 and "insufficient_scope" not in challenge:
        return None
    for at, pair in enumerate(headers):
        if isinstance(pair, LiveHeader):
            fresh = await pair.renew(status, challenge)
            return None if fresh is None else (*headers[:at], fresh, *headers[at + 1 :])
    return None
