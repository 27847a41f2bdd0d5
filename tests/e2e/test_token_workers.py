"""Tokens on a node of four workers: a proof serves once, a bound session is handed over, a revocation is everywhere.

A real ``bartizan up``; each request has a connection of its own, so that the kernel spreads them.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from firewall.wire import jwt
from tests.e2e.test_workers import INFO
from tests.support.composed import SERVICE_KEY, Answer, Started, modern, settings, started
from tests.support.dpop import Holder
from tests.support.world import tool, world

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

PATH = "/mcp/demo"
CONNECTIONS = 24


class Client:
    """A service whose tokens are bound to its key, or, without a holder, are bearer tokens."""

    def __init__(self, wall: Started, holder: Holder | None = None) -> None:
        self.wall, self.holder, self.token = wall, holder, ""

    def proof(self, method: str, path: str, *, token: str = "") -> str:
        assert self.holder is not None
        return self.holder.proof(method, f"{self.wall.url}{path}", now_s=int(time.time()), token=token)

    async def sign_in(self) -> None:
        now = int(time.time())
        claims: dict[str, Any] = {"iss": "svc", "sub": "svc", "aud": self.wall.url, "iat": now, "exp": now + 60}
        claims["jti"] = os.urandom(9).hex()
        form = {
            "grant_type": "client_credentials",
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": jwt.sign(claims, SERVICE_KEY, alg="ES256", typ="JWT", kid="svc"),
            "resource": f"{self.wall.url}{PATH}",
            "scope": "demo:read demo:write",
        }
        headers = {"dpop": self.proof("POST", "/token")} if self.holder else {}
        async with httpx2.AsyncClient(timeout=20) as http:
            answer = await http.post(f"{self.wall.url}/token", data=form, headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.json()["token_type"] == ("DPoP" if self.holder else "Bearer")
        self.token = answer.json()["access_token"]

    def headers(self, method: str = "POST", proof: str = "") -> dict[str, str]:
        if self.holder is None:
            return {"authorization": f"Bearer {self.token}"}
        return {
            "authorization": f"DPoP {self.token}",
            "dpop": proof or self.proof(method, PATH, token=self.token),
        }

    async def call(self, proof: str = "") -> Answer:
        body, headers = modern("tools/call", {"name": "note", "arguments": {"mark": "x"}})
        return await self.wall.post(PATH, body, headers={**headers, **self.headers(proof=proof)})

    async def many(self, proof: str = "") -> list[int]:
        return [a.status for a in await asyncio.gather(*(self.call(proof) for _ in range(CONNECTIONS)))]

    async def legacy(self, method: str, session: str = "", rpc_id: int | None = 1, **params: Any) -> Answer:
        body = {"jsonrpc": "2.0", "method": method, "params": params, **({} if rpc_id is None else {"id": rpc_id})}
        more = {"mcp-session-id": session, "mcp-protocol-version": "2025-11-25"} if session else {}
        return await self.wall.post(PATH, body, headers={**more, **self.headers()})


async def stream_of(client: Client, session: str, opened: asyncio.Event) -> float:
    """Hold a session's standalone stream; return when it ended."""
    headers = {
        **client.headers("GET"),
        "mcp-session-id": session,
        "mcp-protocol-version": "2025-11-25",
        "accept": "text/event-stream",
    }
    async with (
        httpx2.AsyncClient(timeout=20) as http,
        http.stream("GET", f"{client.wall.url}{PATH}", headers=headers) as response,
    ):
        assert response.status_code == 200
        opened.set()
        async for _ in response.aiter_bytes():
            pass
    return time.monotonic()


async def test_rs_13_and_19_hold_on_four_workers(tmp_path: Path) -> None:
    async with world() as upstreams:
        demo = {"url": upstreams.add_mcp("demo", tools=[tool("note", "mark")]), "network": "loopback"}
        config = settings(tmp_path / "state", workers=4, mcp={"demo": {**demo, "tools": {"note": "read"}}})
        with started(config, tmp_path) as wall:
            bound, bearer, kept = Client(wall, Holder()), Client(wall), Client(wall)
            for one in (bound, bearer, kept):
                await one.sign_in()

            # A fresh proof each: every worker knows the token by then.
            assert set(await bound.many()) == {200}
            # One proof for all: at most one of them is served, on whichever worker.
            again = await bound.many(bound.proof("POST", PATH, token=bound.token))
            assert sorted(set(again)) in ([200, 401], [401])
            assert again.count(200) <= 1
            assert set(await Client.many(_as_bearer(bound))) == {401}

            # Requests of a session go to the worker that holds it, with the proof that was taken on the way.
            opened = await bound.legacy("initialize", **INFO)
            assert opened.status == 200, opened.text
            session = opened.header("mcp-session-id")
            assert (await bound.legacy("notifications/initialized", session, None)).status == 202
            pings = await asyncio.gather(*(bound.legacy("ping", session) for _ in range(12)))
            assert {p.status for p in pings} == {200}

            # Revoked: gone from every worker's cache (how soon: `test_revocation`), and its stream within five seconds.
            assert set(await bearer.many()) == {200}
            assert set(await kept.many()) == {200}
            is_open = asyncio.Event()
            stream = asyncio.create_task(stream_of(bound, session, is_open))
            await asyncio.wait_for(is_open.wait(), 10)
            await wall.revoke(bearer.token)
            await wall.revoke(bound.token)
            began = time.monotonic()
            first = await asyncio.gather(bearer.many(), bound.many())
            assert {status for statuses in first for status in statuses} == {401}, json.dumps(first)
            assert await asyncio.wait_for(stream, 10) - began < 5
            assert set(await kept.many()) == {200}


def _as_bearer(bound: Client) -> Client:
    thief = Client(bound.wall)
    thief.token = bound.token
    return thief
