"""Invariant 13: the tenant is in every key; TLS and mTLS end at us; forwarded fields count from configured proxies only."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest

from firewall.enforce import labels as labels_module
from tests.invariants.conftest import HIDDEN, House
from tests.net.certificates import Files, authority
from tests.support.composed import Answer, Composed, free_port, raw_exchange, request_bytes
from tests.support.world import ECHO, tool

pytestmark = pytest.mark.flow
BOTH = ["default", "rival"]


def shared(upstream: str) -> dict[str, Any]:
    """An upstream that serves two tenants."""
    classes = {"echo": "read", "wipe": "destroy"}
    demo = {"url": upstream, "network": "loopback", "trust": "trusted", "tools": classes, "tenants": BOTH}
    return {"mcp": {"demo": demo}}


def token(wall: Composed, tenant: str) -> str:
    """The same subject with the same client, in another tenant."""
    return wall.mint("/mcp/demo", "demo:read", "demo:write", tenant=tenant)


def refused(answer: Answer) -> bool:
    return "error" in answer.json or bool(answer.json["result"].get("isError"))


async def taint_one_ask_other(house: House) -> tuple[bool, bool]:
    """Taint a caller of one tenant; return whether it, and its namesake of the other, are refused."""
    async with house() as (wall, upstreams):
        url = upstreams.add_mcp("both", tools=[ECHO, tool("wipe")])
        for tenant in BOTH:
            wall.worker.registry.register(tenant, "mcp", "both", {**_spec(url)}, by="test")
            wall.worker.registry.approve(tenant, "mcp", "both", by="test")
        wall.worker.refresh()

        async def call(tenant: str, name: str) -> Answer:
            held = wall.mint("/mcp/both", "both:read", "both:write", tenant=tenant)
            return await wall.call("both", name, {}, token=held)

        assert not refused(await call("rival", "wipe"))
        upstreams.mcp["both"].answer = {"content": [{"type": "text", "text": HIDDEN}]}
        assert not refused(await call("default", "echo"))
        upstreams.mcp["both"].answer = None
        return refused(await call("default", "wipe")), refused(await call("rival", "wipe"))


def _spec(url: str) -> dict[str, Any]:
    classes = {"echo": "read", "wipe": "destroy"}
    return {"url": url, "network": "loopback", "trust": "trusted", "tools": classes, "tenants": BOTH}


async def test_a_label_of_one_tenant_is_not_its_namesakes(house: House) -> None:
    assert await taint_one_ask_other(house) == (True, False)


async def test_without_the_tenant_in_the_key_it_would_be(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    real = labels_module.shared_key
    monkeypatch.setattr(labels_module, "shared_key", lambda kind, *parts: real(kind, *parts[1:]))
    assert await taint_one_ask_other(house) == (True, True)


async def test_pins_registry_and_stops_of_one_tenant_are_not_the_others(house: House) -> None:
    async with house() as (wall, upstreams):
        url = upstreams.add_mcp("both")
        for tenant in BOTH:
            wall.worker.registry.register(tenant, "mcp", "both", {**_spec(url), "pins": "strict"}, by="test")
            wall.worker.registry.approve(tenant, "mcp", "both", by="test")
        wall.worker.refresh()

        async def call(tenant: str) -> Answer:
            return await wall.call("both", "echo", {}, token=wall.mint("/mcp/both", "both:read", tenant=tenant))

        assert [refused(await call(tenant)) for tenant in BOTH] == [True, True]  # strict: both wait for a person
        pins = wall.worker.pins
        for row in list(pins.list("default", "both")):
            pins.approve("default", "both", row.kind, row.name, row.seen, by="test")
        assert [refused(await call(tenant)) for tenant in BOTH] == [False, True]
        for row in list(pins.list("rival", "both")):
            pins.approve("rival", "both", row.kind, row.name, row.seen, by="test")
        assert [refused(await call(tenant)) for tenant in BOTH] == [False, False]
        wall.worker.registry.suspend("rival", "mcp", "both", by="test")
        assert [refused(await call(tenant)) for tenant in BOTH] == [False, True]
        wall.worker.kill_switch.pull("default", "upstream", "both", by="test")
        assert [refused(await call(tenant)) for tenant in BOTH] == [True, True]


async def test_a_tenant_that_is_not_served_meets_nothing(house: House) -> None:
    async with house() as (wall, upstreams):
        assert not refused(await wall.call("demo", "echo", {"text": "x"}, token=token(wall, "default")))
        rival = await wall.call("demo", "echo", {"text": "x"}, token=token(wall, "rival"))
        assert refused(rival)
        assert len(upstreams.calls("mcp")) == 1


# -- listeners -------------------------------------------------------------------------------------------


def client_tls(files: Files, *, with_certificate: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(files.ca))
    context.check_hostname = False  # the throw-away certificate is for a DNS name; its authority is what counts here
    if with_certificate:
        context.load_cert_chain(files.client_cert, files.client_key)
    return context


async def secure(wall: Composed, context: ssl.SSLContext | None) -> Answer:
    path = "/.well-known/oauth-authorization-server"
    sent = request_bytes(path, wall.url.split("//")[1], [], b"", verb="GET")
    return await raw_exchange(wall.port, sent, ssl=context, deadline_s=5)


def tls_config(files: Files, *, client_ca: bool) -> dict[str, Any]:
    port = free_port()
    tls = {"cert": str(files.cert), "key": str(files.key), **({"client_ca": str(files.ca)} if client_ca else {})}
    listeners = {"data": {"port": port, "tls": tls}, "admin": {"port": free_port()}}
    return {"public_url": f"https://127.0.0.1:{port}", "listeners": listeners}


async def test_tls_ends_at_us(house: House, tmp_path: Path) -> None:
    files = authority(tmp_path, "localhost")
    async with house(**tls_config(files, client_ca=False)) as (wall, _):
        answer = await secure(wall, client_tls(files, with_certificate=False))
        assert answer.json["issuer"].startswith("https://")
        with pytest.raises((OSError, asyncio.IncompleteReadError, TimeoutError)):
            await secure(wall, None)  # plain HTTP on the TLS port


async def test_mutual_tls_asks_for_a_certificate_of_the_configured_authority(house: House, tmp_path: Path) -> None:
    files = authority(tmp_path, "localhost")
    (tmp_path / "stranger").mkdir()
    strange = authority(tmp_path / "stranger", "localhost")
    async with house(**tls_config(files, client_ca=True)) as (wall, _):
        assert (await secure(wall, client_tls(files, with_certificate=True))).status == 200
        impostor = client_tls(files, with_certificate=False)
        impostor.load_cert_chain(strange.client_cert, strange.client_key)
        for context in (client_tls(files, with_certificate=False), impostor):
            with pytest.raises((OSError, asyncio.IncompleteReadError)):
                await secure(wall, context)


@pytest.mark.parametrize(("proxies", "status"), [([], 200), (["127.0.0.1"], 400), (["10.0.0.0/8"], 200)])
async def test_forwarded_fields_count_from_configured_proxies_only(
    house: House, proxies: list[str], status: int
) -> None:
    """A scheme that is none is believed, and so refused, only when it comes from a proxy of ours."""
    async with house(trusted_proxies=proxies) as (wall, _):
        headers = {"x-forwarded-proto": "gopher", "x-forwarded-for": "203.0.113.9"}
        answer = await wall.call("demo", "echo", {"text": "x"}, token=token(wall, "default"), **headers)
        assert answer.status == status
        good = {"x-forwarded-proto": "https", "x-forwarded-for": "203.0.113.9"}
        assert (await wall.call("demo", "echo", {"text": "x"}, token=token(wall, "default"), **good)).status == 200
