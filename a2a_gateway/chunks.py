"""Text of an artifact that arrives in pieces: what stands across two of them is seen. Pure.

Each event is inspected whole by the guard; this machine adds the findings that no single event
shows, since a client joins the text parts of appended pieces. It scans the end of what went before
together with the new piece. A finding that reaches over the seam is reported at the piece that
completes it, as its whole string: a redaction takes that piece, a deny ends the stream. What an
earlier piece already showed of it was not yet the finding; nothing is held back here, since a
status that overtakes its artifact would be another bug.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from a2a_gateway.message import Event, texts
from firewall.core.bounds import SCAN_WINDOW_CHARS
from firewall.core.errors import Malformed
from firewall.core.finding import Finding
from firewall.core.jsonvalue import JSON

ARTIFACTS: Final = 256  # open at once in one stream


class Chunks:
    """One stream's artifacts. scan: the scanner, for this stream's point and tenant."""

    def __init__(self, scan: Callable[[JSON], Sequence[Finding]]) -> None:
        self._scan = scan
        self._ends: dict[str, str] = {}

    def feed(self, event: Event) -> list[Finding]:
        """Return the findings that begin in an earlier piece and end in this one.

        Pointers lead into the JSON-RPC response that carries the event. Raises
        Malformed("agent_response") beyond 256 open artifacts, and where a seam shows what has no place
        in the text: disguised, or more than inspection can take.
        """
        artifact = event.body.get("artifact")
        if event.kind != "artifactUpdate" or not isinstance(artifact, dict):
            return []
        name = str(artifact["artifactId"])
        before = self._ends.pop(name, "") if event.body.get("append") is True else ""
        out: list[Finding] = []
        for index, piece in texts(event):
            if before and piece:
                pointer = f"/result/artifactUpdate/artifact/parts/{index}/text"
                out += self._across(before, piece, pointer)
            before = (before + piece)[-SCAN_WINDOW_CHARS:]
        if event.body.get("lastChunk") is not True:
            if len(self._ends) >= ARTIFACTS:
                raise Malformed("agent_response", "too many artifacts at once")
            self._ends[name] = before
        else:
            self._ends.pop(name, None)
        return out

    def _across(self, before: str, piece: str, pointer: str) -> list[Finding]:
        seam = len(before)
        found = self._scan({"text": before + piece[:SCAN_WINDOW_CHARS]})
        out: list[Finding] = []
        placeless = [f for f in found if f.pointer != "/text" or f.span is None]
        if placeless:
            # What either side shows by itself is not the seam's: the guard has judged it, or will.
            known = {f.rule for side in (before, piece) for f in self._scan({"text": side})}
            for finding in placeless:
                if finding.rule in known:
                    continue
                if finding.category != "injection":  # that is advice, and marks the caller
                    raise Malformed("agent_response", "a seam shows what cannot be taken out")
                out.append(replace(finding, pointer=pointer, span=None))
        out += [
            replace(finding, pointer=pointer, span=None)
            for finding in found
            if finding.pointer == "/text" and finding.span is not None and finding.span[0] < seam < finding.span[1]
        ]
        return out
