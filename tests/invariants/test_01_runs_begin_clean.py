"""Invariant 1: labels follow the caller; a cleaner context exists only in a run, and a run forgets nothing for others.

One worker and four of one node: the same state directory, a port each.
"""

from __future__ import annotations

import base64
import contextlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from firewall.core.run import make_run
from firewall.enforce.labels import FlowLabels
from firewall.net.runtime import RandomIds
from firewall.wire import jwt
from tests.invariants.conftest import HIDDEN, House, house_config
from tests.support.composed import SERVICE_KEY, Answer, Composed, composed, free_port
from tests.support.world import World, world

pytestmark = pytest.mark.flow

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@contextlib.asynccontextmanager
async def node(state: Path, workers: int) -> AsyncIterator[tuple[list[Composed], World]]:
    async with world() as upstreams, contextlib.AsyncExitStack() as stack:
        config = house_config(upstreams, state, workers=workers)
        walls = [await stack.enter_async_context(composed(config))]
        for _ in range(1, workers):
            ports = {"data": {"port": free_port()}, "admin": {"port": free_port()}}
            own = {**config, "listeners": ports, "hosts": [f"127.0.0.1:{ports['data']['port']}"]}
            walls.append(await stack.enter_async_context(composed(own)))
        yield walls, upstreams


def token(wall: Composed, run: str = "", **claims: Any) -> str:
    return wall.mint("/mcp/demo", "demo:read", "demo:write", run=run or None, **{"sub": "u_ann", **claims})


def new_run() -> str:
    return make_run(RandomIds().new("run"), int(time.time()) + 3600)


async def read_hidden(wall: Composed, upstreams: World, held: str) -> None:
    upstreams.mcp["demo"].answer = {"content": [{"type": "text", "text": HIDDEN}]}
    await wall.call("demo", "echo", {"text": "x"}, token=held)
    upstreams.mcp["demo"].answer = None


def refused(answer: Answer) -> bool:
    return bool(answer.json["result"].get("isError"))


async def wipes(walls: list[Composed], **claims: Any) -> set[bool]:
    """Return whether the workers let a caller wipe: one answer where they agree."""
    return {not refused(await wall.call("demo", "wipe", {}, token=token(wall, **claims))) for wall in walls}


@pytest.mark.parametrize("workers", [1, 4])
async def test_a_run_is_clean_at_every_worker_until_it_learns_something(tmp_path: Path, workers: int) -> None:
    async with node(tmp_path / "state", workers) as (walls, upstreams):
        one, other = new_run(), new_run()
        await read_hidden(walls[0], upstreams, token(walls[0]))
        assert await wipes(walls) == {False}, "the plain context"
        assert await wipes(walls, run=one) == {True}
        await read_hidden(walls[-1], upstreams, token(walls[-1], one))
        assert await wipes(walls, run=one) == {False}
        assert await wipes(walls, run=other) == {True}, "another run of the same caller"


@pytest.mark.parametrize("workers", [1, 4])
async def test_what_a_run_learned_binds_the_caller_outside_of_it(tmp_path: Path, workers: int) -> None:
    async with node(tmp_path / "state", workers) as (walls, upstreams):
        assert await wipes(walls) == {True}
        await read_hidden(walls[0], upstreams, token(walls[0], new_run()))
        assert await wipes(walls) == {False}
        assert await wipes(walls, sub="u_bob") == {True}
        assert await wipes(walls, client_id="another") == {True}


async def test_twin_without_the_join_a_run_would_be_a_way_to_forget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node(tmp_path / "state", 1) as (walls, upstreams):
        monkeypatch.setattr(FlowLabels, "_plain", lambda self, principal: self._cached(("nobody",), b"label"))
        await read_hidden(walls[0], upstreams, token(walls[0], new_run()))
        monkeypatch.undo()
        assert await wipes(walls) == {True}


async def test_a_runs_label_survives_the_node(tmp_path: Path) -> None:
    run = new_run()
    async with node(tmp_path / "state", 1) as (walls, upstreams):
        await read_hidden(walls[0], upstreams, token(walls[0], run))
    async with node(tmp_path / "state", 1) as (walls, _):
        assert await wipes(walls, run=run) == {False}
        assert await wipes(walls, run=new_run()) == {True}


async def exchanged(wall: Composed, held: str, *scopes: str) -> httpx2.Response:
    now = int(time.time())
    claims = {"iss": "svc", "sub": "svc", "aud": wall.url, "iat": now, "exp": now + 60}
    claims["jti"] = base64.urlsafe_b64encode(os.urandom(12)).decode()
    form = {
        "grant_type": EXCHANGE,
        "client_assertion_type": ASSERTION,
        "client_assertion": jwt.sign(claims, SERVICE_KEY, alg="ES256", typ="JWT", kid="svc"),
        "subject_token": held,
        "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "scope": " ".join(scopes),
    }
    async with httpx2.AsyncClient(timeout=20) as http:
        return await http.post(f"http://127.0.0.1:{wall.port}/token", data=form)


@pytest.mark.parametrize("orchestrator", [True, False])
async def test_only_an_orchestrator_gets_a_run_over_the_wire(house: House, orchestrator: bool) -> None:
    key = dict(SERVICE_KEY.as_dict(private=False))
    client = {
        "grants": ["client_credentials", "token_exchange"],
        "scopes": ["*"],
        "jwks": {"keys": [key]},
        "resource": "/mcp/demo",
        "orchestrator": orchestrator,
    }
    async with house(identity={"clients": {"svc": client}}) as (wall, upstreams):
        held = await wall.sign_in("/mcp/demo", "demo:read", "demo:write")
        await read_hidden(wall, upstreams, held)
        assert refused(await wall.call("demo", "wipe", {}, token=held))
        plain = (await exchanged(wall, held, "demo:write")).json()["access_token"]
        assert refused(await wall.call("demo", "wipe", {}, token=plain))
        answer = await exchanged(wall, held, "run", "demo:write", "demo:read")
        if not orchestrator:
            assert answer.json()["error"] == "invalid_scope"
            return
        begun = answer.json()["access_token"]
        assert not refused(await wall.call("demo", "wipe", {}, token=begun))
        await read_hidden(wall, upstreams, begun)
        assert refused(await wall.call("demo", "wipe", {}, token=begun))
