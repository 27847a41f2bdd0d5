"""Several workers of a front door in threads of one process, over one state directory, for requests that race."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier

import httpx2
import pytest

from firewall.core.errors import Unauthenticated
from firewall.identity.authorization_server import build_identity
from firewall.net.runtime import RandomIds
from firewall.state.shared import SharedMarks
from firewall.state.sqlite import SQLiteStore
from firewall.wire import jwt
from tests.support.door import SERVER_KEY, Browser, Door, make_door, redeem, refresh

WORKERS = 4
EACH = 13  # 52 at once
Ask = Callable[[httpx2.AsyncClient], Awaitable[httpx2.Response]]


class Node:
    """Several workers over one state directory, each in a thread of its own with its own loop and connection."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.base = make_door()
        SharedMarks(directory, workers=WORKERS).close()
        SQLiteStore(directory / "state.db", clock=self.base.clock).close()

    def door(self, store: SQLiteStore, marks: SharedMarks) -> Door:
        events: list[tuple[str, dict[str, object]]] = []
        identity = build_identity(
            self.base.identity.settings,
            store=store,
            marks=marks,
            clock=self.base.clock,
            ids=RandomIds(),
            fetcher=self.base.fetcher,
            signing_key=SERVER_KEY,
            record=lambda event, facts: events.append((event, dict(facts))),
        )
        return Door(identity, self.base.clock, store, marks, self.base.fetcher, events)  # type: ignore[arg-type]

    def in_one(self, run: Callable[[Door], Awaitable[dict[str, str]]]) -> dict[str, str]:
        """Run something in one worker."""
        with (
            closing(SQLiteStore(self.directory / "state.db", clock=self.base.clock)) as store,
            closing(SharedMarks(self.directory, workers=WORKERS)) as marks,
        ):

            async def main() -> dict[str, str]:
                return await run(self.door(store, marks))

            return asyncio.run(main())

    def at_once(self, ask: Ask, *, workers: int = WORKERS) -> list[tuple[int, dict[str, str]]]:
        """Send `EACH` requests to each of the workers, or as many in all to fewer, all at the same moment."""
        barrier = Barrier(workers)

        def work(_number: int) -> list[tuple[int, dict[str, str]]]:
            async def main(door: Door) -> list[tuple[int, dict[str, str]]]:
                async with door.http() as http:
                    barrier.wait(10)
                    replies = await asyncio.gather(*(ask(http) for _ in range(EACH * WORKERS // workers)))
                return [(reply.status_code, reply.json()) for reply in replies]

            with (
                closing(SQLiteStore(self.directory / "state.db", clock=self.base.clock)) as store,
                closing(SharedMarks(self.directory, workers=WORKERS)) as marks,
            ):
                return asyncio.run(main(self.door(store, marks)))

        with ThreadPoolExecutor(workers) as pool:
            return [answer for answers in pool.map(work, range(workers)) for answer in answers]


async def a_code(door: Door) -> dict[str, str]:
    await door.user()
    async with door.http() as http:
        return await Browser(http).code()


async def first_tokens(door: Door) -> dict[str, str]:
    await door.user()
    async with door.http() as http:
        body: dict[str, str] = (await redeem(http, (await Browser(http).code())["code"])).json()
        return body


async def nothing_works(door: Door, won: dict[str, str]) -> dict[str, str]:
    """Assert that no token of a grant that was ended works anywhere; return what its refresh answers."""
    with pytest.raises(Unauthenticated):
        door.verified(won["access_token"])
    assert (
        door.identity.grants.of_subject("acme", str(jwt.parse_compact(won["access_token"].encode()).claims["sub"]))
        == []
    )
    async with door.http() as http:
        body: dict[str, str] = (await refresh(http, won["refresh_token"])).json()
        return body
