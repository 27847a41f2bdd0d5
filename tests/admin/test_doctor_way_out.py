"""The doctor fetches as the node does: through the proxy that the file names, never past it."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from firewall import config as configuration
from firewall.admin.doctor import oauth
from firewall.admin.doctor.check import Check, Patient
from firewall.admin.doctor.idp import examine_idp
from firewall.admin.doctor.oauth import clients
from firewall.config import rooms
from firewall.net.dial import DiallerSettings
from firewall.net.runtime import FakeClock

CLOCK = FakeClock()
LOOKS = dict(oauth.EXAMINATIONS)
DOCUMENT = "https://client.invalid/oauth/client.json"  # no resolver knows such a name (RFC 6761 §6.4)
IDP = "https://idp.invalid"


@contextmanager
def proxy() -> Iterator[tuple[str, list[str]]]:
    """Run a proxy that refuses everything, and keeps what it was asked."""
    asked: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            asked.append(self.rfile.readline().decode().strip())
            while self.rfile.readline().strip():
                pass
            self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def look(check: str, state: Path, egress: dict[str, str], **identity: Any) -> Check:
    values = {"state_dir": str(state), "public_url": "https://fw.example", "egress": egress, "identity": identity}
    (found,) = LOOKS[check](Patient(configuration.build(values), CLOCK, False, True))
    return found


@pytest.fixture(autouse=True)
def one_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "KNOWN", (DOCUMENT,))
    for name in clients.PROXIES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("as_the_node", [True, False])
def test_what_is_fetched_to_be_examined_goes_through_the_proxy_of_the_file(
    as_the_node: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not as_the_node:  # the twin
        monkeypatch.setattr(rooms, "way_out", lambda _config: DiallerSettings())
        monkeypatch.setattr(clients, "way_out", rooms.way_out)
        monkeypatch.setattr("firewall.admin.doctor.oauth.providers.way_out", rooms.way_out)
    provider = {"corp": {"issuer": IDP, "client_id": "bartizan", "client_auth": "none"}}
    with proxy() as (address, asked):
        egress = {"proxy": address, "network": "loopback"}
        assert look("oauth-17", tmp_path, egress, cimd={"policy": "any"}).status == "warn"
        assert look("oauth-14", tmp_path, egress, providers=provider).status == "fail"
        values = {"state_dir": str(tmp_path), "public_url": "https://fw.example", "egress": egress}
        config = configuration.build({**values, "mcp": {"files": {"url": "https://files.example/mcp"}}})
        assert not examine_idp(config, IDP, clock=CLOCK, environment={}).examined.direct
    hosts = {line.split(" ")[1] for line in asked}
    assert hosts == ({"client.invalid:443", "idp.invalid:443"} if as_the_node else set())


def test_oauth_17_a_web_proxy_of_the_environment_is_told_until_the_file_names_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "KNOWN", ())
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    told = look("oauth-17", tmp_path, {})
    assert told.status == "warn"
    assert "egress.proxy" in told.mend
    assert look("oauth-17", tmp_path, {"proxy": "http://proxy.example:3128"}).status == "ok"
