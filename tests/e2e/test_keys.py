"""Rotation of the signing key on a node of four workers: every worker follows, and what was signed before still counts."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from firewall.identity.upstream.build import SEALED
from firewall.state.envelope import Envelopes
from firewall.state.keys import KeyRing
from firewall.state.sqlite import SQLiteStore
from firewall.state.unlock import unlock_secret
from firewall.wire import jwt
from tests.e2e.conftest import bartizan
from tests.e2e.test_token_workers import CONNECTIONS, Client
from tests.support.composed import Started, settings, started
from tests.support.ending import in_time, watch
from tests.support.world import tool, world

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


ROWS = 4000


def node_keys(state: Path) -> KeyRing:
    """Return the keys of a node, opened as the node opens them."""
    return KeyRing(state / "keys", unlock=unlock_secret(os.environ, state / "keys", make=True))


def test_op_04_no_key_of_a_node_lies_open_and_a_copied_state_directory_starts_nowhere_else(tmp_path: Path) -> None:
    config, here = settings(tmp_path / "state"), {"XDG_CONFIG_HOME": str(tmp_path / "here")}
    with started(config, tmp_path, environ=here):
        pass
    files = sorted((tmp_path / "state" / "keys").iterdir())
    assert {path.name.split(".")[0] for path in files} >= {"ec-as", "ed25519-audit", "secret-envelope"}
    assert all(path.read_bytes().startswith(b"bartizan sealed key 1\n") for path in files)
    with pytest.raises(AssertionError, match="BARTIZAN_UNLOCK_FILE"):
        with started(config, tmp_path, environ={"XDG_CONFIG_HOME": str(tmp_path / "elsewhere")}):
            pass
    assert not (tmp_path / "elsewhere").exists()
    secret = {"BARTIZAN_UNLOCK_FILE": str(tmp_path / "here" / "bartizan" / "unlock")}
    with started(config, tmp_path, environ={"XDG_CONFIG_HOME": str(tmp_path / "elsewhere"), **secret}):
        pass


async def test_a_node_that_is_killed_while_it_seals_anew_goes_on_at_its_next_start_by_itself(tmp_path: Path) -> None:
    state = tmp_path / "state"
    config = settings(state, workers=4)
    ring = node_keys(state)
    store = SQLiteStore(state / "state.db", durable=False)
    envelopes = Envelopes(store, lambda: ring.secrets("envelope"), SEALED)
    rows = store.collection("upstream_grants")
    for n in range(ROWS):
        rows.put("acme", f"{n:04}", envelopes.seal("acme", f"upstream_grants/{n:04}", n))
    with started(config, tmp_path) as wall:
        order = asyncio.create_task(asyncio.to_thread(bartizan, wall, "keys", "rotate", "--envelope"))
        until = time.monotonic() + 20
        while len(list(envelopes.older())) in (0, ROWS) and time.monotonic() < until:
            await asyncio.sleep(0.01)
        wall.kill()
        await order
    left = len(list(envelopes.older()))
    assert 0 < left < ROWS, "it was cut in the middle"
    fresh = Envelopes(store, lambda: node_keys(state).secrets("envelope"), SEALED)
    assert [fresh.open("acme", f"upstream_grants/{e.key}", e.value) for e in rows.scan("acme")] == list(range(ROWS))
    with started(config, tmp_path) as wall:
        until = time.monotonic() + 40
        told = await command(wall, "list", "--envelope")
        while told["state"] == "sealing" and time.monotonic() < until:
            await asyncio.sleep(0.3)
            told = await command(wall, "list", "--envelope")  # asks, and orders nothing
    assert (told["state"], told["left"], told["rows"], told["generations"]) == ("settling", 0, ROWS, [1, 2])
    assert [fresh.open("acme", f"upstream_grants/{e.key}", e.value) for e in rows.scan("acme")] == list(range(ROWS))
    store.close()


async def published(wall: Started) -> list[list[str]]:
    """Ask for the key set on many connections at once, so that every worker answers."""

    apart = httpx2.Limits(max_keepalive_connections=0)
    async with httpx2.AsyncClient(timeout=20, limits=apart) as http:
        url = f"{wall.url}/.well-known/jwks.json"
        answers = await asyncio.gather(*(http.get(url) for _ in range(CONNECTIONS)))
    sets = [answer.json()["keys"] for answer in answers]
    assert not any("d" in key for keys in sets for key in keys)
    return [[key["kid"] for key in keys] for keys in sets]


async def command(wall: Started, *arguments: str) -> Any:
    done = await asyncio.to_thread(bartizan, wall, "keys", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def all_follow(wall: Started, kid: str) -> float:
    """Return how long it took until every worker signed with a key, in seconds."""
    began = time.monotonic()
    while {kids[0] for kids in await published(wall)} != {kid}:
        assert time.monotonic() - began < 10
        await asyncio.sleep(0.05)
    return time.monotonic() - began


async def test_op_04_every_worker_follows_a_rotation_and_what_was_signed_before_still_counts(tmp_path: Path) -> None:
    async with world() as upstreams:
        demo = {"url": upstreams.add_mcp("demo", tools=[tool("note", "mark")]), "network": "loopback"}
        config = settings(tmp_path / "state", workers=4, mcp={"demo": {**demo, "tools": {"note": "read"}}})
        with started(config, tmp_path) as wall:
            before, after = Client(wall), Client(wall)
            await before.sign_in()
            (kids,) = {tuple(kids) for kids in await published(wall)}
            assert len(kids) == 2
            assert jwt.parse_compact(before.token.encode()).kid == kids[0]
            assert set(await before.many()) == {200}

            made = await command(wall, "rotate")
            assert made["kid"] == kids[1]
            # Each worker looks four times a second; the rest is this busy machine's.
            assert await all_follow(wall, kids[1]) < 5
            await after.sign_in()
            assert jwt.parse_compact(after.token.encode()).kid == kids[1]
            assert set(await before.many()) == {200}
            assert set(await after.many()) == {200}
            states = (await command(wall, "list"))["keys"]
            assert [key["state"] for key in states] == ["current", "next", "retired"]

            # A directory that leaked: every token ends, in every worker's cache too, within a second of the answer.
            told: list[Any] = []

            async def call() -> int:
                return (await before.call()).status

            async def compromised() -> None:
                told.append(await command(wall, "rotate", "--compromised"))

            ending = await watch(call, compromised)
            assert in_time([ending.told_late_s], 1.0, pace_s=ending.pace_s), ending
            made = told[0]
            assert made["kid"] not in (*kids, states[1]["kid"])
            assert await all_follow(wall, made["kid"]) < 5
            assert set(await before.many()) == {401}
            assert set(await after.many()) == {401}
            await after.sign_in()
            assert set(await after.many()) == {200}
