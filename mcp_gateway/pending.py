"""The questions of one call that its legacy client is thinking about, while the call goes on.

A server may say more while it waits, take a question back (``notifications/cancelled``) or answer without it
(MCP 2025-11-25, cancellation): each question is a task of its own, and what still waits when the call ends is
withdrawn, so that nobody is left with a dialog that leads nowhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Final

from firewall.core.jsonvalue import JSONObject
from firewall.net.runtime import Tasks
from mcp_gateway.leash import Leash

TOGETHER: Final = 16  # questions of one call that are open at the same time
DELIVERY_S: Final = 5.0  # for an answer that is on its way to its server when the call ends

Slot = tuple[type, object]
"""An id and its type: 1 and "1" are two."""


class Pending:
    """The open questions of one call. failure: what ended the call, and pulled its leash."""

    def __init__(self, tasks: Tasks, leash: Leash) -> None:
        self._tasks = tasks
        self._leash = leash
        self._open: dict[Slot, asyncio.Task[None]] = {}
        self._answered: set[Slot] = set()
        self.failure: BaseException | None = None

    async def add(self, asked: JSONObject, serve: Callable[[Callable[[], None]], Coroutine[None, None, None]]) -> None:
        """Serve a server's question; return once it was put, where nothing holds that up.

        serve: takes what to call when the client has answered. A second question with an open id is left unserved.
        """
        slot = _slot(asked.get("id"))
        if slot in self._open:
            return
        if len(self._open) >= TOGETHER:  # nothing more is read until one is over
            await asyncio.wait(list(self._open.values()), return_when=asyncio.FIRST_COMPLETED)
        self._open[slot] = self._tasks.spawn(self._serve(slot, serve), "mcp.question")
        await asyncio.sleep(0)

    def note(self, said: JSONObject) -> None:
        """Read a notification of the server: it may take a question back."""
        params = said.get("params")
        if said.get("method") != "notifications/cancelled" or not isinstance(params, dict):
            return
        slot = _slot(params.get("requestId"))
        if slot in self._open and slot not in self._answered:
            self._open[slot].cancel()

    async def close(self) -> None:
        """Withdraw what the client has not answered; let what it has answered be delivered."""
        for slot, task in list(self._open.items()):
            if slot not in self._answered or self.failure is not None:
                task.cancel()
        if self._open:
            await asyncio.wait(list(self._open.values()), timeout=DELIVERY_S)
        for task in list(self._open.values()):
            task.cancel()

    async def _serve(self, slot: Slot, serve: Callable[[Callable[[], None]], Coroutine[None, None, None]]) -> None:
        try:
            await serve(lambda: self._answered.add(slot))
        except Exception as error:  # noqa: BLE001  raised again by whoever reads the call's answer
            if self.failure is None:
                self.failure = error
                self._leash.pull()
        finally:
            self._open.pop(slot, None)
            self._answered.discard(slot)


def _slot(rpc_id: object) -> Slot:
    return (type(rpc_id), rpc_id if isinstance(rpc_id, (str, int)) else None)
