"""Parked exchanges: a legacy upstream waits for an answer that a modern client brings with its next request.

A legacy server asks in the middle of an answer and waits; a modern client has no stream to be asked on.
So the upstream's answer is kept open here, read on by its own task (`exchanges`), until the client's
retry names it (mcp reference §5.1). The client holds only a sealed name (`state_seal`).

- One conversation belongs to one caller at one endpoint; for anybody else it does not exist.
- It is taken once; whoever took it parks it again for the next question.
- Bounds: per caller, per worker, and in time. At its end the upstream is told that the request is
  cancelled, and its stream is closed: nothing goes on for a client that never comes back.
- What the upstream says meanwhile waits in the exchange's inbox, bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from firewall.core.errors import BartizanError, UpstreamFault
from firewall.core.ports import Ids
from firewall.net.runtime import Tasks
from mcp_gateway.exchanges import Exchange
from mcp_gateway.house import Refused
from mcp_gateway.message import RpcId
from mcp_gateway.questions import Question
from mcp_gateway.upstream import Link

PER_CALLER: Final = 16
PER_WORKER: Final = 1_024
TTL_S: Final = 600.0
END_S: Final = 0.5


@dataclass(slots=True)
class Parked:
    """An upstream exchange between two messages. questions: key for the client → (the server's id, question).

    owner: caller and endpoint. cancel: tells the upstream that nobody waits any more.
    """

    owner: str
    link: Link
    exchange: Exchange
    rpc_id: int
    questions: dict[str, tuple[RpcId, Question]]
    cancel: Callable[[], Awaitable[None]]
    rounds: int = 1


class Conversations:
    """The parked exchanges of one worker."""

    def __init__(
        self,
        tasks: Tasks,
        ids: Ids,
        *,
        per_caller: int = PER_CALLER,
        per_worker: int = PER_WORKER,
        ttl_s: float = TTL_S,
    ) -> None:
        self._tasks = tasks
        self._ids = ids
        self._per_caller = per_caller
        self._per_worker = per_worker
        self._ttl_s = ttl_s
        self._parked: OrderedDict[str, tuple[Parked, asyncio.TimerHandle]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._parked)

    def park(self, parked: Parked) -> str:
        """Keep an exchange and return its name. Raises UpstreamFault("too_large") beyond a bound.

        Nobody else's conversation is ended to make room: a stranger could end them all.
        """
        mine = sum(kept.owner == parked.owner for kept, _ in self._parked.values())
        if mine >= self._per_caller or len(self._parked) >= self._per_worker:
            raise UpstreamFault("too_large", "too many exchanges wait for answers")
        name = self._ids.new("c")
        timer = asyncio.get_running_loop().call_later(self._ttl_s, self._expire, name)
        self._parked[name] = (parked, timer)
        return name

    def take(self, owner: str, name: str) -> Parked | None:
        """Return a conversation of this owner and forget it: at most one request goes on with it."""
        found = self._parked.get(name)
        if found is None or found[0].owner != owner:
            return None
        del self._parked[name]
        found[1].cancel()
        return found[0]

    async def close(self) -> None:
        """End every conversation."""
        parked = list(self._parked.values())
        self._parked.clear()
        for _, timer in parked:
            timer.cancel()
        await asyncio.gather(*(end(kept) for kept, _ in parked))

    def _expire(self, name: str) -> None:
        found = self._parked.pop(name, None)
        if found is not None:
            with contextlib.suppress(RuntimeError):  # the worker is ending, and `close` does the same
                self._tasks.spawn(end(found[0]), "mcp.conversation.end")


async def end(parked: Parked) -> None:
    """Cancel an exchange upstream and stop listening to it."""
    try:
        with contextlib.suppress(BartizanError, Refused, TimeoutError, OSError, RuntimeError):
            async with asyncio.timeout(END_S):
                await parked.cancel()
    finally:
        await parked.exchange.__aexit__(None, None, None)
