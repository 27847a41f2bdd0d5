"""A front door over TLS in a thread of its own, a client's callback beside it, and headless Chromium in front."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import threading
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import uvloop
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webdriver import WebDriver

from firewall.identity.rfc8628.endpoint import GRANT_TYPE
from firewall.identity.serve import OPEN_TO_BROWSERS
from firewall.identity.settings import ClientSettings
from firewall.net.edge import Edge, EdgeSettings
from firewall.net.runtime import SystemClock, Tasks
from firewall.net.server import Listener, Server, TLSSettings
from tests.net.certificates import authority
from tests.support.composed import free_port
from tests.support.door import CIMD_DOCUMENT, VERIFIER, Door, challenge_of, make_door, registered_clients

__all__ = ["GRANT_TYPE", "TV", "Callback", "House", "callback", "chromium", "house", "missing", "registered_clients"]

TV = ClientSettings("tv", "Television", grant_types=(GRANT_TYPE, "refresh_token"), tenant="")
BUSY = 10_000  # requests of one minute: the limits have their own tests


@dataclass
class Callback:
    """A client that waits for its answer on loopback; ``pages`` are further documents that it serves."""

    port: int
    queries: list[dict[str, str]] = field(default_factory=list)
    pages: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/callback"

    def page(self, path: str, html: str) -> str:
        """Serve a document; return its address under a name that is another site than the front door's."""
        self.pages[path] = html
        return f"http://127.0.0.1:{self.port}{path}"


@contextlib.contextmanager
def callback() -> Iterator[Callback]:
    """Serve a callback."""
    kept = Callback(0)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if parts.path == "/callback":
                kept.queries.append({name: values[0] for name, values in parse_qs(parts.query).items()})
            html = kept.pages.get(parts.path, "<!doctype html><title>back</title><h1>Back at the program</h1>")
            self.send_response(200)
            self.send_header("content-type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, *_args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    kept.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield kept
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@dataclass
class House:
    """A running front door. ``run`` awaits something in its loop."""

    door: Door
    url: str
    loop: asyncio.AbstractEventLoop
    client: Callback

    def run(self, awaited: Coroutine[Any, Any, Any]) -> Any:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(awaited, self.loop)
        return future.result(20)

    def authorize(self, client_id: str, **changes: str) -> str:
        """Return the address that a client opens."""
        query = {
            "response_type": "code",
            "client_id": client_id,
            "redirect_uri": self.client.url,
            "scope": "time:read time:write",
            "state": "xyz",
            "code_challenge": challenge_of(VERIFIER),
            "code_challenge_method": "S256",
            "resource": f"{self.url}/mcp/time",
            **changes,
        }
        return f"{self.url}/authorize?{urlencode(query)}"


@contextlib.contextmanager
def house(
    folder: Path, client: Callback, documents: Mapping[str, str], *, port: int = 0, **changes: Any
) -> Iterator[House]:
    """Run a front door with a real listener, edge and TLS. documents: client id → client_name; port 0: a free one."""
    port = port or free_port()
    url = f"https://localhost:{port}"
    files = authority(folder, "localhost")
    pinned = {name: {**CIMD_DOCUMENT, "client_id": name, "client_name": said} for name, said in documents.items()}
    door = make_door(
        public_url=url,
        cimd_hosts=tuple({str(urlsplit(name).hostname) for name in documents}),
        cimd_pinned=pinned,
        authorize_per_minute=BUSY,
        login_per_minute=BUSY,
        token_per_minute=BUSY,
        **changes,
    )
    ready: Future[asyncio.AbstractEventLoop] = Future()
    stop = threading.Event()

    async def serve() -> None:
        tasks = Tasks()
        known = EdgeSettings(frozenset({f"localhost:{port}"}), frozenset({url}), OPEN_TO_BROWSERS)
        face = Edge(door.identity.front_door, known)
        listener = Listener("data", "127.0.0.1", port, face, TLSSettings(str(files.cert), str(files.key)))
        server = Server([listener], SystemClock(), tasks)
        await server.start()
        ready.set_result(asyncio.get_running_loop())
        while not stop.is_set():
            await asyncio.sleep(0.05)
        await server.stop(grace_s=0.2)
        await tasks.close()

    thread = threading.Thread(target=lambda: uvloop.run(serve()), daemon=True)
    thread.start()
    try:
        yield House(door, url, ready.result(20), client)
    finally:
        stop.set()
        thread.join(10)


def missing() -> str:
    """Return what is not installed here, "" for nothing."""
    lacking = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"not installed: {', '.join(lacking)} (apt-get install chromium chromium-driver)" if lacking else ""


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[WebDriver]:
    """Start headless Chromium with a profile of its own; it takes the tests' certificates."""
    if missing():
        pytest.skip(missing())
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in (
        "--headless=new",
        "--no-sandbox",  # in a container there is no user namespace for it; the pages are our own
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--ignore-certificate-errors",
        "--window-size=900,1100",
        f"--user-data-dir={folder}",
    ):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
    driver.set_page_load_timeout(20)
    try:
        yield driver
    finally:
        driver.quit()
