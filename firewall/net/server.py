"""Listeners inside this process: our protocol on uvloop, bound, watched, and down within two seconds.

A stop is: no new connections, no new requests, a moment for those under way, then every remaining task is
cancelled and every connection dropped. So open streams cannot hold it up (operations reference 5.3, R14).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Final

import uvloop

from firewall.core.bounds import SHUTDOWN_S
from firewall.core.errors import ConfigFault
from firewall.core.ports import Clock, Refusals
from firewall.net.asgi import App
from firewall.net.protocol import ListenerState, ProtocolSettings, StrictProtocol
from firewall.net.runtime import Tasks

_BACKLOG: Final = 2048
_HANDSHAKE_S: Final = 5.0
_CANCEL_S: Final = 0.4  # for `finally` blocks of cancelled requests; the rest of the two seconds is slack


@dataclass(frozen=True, slots=True)
class TLSSettings:
    """PEM files. client_ca: require a client certificate of this authority (mTLS)."""

    cert: str
    key: str
    client_ca: str = ""


@dataclass(frozen=True, slots=True)
class Listener:
    """One address. port 0 means any free one; `Server.ports` says which. app is already behind its Edge.

    refusals: records requests whose framing is refused, which no app ever sees.
    """

    name: str
    host: str
    port: int
    app: App
    tls: TLSSettings | None = None
    reuse_port: bool = False
    protocol: ProtocolSettings = field(default_factory=ProtocolSettings)
    refusals: Refusals | None = None


@dataclass(slots=True)
class _Running:
    listener: Listener
    state: ListenerState
    server: asyncio.Server
    port: int


class Server:
    """All listeners of one process. `start`, then `stop`; each once."""

    def __init__(self, listeners: Sequence[Listener], clock: Clock, tasks: Tasks) -> None:
        self._listeners = tuple(listeners)
        self._clock = clock
        self._tasks = tasks
        self._running: list[_Running] = []
        self._date: asyncio.Task[None] | None = None

    @property
    def ports(self) -> dict[str, int]:
        """Listener name → bound port."""
        return {running.listener.name: running.port for running in self._running}

    @property
    def connections(self) -> int:
        """Open connections of all listeners."""
        return sum(len(running.state.connections) for running in self._running)

    async def start(self) -> None:
        """Bind every listener, or none. Raises ConfigFault listen, tls_files."""
        try:
            for listener in self._listeners:
                self._running.append(await _open(listener))
        except BaseException:
            await self.stop(grace_s=0)
            raise
        self._set_date()
        self._date = self._tasks.spawn(self._tick(), "net.date")

    async def stop(self, *, grace_s: float = SHUTDOWN_S) -> None:
        """Stop accepting, give requests under way ``grace_s`` seconds, then cancel what is left."""
        if self._date is not None:
            self._date.cancel()
        for running in self._running:
            running.server.close()
            for connection in list(running.state.connections):
                connection.shutdown()
        under_way = [task for running in self._running for task in running.state.tasks]
        if under_way:
            _, late = await asyncio.wait(under_way, timeout=grace_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=_CANCEL_S)
        for running in self._running:
            for connection in list(running.state.connections):
                connection.transport.abort()
        self._running.clear()

    def _set_date(self) -> None:
        date = b"date: %b\r\n" % formatdate(self._clock.now_us() / 1_000_000, usegmt=True).encode()
        for running in self._running:
            running.state.date = date

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1)
            self._set_date()


def bind(listener: Listener) -> socket.socket:
    """Return a bound, not listening socket; raises ConfigFault listen."""
    family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listener.reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind((listener.host, listener.port))
    except OSError as error:
        sock.close()
        raise ConfigFault(
            "listen",
            f"listener {listener.name}: cannot bind {listener.host} port {listener.port}: {error.strerror}",
            fix="choose another port, or stop what uses this one",
        ) from None
    return sock


def server_tls(settings: TLSSettings) -> ssl.SSLContext:
    """Return the TLS side of a listener: TLS 1.2 or newer, HTTP/1.1 by ALPN. Raises ConfigFault tls_files."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(settings.cert, settings.key)
        if settings.client_ca:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(settings.client_ca)
    except (OSError, ssl.SSLError):
        raise ConfigFault(
            "tls_files", "a TLS file of a listener cannot be read", fix="check cert, key and client_ca"
        ) from None
    return context


def run(main: Callable[[], Coroutine[object, None, None]]) -> None:
    """Run a coroutine function on uvloop until it ends."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


async def _open(listener: Listener) -> _Running:
    context = server_tls(listener.tls) if listener.tls else None
    sock = bind(listener)
    state = ListenerState()
    loop = asyncio.get_running_loop()
    try:
        server = await loop.create_server(
            lambda: StrictProtocol(listener.app, state, listener.protocol, listener.refusals, loop),
            sock=sock,
            ssl=context,
            ssl_handshake_timeout=_HANDSHAKE_S if context else None,
            backlog=_BACKLOG,
        )
    except OSError:
        sock.close()
        raise ConfigFault(
            "listen", f"listener {listener.name}: cannot listen", fix="choose another port, or stop what uses this one"
        ) from None
    return _Running(listener, state, server, sock.getsockname()[1])
