"""Definitions by their digest, so that a person sees what a pin stands for and what changed.

Pins hold digests alone. Every definition passes the review on its way into a catalogue: `noting`
wraps that review and remembers the value under its digest, which is exactly what the pin holds.
Values are kept in memory first and written aside (`keep`), never while an agent waits. What is kept is
a help for people; nothing decides on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from firewall.core.errors import BartizanError, Malformed
from firewall.core.finding import Finding
from firewall.core.jsonvalue import JSON
from firewall.core.ports import Collection
from firewall.wire import canonical, strict_json

Review = Callable[[JSON], Sequence[Finding]]

NODE: Final = "_node"  # content-addressed: who knows the digest has seen the definition, or its pin
DEFINITION_BYTES: Final = 256 * 1024
WAITING: Final = 4096
KEEP_EVERY_S: Final = 2.0


class Definitions:
    """Remembers what definitions said."""

    def __init__(self, kept: Collection) -> None:
        self._kept = kept
        self._waiting: dict[str, bytes] = {}

    def noting(self, review: Review) -> Review:
        """Return the same review that also remembers what it saw."""

        def reviewed(value: JSON) -> Sequence[Finding]:
            self.note(value)
            return review(value)

        return reviewed

    def note(self, value: JSON) -> None:
        """Remember a definition; too large ones, and more than can wait, are not. Never raises."""
        try:
            data = canonical.encode(value)
            if len(data) <= DEFINITION_BYTES and len(self._waiting) < WAITING:
                self._waiting[canonical.digest(value)] = data
        except Malformed:
            pass  # the gateway refuses such a definition by itself

    def get(self, digest: str) -> JSON:
        """Return the definition with a digest; None when it is not remembered."""
        data = self._waiting.get(digest)
        if data is None:
            entry = self._kept.get(NODE, digest) if digest else None
            data = entry.value if entry else None
        return None if data is None else strict_json.loads(data)

    def write(self) -> int:
        """Write what waits; return how many. Raises StateUnavailable (it goes on waiting)."""
        waiting = list(self._waiting.items())
        for digest, data in waiting:
            if self._kept.get(NODE, digest) is None:
                self._kept.put(NODE, digest, data)
            self._waiting.pop(digest, None)
        return len(waiting)

    async def keep(self) -> None:
        """Write what waits every two seconds, in a thread; runs until cancelled."""
        while True:
            await asyncio.sleep(KEEP_EVERY_S)
            if self._waiting:
                try:
                    await asyncio.to_thread(self.write)
                except BartizanError:
                    pass  # it goes on waiting, bounded
