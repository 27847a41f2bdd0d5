"""Credentials that are renewed once, and proofs that are made again: the client between gateways and the pool."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from firewall.core.errors import ConsentNeeded
from firewall.net.renewing import LiveHeader, RenewingClient
from firewall.net.upstream import Target, UpstreamReply

TARGET = Target("https://up.example/mcp")
CLEARED: Any = object()


class Pool:
    """An upstream client that answers from a list and remembers what it was sent."""

    def __init__(self, *answers: tuple[int, dict[str, str]]) -> None:
        self.answers = list(answers)
        self.sent: list[tuple[tuple[bytes, bytes], ...]] = []
        self.open = 0

    async def request(self, _cleared: Any, _target: Target, *, headers: Any, **_more: Any) -> UpstreamReply:
        self.sent.append(tuple(headers))
        status, told = self.answers.pop(0)
        return UpstreamReply(status, told, b"")

    @contextlib.asynccontextmanager
    async def stream(self, _cleared: Any, _target: Target, *, headers: Any, **_more: Any) -> AsyncIterator[Any]:
        self.open += 1
        try:
            yield await self.request(_cleared, _target, headers=headers)
        finally:
            self.open -= 1

    async def close(self) -> None:
        """Nothing is held."""


class Nonces:
    """Proofs with a counter; wants another one whenever a nonce is told."""

    def __init__(self) -> None:
        self.made = 0

    def proof(self, method: str, url: str) -> tuple[bytes, bytes]:
        self.made += 1
        return b"dpop", f"{method} {url} {self.made}".encode()

    def again(self, _url: str, status: int, headers: Mapping[str, str]) -> bool:
        return status == 401 and "dpop-nonce" in headers


def live(*later: LiveHeader | None, signs: Any = None) -> LiveHeader:
    waiting = list(later)

    async def renew(_status: int, _challenge: str) -> LiveHeader | None:
        return waiting.pop(0)

    return LiveHeader(b"authorization", b"Bearer one", renew, signs)


async def never(_status: int, _challenge: str) -> LiveHeader | None:
    raise AssertionError("asked for another credential")


async def ask(pool: Pool, *headers: tuple[bytes, bytes], way: str = "request") -> int:
    client = RenewingClient(pool)  # type: ignore[arg-type]
    if way == "request":
        return (await client.request(CLEARED, TARGET, headers=headers, deadline_s=1, max_bytes=1)).status
    async with client.stream(CLEARED, TARGET, headers=headers, deadline_s=1, idle_s=1) as stream:
        return stream.status


@pytest.mark.parametrize("way", ["request", "stream"])
class TestBothWays:
    async def test_a_refused_credential_is_renewed_and_the_request_sent_once_more(self, way: str):
        pool = Pool((401, {}), (200, {}))
        second = LiveHeader(b"authorization", b"Bearer two", never)
        assert await ask(pool, live(second), (b"x", b"y"), way=way) == 200
        assert pool.sent == [
            ((b"authorization", b"Bearer one"), (b"x", b"y")),
            ((b"authorization", b"Bearer two"), (b"x", b"y")),
        ]
        assert pool.open == 0

    async def test_never_more_than_once(self, way: str):
        pool = Pool((401, {}), (401, {}), (200, {}))
        second = LiveHeader(b"authorization", b"Bearer two", never)
        assert await ask(pool, live(second), way=way) == 401
        assert len(pool.sent) == 2

    async def test_what_cannot_be_renewed_is_an_answer(self, way: str):
        pool = Pool((401, {}))
        assert await ask(pool, live(None), way=way) == 401

    async def test_a_static_secret_is_sent_once(self, way: str):
        pool = Pool((401, {}))
        assert await ask(pool, (b"authorization", b"Bearer static"), way=way) == 401

    @pytest.mark.parametrize(
        ("challenge", "tries"), [('Bearer error="insufficient_scope", scope="w"', 2), ("Bearer", 1), ("", 1)]
    )
    async def test_a_403_is_worth_a_second_try_only_where_scope_would_cure_it(
        self, way: str, challenge: str, tries: int
    ):
        pool = Pool((403, {"www-authenticate": challenge}), (200, {}))
        second = LiveHeader(b"authorization", b"Bearer two", never)
        await ask(pool, live(second), way=way)
        assert len(pool.sent) == tries

    async def test_a_person_who_must_be_asked_ends_the_request(self, way: str):
        async def ask_first(_status: int, _challenge: str) -> LiveHeader | None:
            raise ConsentNeeded("files", "https://fw.example/upstream/connect/files")

        pool = Pool((401, {}))
        with pytest.raises(ConsentNeeded):
            await ask(pool, LiveHeader(b"authorization", b"Bearer one", ask_first), way=way)
        assert pool.open == 0

    async def test_each_request_has_a_proof_of_its_own_and_a_nonce_is_answered_once(self, way: str):
        signs = Nonces()
        pool = Pool((401, {"dpop-nonce": "n"}), (200, {}))
        assert await ask(pool, LiveHeader(b"authorization", b"DPoP t", never, signs), way=way) == 200
        proofs = [dict(headers)[b"dpop"] for headers in pool.sent]
        assert proofs == [b"POST https://up.example/mcp 1", b"POST https://up.example/mcp 2"]

    async def test_a_server_that_asks_for_nonces_for_ever_is_not_followed(self, way: str):
        signs = Nonces()
        pool = Pool(*[(401, {"dpop-nonce": "n"})] * 9)
        second = LiveHeader(b"authorization", b"DPoP t2", never, signs)
        assert await ask(pool, live(second, signs=signs), way=way) == 401
        assert len(pool.sent) == 4  # a nonce each for two credentials
