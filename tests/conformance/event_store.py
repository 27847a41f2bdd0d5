"""The events of an upstream's legacy streams, kept for whoever reconnects (SEP-1699). For one test server."""

from __future__ import annotations

from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp_types import JSONRPCMessage

KEPT = 10_000


class KeptEvents(EventStore):
    """Every event of every stream, numbered in one row; an event without a message is a priming event."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        """Keep an event; its id is its number."""
        assert len(self._rows) < KEPT, "a test server is not meant to run that long"
        self._rows.append((stream_id, message))
        return str(len(self._rows))

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        """Send what one stream carried after an event; return the stream, or None for an unknown id."""
        if not last_event_id.isdecimal() or not 0 < int(last_event_id) <= len(self._rows):
            return None
        seen = int(last_event_id)
        stream = self._rows[seen - 1][0]
        for number, (of, message) in enumerate(self._rows[seen:], seen + 1):
            if of == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream
