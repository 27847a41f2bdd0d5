"""Credentials that can be renewed: an upstream client that tries a second time, once, with a fresh one.

Whoever makes a credential header may make it a `LiveHeader`; every gateway passes headers on as they are,
so that one place serves tools, lists, sessions, streams, agents and models alike. A request that was
refused for its credential was not executed: 401, or 403 that asks for more scope (RFC 6750 §3.1).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Protocol, TypeAlias

from firewall.core.action import Headers
from firewall.core.permit import Cleared
from firewall.net.upstream import Method, Target, UpstreamClient, UpstreamReply, UpstreamStream

Renew: TypeAlias = Callable[[int, str], Awaitable["LiveHeader | None"]]
"""(status, WWW-Authenticate) → another credential to try, None when there is no better one. Raises UpstreamFault."""


class Signs(Protocol):
    """Proves, request by request, that a credential is held by us (RFC 9449)."""

    def proof(self, method: str, url: str) -> tuple[bytes, bytes]:
        """Return the header that goes with one request."""

    def again(self, url: str, status: int, headers: Mapping[str, str]) -> bool:
        """Read an answer; return whether the same request is to be sent with another proof."""


class LiveHeader(tuple[bytes, bytes]):
    """A header, like any (name, value) pair, whose maker can be asked for another when it is refused."""

    renew: Renew
    signs: Signs | None

    def __new__(cls, name: bytes, value: bytes, renew: Renew, signs: Signs | None = None) -> LiveHeader:
        """Return the pair. renew: asked at most once per request. signs: for credentials that need a proof each time."""
        self = super().__new__(cls, (name, value))
        self.renew = renew
        self.signs = signs
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

        async def send(given: Headers) -> UpstreamReply:
            return await self.inner.request(
                cleared, target, headers=given, deadline_s=deadline_s, max_bytes=max_bytes, method=method
            )

        live = _live(headers)
        if live is None:
            return await send(headers)
        tries = _Tries(headers, live, method, target.url)
        reply = await send(tries.first())
        while (again := await tries.next(reply.status, reply.headers)) is not None:
            reply = await send(again)
        return reply

    def stream(
        self,
        cleared: Cleared,
        target: Target,
        *,
        headers: Headers = (),
        deadline_s: float,
        idle_s: float,
        method: Method = "POST",
        lasting: bool = False,
    ) -> AbstractAsyncContextManager[UpstreamStream]:
        """See UpstreamClient.stream."""

        live = _live(headers) if headers else None
        if live is None:
            return self.inner.stream(
                cleared,
                target,
                headers=headers,
                deadline_s=deadline_s,
                idle_s=idle_s,
                method=method,
                lasting=lasting,
            )

        def begin(given: Headers) -> AbstractAsyncContextManager[UpstreamStream]:
            return self.inner.stream(
                cleared, target, headers=given, deadline_s=deadline_s, idle_s=idle_s, method=method, lasting=lasting
            )

        return _RenewingStream(begin, _Tries(headers, live, method, target.url))


class _Tries:
    """The headers of each try of one request: at most one renewal, and one repetition per credential for a nonce."""

    __slots__ = ("_headers", "_live", "_method", "_nonces", "_renewed", "_url")

    def __init__(self, headers: Headers, live: LiveHeader, method: str, url: str) -> None:
        self._headers = headers
        self._live = live
        self._method = method
        self._url = url
        self._renewed = False
        self._nonces = 0

    def first(self) -> Headers:
        """Return the headers to send, with a fresh proof where one is needed."""
        signs = self._live.signs
        return self._headers if signs is None else (*self._headers, signs.proof(self._method, self._url))

    async def next(self, status: int, told: Mapping[str, str]) -> Headers | None:
        """Return the headers to send once more after an answer, None to take the answer as it is."""
        signs = self._live.signs
        if signs is not None and signs.again(self._url, status, told) and self._nonces <= self._renewed:
            self._nonces += 1
            return self.first()
        challenge = told.get("www-authenticate", "")
        refused = status == 401 or (status == 403 and "insufficient_scope" in challenge)
        if self._renewed or not refused:
            return None
        self._renewed = True
        fresh = await self._live.renew(status, challenge)
        if fresh is None:
            return None
        self._headers = tuple(fresh if pair is self._live else pair for pair in self._headers)
        self._live = fresh
        return self.first()


class _RenewingStream:
    """One exchange that may begin more than once."""

    __slots__ = ("_begin", "_context", "_tries")

    def __init__(self, begin: Callable[[Headers], AbstractAsyncContextManager[UpstreamStream]], tries: _Tries) -> None:
        self._begin = begin
        self._tries = tries
        self._context: AbstractAsyncContextManager[UpstreamStream] | None = None

    async def __aenter__(self) -> UpstreamStream:
        given: Headers | None = self._tries.first()
        while given is not None:
            context = self._begin(given)
            stream = await context.__aenter__()
            try:
                given = await self._tries.next(stream.status, stream.headers)
            except BaseException:
                await context.__aexit__(None, None, None)
                raise
            if given is not None:
                await context.__aexit__(None, None, None)
        self._context = context
        return stream

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        context = self._context
        return await context.__aexit__(kind, error, trace) if context is not None else None


def _live(headers: Headers) -> LiveHeader | None:
    for pair in headers:
        if isinstance(pair, LiveHeader):
            return pair
    return None
