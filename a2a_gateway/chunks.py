"""Text of an artifact that arrives in pieces: what stands across two of them is seen. Pure.

Each event is inspected whole by the guard; this machine adds the findings that no single event
shows, since a client joins the text parts of appended pieces. Such a finding is reported at the
piece that completes it, as its whole string: a redaction takes that piece, a deny ends the stream.
What an earlier piece already showed of it was not yet the finding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from a2a_gateway.message import Event, texts
from firewall.core.errors import Malformed
from firewall.core.finding import Finding
from firewall.core.ports import ScanStream

ARTIFACTS: Final = 256  # open at once in one stream


@dataclass(slots=True)
class _Text:
    stream: ScanStream
    fed: int = 0


class Chunks:
    """One stream's artifacts. open_stream: makes an inspector for one artifact's text."""

    def __init__(self, open_stream: Callable[[], ScanStream]) -> None:
        self._open_stream = open_stream
        self._texts: dict[str, _Text] = {}

    def feed(self, event: Event) -> list[Finding]:
        """Return the findings that began in an earlier piece and end in this one.

        Pointers lead into the JSON-RPC response that carries the event. Raises
        Malformed("agent_response") beyond 256 open artifacts.
        """
        artifact = event.body.get("artifact")
        if event.kind != "artifactUpdate" or not isinstance(artifact, dict):
            return []
        name = str(artifact["artifactId"])
        if event.body.get("append") is not True:
            self._texts.pop(name, None)
        text = self._texts.get(name)
        if text is None:
            if len(self._texts) >= ARTIFACTS:
                raise Malformed("agent_response", "too many artifacts at once")
            text = self._texts[name] = _Text(self._open_stream())
        began_at = text.fed
        out: list[Finding] = []
        last = ""
        for index, piece in texts(event):
            last = f"/result/artifactUpdate/artifact/parts/{index}/text"
            found = text.stream.feed(piece)
            text.fed += len(piece)
            out += _across(found, began_at, last)
        if event.body.get("lastChunk") is True:
            del self._texts[name]
            if last:
                out += _across(text.stream.close(), began_at, last)
        return out


def _across(found: list[Finding], began_at: int, pointer: str) -> list[Finding]:
    return [
        replace(finding, pointer=pointer, span=None)
        for finding in found
        if finding.span is None or finding.span[0] < began_at < finding.span[1]
    ]
