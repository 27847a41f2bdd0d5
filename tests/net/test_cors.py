"""Pages as clients: named origins are answered, each by itself; nobody else is, and no cookie ever counts."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from firewall import config as configuration
from firewall.config import rooms
from firewall.core.errors import ConfigFault
from firewall.core.permit import FixedReply
from firewall.net import asgi
from firewall.net.cors import ACCEPTED, ASKED_BYTES, EXPOSED, CrossOrigin
from firewall.net.edge import Edge

PAGE, OTHER = "https://inspector.example", "https://evil.example"
URL = "https://fw.example"


class Gateway:
    """Answers as a gateway does, and notes who came through."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append((scope["method"], scope["path"]))
        headers = ((b"mcp-session-id", b"s_1"), (b"access-control-expose-headers", b"dpop-nonce"), (b"vary", b"Accept"))
        await asgi.write_fixed(send, FixedReply(401, headers, b"{}"))


def browser(gateway: Gateway, *origins: str) -> httpx2.AsyncClient:
    """Return a client of the data listener's edge with a gateway behind it."""
    config = configuration.build({"public_url": URL, "mcp_origins": list(origins)})
    settings = rooms.edge(config, config.listeners.data, 0, public=True)
    app = CrossOrigin(gateway, config.mcp_origins) if origins else gateway
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=Edge(app, settings)), base_url=URL)


def asking(origin: str = PAGE, method: str = "POST", headers: str = "authorization, content-type") -> dict[str, str]:
    return {
        "origin": origin,
        "access-control-request-method": method,
        "access-control-request-headers": headers,
    }


def permissions(answer: httpx2.Response) -> dict[str, str]:
    return {k: v for k, v in answer.headers.items() if k.startswith("access-control-")}


async def test_a_named_page_is_told_what_it_may_send_without_reaching_the_gateway() -> None:
    gateway = Gateway()
    wanted = "authorization, content-type, mcp-protocol-version, mcp-session-id, mcp-param-city"
    async with browser(gateway, PAGE) as http:
        answer = await http.options("/mcp/time", headers=asking(headers=wanted))
    assert answer.status_code == 204
    assert permissions(answer) == {
        "access-control-allow-origin": PAGE,
        "access-control-allow-methods": "GET, POST, DELETE",
        "access-control-allow-headers": wanted,
        "access-control-max-age": "600",
    }
    assert answer.headers["vary"] == "Origin"
    assert gateway.asked == []


async def test_a_named_page_may_read_the_answer_and_its_challenge() -> None:
    gateway = Gateway()
    async with browser(gateway, PAGE) as http:
        for path in ("/mcp", "/mcp/time"):
            answer = await http.post(path, headers={"origin": PAGE}, content=b"{}")
            assert answer.status_code == 401
            assert permissions(answer) == {
                "access-control-allow-origin": PAGE,
                "access-control-expose-headers": EXPOSED.decode(),
            }
            assert answer.headers.get_list("vary") == ["Accept", "Origin"]
    assert {"mcp-session-id", "www-authenticate"} <= set(EXPOSED.decode().split(", "))


@pytest.mark.parametrize(
    "origin", [OTHER, PAGE + ".evil.example", PAGE + ":444", "http://inspector.example", "null", PAGE.upper(), "*", ""]
)
async def test_every_other_origin_is_refused_before_anything_is_read(origin: str) -> None:
    gateway = Gateway()
    async with browser(gateway, PAGE) as http:
        for answer in (
            await http.post("/mcp/time", headers={"origin": origin}, content=b"{}"),
            await http.options("/mcp/time", headers=asking(origin)),
        ):
            assert answer.status_code == 403
            assert permissions(answer) == {}
    assert gateway.asked == []


async def test_without_the_setting_no_page_of_another_origin_is_a_client() -> None:
    """The twin: the setting is what opens the door."""
    gateway = Gateway()
    async with browser(gateway) as http:
        assert (await http.post("/mcp/time", headers={"origin": PAGE}, content=b"{}")).status_code == 403
        assert (await http.options("/mcp/time", headers=asking())).status_code == 403
        assert gateway.asked == []
        own = await http.post("/mcp/time", headers={"origin": URL}, content=b"{}")
        assert (own.status_code, permissions(own)) == (401, {"access-control-expose-headers": "dpop-nonce"})


@pytest.mark.parametrize(
    "path", ["/authorize", "/login", "/consent", "/account/grants", "/v1/models", "/mcpx", "/a2a/x"]
)
async def test_a_named_page_is_a_client_of_mcp_and_of_nothing_else(path: str) -> None:
    gateway = Gateway()
    async with browser(gateway, PAGE) as http:
        assert (await http.post(path, headers={"origin": PAGE}, content=b"{}")).status_code == 403
    assert gateway.asked == []


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("PUT", "authorization"),
        ("TRACE", "authorization"),
        ("POST", "cookie"),
        ("POST", "x-forwarded-for"),
        ("POST", "mcp-param-"),
        ("POST", "mcp-param-a b"),
        ("POST", "authorization,,"),
        ("POST", ", ".join(["authorization"] * ASKED_BYTES)),
    ],
)
async def test_what_no_client_sends_is_not_permitted(method: str, headers: str) -> None:
    async with browser(Gateway(), PAGE) as http:
        answer = await http.options("/mcp/time", headers=asking(method=method, headers=headers))
    assert (answer.status_code, permissions(answer)) == (403, {})
    assert b"cookie" not in ACCEPTED


async def test_two_origins_are_none() -> None:
    gateway = Gateway()
    async with browser(gateway, PAGE) as http:
        twice = [("origin", PAGE), ("origin", PAGE)]
        assert (await http.post("/mcp/time", headers=twice, content=b"{}")).status_code == 403
    assert gateway.asked == []


async def test_a_program_without_an_origin_sees_nothing_of_it() -> None:
    async with browser(Gateway(), PAGE) as http:
        answer = await http.post("/mcp/time", content=b"{}")
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "https://*.example",
        "https://a.example/",
        "https://a.example/x",
        "http://a.example",
        "a.example",
        "https://u@a.example",
        "https://a.example:443",
        "HTTPS://a.example",
        "file://x",
        "",
    ],
)
def test_what_is_no_single_origin_keeps_the_node_from_starting(origin: str) -> None:
    with pytest.raises(ConfigFault):
        configuration.build({"mcp_origins": [origin]})
    configuration.build({"mcp_origins": ["https://a.example:8443", "http://localhost:6274", "http://127.0.0.1:1"]})
