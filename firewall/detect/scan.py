"""PatternScanner: the Scanner port. Strings of a body → one buffer → one pass → judged findings.

The common case, a body in which no enabled rule can match, costs one walk, one join and one call
of the engine; places, pointers and digests are worked out only for what was found.

Rules enforced here:
- Every string is scanned, object keys too, ``_meta`` too; only JSON-RPC's own ``jsonrpc``,
  ``method`` and ``id`` members are not (the gateway made them), nor whole strings that equal one of
  `CONSTANTS`: they say nothing. Integers of 12 digits and more count as strings.
- Which detectors look at which point is `ENABLED`, one table.
- A bound that is reached is a finding (``scan.overflow``, severity 100), never silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any, Final

from firewall.core.bounds import POLICY_FINDINGS
from firewall.core.finding import Finding
from firewall.core.jsonvalue import JSON, Path, pointer
from firewall.core.points import INFO, Point
from firewall.detect import form_review, hygiene, tool_review
from firewall.detect.match import Budget, Buffer, Match, Overflow, matches
from firewall.detect.patterns import RULES, Database, open_database
from firewall.detect.rule import Family
from firewall.detect.stream import PatternStream
from firewall.detect.views import DECODERS, fold

Digest = Callable[[str, bytes], str]

_SKIPPED: Final = frozenset({"jsonrpc", "method", "id"})
# Names and revisions that stand in every modern MCP message. Long runs of letters and dates nominate
# rules each time, and each string costs; one that equals one of these, as a whole, has no finding (tested).
CONSTANTS: Final = frozenset(
    {
        "io.modelcontextprotocol/protocolVersion",
        "io.modelcontextprotocol/clientCapabilities",
        "io.modelcontextprotocol/clientInfo",
        "io.modelcontextprotocol/serverInfo",
        "2026-07-28",
        "2025-11-25",
        "2025-06-18",
        "2025-03-26",
        "params",
        "name",
        "arguments",
        "_meta",
        "result",
        "resultType",
        "complete",
        "content",
        "structuredContent",
        "isError",
        "type",
        "text",
        "object",
        "string",
        "properties",
        "inputSchema",
        "description",
    }
)
_LONGEST_CONSTANT: Final = max(map(len, CONSTANTS))
_LEAST_CARD: Final = 10**11
# Of the budget for folded views (code points): what any string costs, and what cleaning one costs more.
_LEAF_COST: Final = 32
_CLEAN_COST: Final = 4
_IDS: Final = frozenset(
    {
        "id",
        "taskid",
        "contextid",
        "messageid",
        "sessionid",
        "cursor",
        "nextcursor",
        "progresstoken",
        "requestid",
        "traceparent",
    }
)


def _with(*families: Family) -> frozenset[Family]:
    return frozenset(("hygiene", "secret", "field", "decode", *families))


_EVERYWHERE: Final = _with()
_ARGUMENTS: Final = _with("pii", "injection", "egress", "path")
_RESULT: Final = _with("pii", "injection", "markup")
_DEFINITION: Final = _with("injection", "review")
_PROMPT: Final = _with("pii", "injection")

# Which detectors look at which point. A point that carries content must stand here (tested).
ENABLED: Final[dict[Point, frozenset[Family]]] = {
    Point.MCP_SESSION_OPEN: _with("injection"),
    Point.MCP_NOTIFY_CLIENT: _with("injection"),
    Point.MCP_TOOL_LIST: _EVERYWHERE,
    Point.MCP_TOOL_CALL: _ARGUMENTS,
    Point.MCP_RESOURCE_LIST: _EVERYWHERE,
    Point.MCP_RESOURCE_READ: _ARGUMENTS,
    Point.MCP_RESOURCE_WATCH: _ARGUMENTS,
    Point.MCP_PROMPT_LIST: _EVERYWHERE,
    Point.MCP_PROMPT_GET: _ARGUMENTS,
    Point.MCP_COMPLETION_ASK: _ARGUMENTS,
    Point.MCP_TASK_GET: _EVERYWHERE,
    Point.MCP_TASK_CANCEL: _EVERYWHERE,
    Point.MCP_SAMPLING_ANSWER: _with("pii", "injection", "egress"),
    Point.MCP_ELICITATION_ANSWER: _ARGUMENTS,
    Point.MCP_ROOTS_ANSWER: _EVERYWHERE,
    Point.MCP_SESSION_OPENED: _DEFINITION,
    Point.MCP_TOOL_LISTED: _DEFINITION,
    Point.MCP_TOOL_RESULT: _RESULT,
    Point.MCP_RESOURCE_LISTED: _DEFINITION,
    Point.MCP_RESOURCE_RESULT: _RESULT,
    Point.MCP_PROMPT_LISTED: _DEFINITION,
    Point.MCP_PROMPT_RESULT: _RESULT,
    Point.MCP_COMPLETION_RESULT: _RESULT,
    Point.MCP_TASK_STATUS: _RESULT,
    Point.MCP_SAMPLING_ASK: _RESULT,
    Point.MCP_ELICITATION_ASK: _RESULT,
    Point.MCP_ROOTS_ASK: _EVERYWHERE,
    Point.MCP_NOTIFY_SERVER: _RESULT,
    Point.MCP_ERROR: _RESULT,
    Point.A2A_MESSAGE_SEND: _ARGUMENTS,
    Point.A2A_TASK_GET: _EVERYWHERE,
    Point.A2A_TASK_CANCEL: _EVERYWHERE,
    Point.A2A_MESSAGE_RECEIVE: _RESULT,
    Point.A2A_TASK_UPDATE: _RESULT,
    Point.A2A_CARD_SERVE: _DEFINITION,
    Point.A2A_ERROR: _RESULT,
    Point.LLM_REQUEST: _PROMPT,
    Point.LLM_RESPONSE: _RESULT,
    Point.LLM_TOOL_CALL: _ARGUMENTS,
    Point.LLM_MODELS: _EVERYWHERE,
    Point.LLM_ERROR: _RESULT,
}
# What a stream's text is inspected for: what is judged by its neighbourhood alone.
STREAMED: Final[frozenset[Family]] = frozenset({"hygiene", "secret", "pii", "injection", "markup"})
# Where the shape of a message is judged as well, whatever its strings say.
_REVIEWED: Final = frozenset({Point.MCP_TOOL_LISTED, Point.MCP_ELICITATION_ASK, Point.MCP_ELICITATION_ANSWER})
_NONE: Final[frozenset[int]] = frozenset()
_VIEWED: Final[frozenset[Family]] = frozenset({"secret", "injection", "review"})


def _indices(families: Iterable[Family]) -> frozenset[int]:
    wanted = frozenset(families)
    return frozenset(i for i, rule in enumerate(RULES) if rule.family in wanted)


def _says(string: str) -> bool:
    return len(string) > _LONGEST_CONSTANT or string not in CONSTANTS


def _object(value: dict[str, Any], append: Callable[[str], None]) -> None:
    for key, item in value.items():
        if key not in CONSTANTS:  # a member's name has its hash already, however long it is
            append(key)
        kind = type(item)
        if kind is str:
            if len(item) > _LONGEST_CONSTANT or item not in CONSTANTS:
                append(item)
        elif kind is dict:
            if item:
                _object(item, append)
        elif kind is list:
            _array(item, append)
        elif kind is int and (item >= _LEAST_CARD or item <= -_LEAST_CARD):
            append(str(item))


def _array(value: list[Any], append: Callable[[str], None]) -> None:
    for item in value:
        kind = type(item)
        if kind is dict:
            _object(item, append)
        elif kind is str:
            if len(item) > _LONGEST_CONSTANT or item not in CONSTANTS:
                append(item)
        elif kind is list:
            _array(item, append)
        elif kind is int and (item >= _LEAST_CARD or item <= -_LEAST_CARD):
            append(str(item))


def strings_of(body: JSON) -> list[str]:
    """Return the strings of a body that are scanned (see the module's rules), keys directly before their values,
    document order. Depth is bounded by the strict parser (`bounds.JSON_DEPTH`).
    """
    out: list[str] = []
    if not isinstance(body, dict):
        _array([body], out.append)
    elif "jsonrpc" in body:
        _object({key: item for key, item in body.items() if key not in _SKIPPED}, out.append)
    else:
        _object(body, out.append)
    return out


def places_of(body: JSON) -> list[tuple[Path, bool]]:
    """Return (path, is key) of the strings of `strings_of`, in the same order."""
    out: list[tuple[Path, bool]] = []

    def walk(value: JSON, path: Path) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                if _says(key):
                    out.append(((*path, key), True))
                walk(item, (*path, key))
        elif isinstance(value, list):
            for i, item in enumerate(value):
                walk(item, (*path, i))
        elif isinstance(value, str):
            if _says(value):
                out.append((path, False))
        elif type(value) is int and (value >= _LEAST_CARD or value <= -_LEAST_CARD):
            out.append((path, False))

    if isinstance(body, dict) and "jsonrpc" in body:
        for key, item in body.items():
            if key not in _SKIPPED:
                if _says(key):
                    out.append(((key,), True))
                walk(item, (key,))
    else:
        walk(body, ())
    return out


class PatternScanner:
    """Tier-1 inspection. Thread-safe; one per process."""

    def __init__(
        self, *, cache: FilePath | None = None, database: Database | None = None, digest: Digest | None = None
    ) -> None:
        """Open the pattern database.

        cache: directory (ours alone, mode 0700) that keeps the compiled database; None compiles
            at every start (about two seconds). database: in its place, an opened one.
        digest: keyed digest of a matched value, `AuditLog.hmac`; None leaves ``value_hmac`` empty.
        """
        self.database: Database = database if database is not None else open_database(cache)
        self._nominate = self.database.nominate
        self._digest = digest
        # What is looked for at a point, and whether its definitions are judged.
        self._enabled = {point: (_indices(families), "review" in families) for point, families in ENABLED.items()}
        self._streamed = {point: _indices(families & STREAMED) for point, families in ENABLED.items()}
        self._decoders = {i: rule.id for i, rule in enumerate(RULES) if rule.family == "decode"}

    def scan(self, body: JSON, point: Point, tenant: str) -> list[Finding]:
        """Return findings with pointers into ``body``, document order; at most `POLICY_FINDINGS`."""
        known = self._enabled.get(point)
        if known is None:
            if not INFO[point].content:
                return []
            known = self._enabled[Point.MCP_TOOL_CALL]
        enabled, definitions = known
        strings = strings_of(body)
        text = "\n".join(strings)
        data = text.encode("utf-8", "replace")
        hits = self._nominate(data, definitions)
        nominated = enabled.intersection(hits) if hits else _NONE
        if not nominated and (len(data) == len(text) or text.isascii()) and point not in _REVIEWED:
            return []
        return self._locate(body, point, tenant, strings, data, nominated, enabled)

    def scan_all(self, bodies: Sequence[JSON], point: Point, tenant: str) -> list[list[Finding]]:
        """Return what `scan` returns of each body; see `core.ports.Scanner`.

        A rule that matches in one body matches in the text of all: strings are held apart here as they are within
        one body. So what is not nominated for all is nominated for none.
        """
        known = self._enabled.get(point)
        if known is None or point in _REVIEWED:
            return [self.scan(body, point, tenant) for body in bodies]
        texts = ["\n".join(strings_of(body)) for body in bodies]
        if known[0].intersection(self._nominate("\n".join(texts).encode("utf-8", "replace"), known[1])):
            return [self.scan(body, point, tenant) for body in bodies]
        return [
            [] if text.isascii() else self.scan(body, point, tenant) for body, text in zip(bodies, texts, strict=True)
        ]

    def open_stream(self, point: Point, tenant: str) -> PatternStream:
        """Return an inspector for one stream's text."""
        return PatternStream(self._nominate, self._streamed.get(point, frozenset()), self._digest, tenant)

    # -- what was nominated ---------------------------------------------------------------------

    def _locate(
        self,
        body: JSON,
        point: Point,
        tenant: str,
        strings: Sequence[str],
        data: bytes,
        nominated: frozenset[int],
        enabled: frozenset[int],
    ) -> list[Finding]:
        places: list[tuple[Path, bool]] = []

        def key_of(leaf: int) -> tuple[str, bool]:
            if not places:
                places.extend(places_of(body))
            path, is_key = places[leaf]
            name = next((p for p in reversed(path) if isinstance(p, str)), "")
            return name.lower(), is_key

        buffer = _joined(data, strings, key_of)
        budget = Budget()
        found: list[tuple[Match, bytes | None]] = []
        views: list[tuple[int, int, int, str]] = []  # leaf, start, end (bytes; whole string: 0, 0), text
        overflow = False
        try:
            for index in sorted(nominated):
                if index in self._decoders:
                    decode = DECODERS[self._decoders[index]]
                    views += [
                        (m.leaf, m.start, m.end, said)
                        for m in matches(index, buffer, budget)
                        if (said := decode(data[m.start : m.end]))
                    ]
                else:
                    found += [(m, None) for m in matches(index, buffer, budget)]
                if len(found) > 8 * POLICY_FINDINGS:
                    raise Overflow
            if len(data) != sum(map(len, strings)) + len(strings) - 1:  # something is not ASCII
                self._disguised(strings, found, budget, views)
            if views:
                found += self._in_views(
                    views, strings, enabled, key_of, budget, {(m.verdict.rule, m.leaf) for m, _ in found}
                )
        except Overflow:
            overflow = True
        findings = self._findings(found, buffer, strings, places or places_of(body), tenant) if found else []
        if point is Point.MCP_TOOL_LISTED:
            findings += _structure(body)
        elif point in _REVIEWED:
            findings += form_review.review(body, point)
        return _bounded(findings, overflow)

    def _disguised(
        self,
        strings: Sequence[str],
        found: Sequence[tuple[Match, bytes | None]],
        budget: Budget,
        views: list[tuple[int, int, int, str]],
    ) -> None:
        """Append the views of strings that are not ASCII. Raises Overflow.

        Removing hidden characters is dear (every hygiene rule reads the string again), so only the
        strings pay for it in which one was found; the number of those is bounded by the candidates.
        """
        dirty = {m.leaf for m, _ in found if m.rule.family == "hygiene"}
        for leaf, string in enumerate(strings):
            if string.isascii():
                continue
            budget.fold(_LEAF_COST)
            if leaf in dirty:
                budget.fold(_CLEAN_COST * (len(string) + 128))
                folded = fold(string, spend=budget.fold)
                hidden = hygiene.tag_text(string)
                if hidden:
                    views.append((leaf, 0, 0, hidden))
            else:
                folded = fold(string, dirty=False, spend=budget.fold)
            if folded != string:
                budget.fold(len(folded))
                views.append((leaf, 0, 0, folded))

    def _in_views(
        self,
        views: Sequence[tuple[int, int, int, str]],
        strings: Sequence[str],
        enabled: frozenset[int],
        key_of: Callable[[int], tuple[str, bool]],
        budget: Budget,
        known: set[tuple[str, int]],
    ) -> list[tuple[Match, bytes | None]]:
        """Return matches in views that the strings themselves do not show, placed on their source."""
        texts = [said for _, _, _, said in views]
        data = "\n".join(texts).encode("utf-8", "replace")
        wanted = [i for i in sorted(enabled.intersection(self._nominate(data))) if RULES[i].family in _VIEWED]
        if not wanted:
            return []
        buffer = _joined(data, texts, lambda view: key_of(views[view][0]))
        out: list[tuple[Match, bytes | None]] = []
        for index in wanted:
            for match in matches(index, buffer, budget):
                leaf, start, end, _ = views[match.leaf]
                if (match.verdict.rule, leaf) in known:
                    continue
                known.add((match.verdict.rule, leaf))
                out.append((replace(match, leaf=leaf, start=start, end=end), buffer.data[match.start : match.end]))
        return out

    def _findings(
        self,
        found: Sequence[tuple[Match, bytes | None]],
        buffer: Buffer,
        strings: Sequence[str],
        places: Sequence[tuple[Path, bool]],
        tenant: str,
    ) -> list[Finding]:
        strong = [
            (m.leaf, m.start, m.end) for m, _ in found if m.rule.category == "secret" and not m.rule.weak and m.end
        ]
        out: list[Finding] = []
        spans: dict[tuple[str, int], int] = {}
        points = _Points(buffer, strings)
        for match, decoded in sorted(found, key=lambda item: (item[0].leaf, item[0].start, item[0].end)):
            rule, verdict = match.rule, match.verdict
            path, is_key = places[match.leaf]
            if rule.weak and any(leaf == match.leaf and start <= match.start < end for leaf, start, end in strong):
                continue
            if (
                rule.category == "pii"
                and not is_key
                and path
                and isinstance(path[-1], str)
                and path[-1].lower() in _IDS
            ):
                continue
            value = decoded if decoded is not None else buffer.data[match.start : match.end]
            span = None if is_key or match.end == 0 else points.span(match)
            if span is not None:
                same = spans.get((verdict.rule, match.leaf))
                if same is not None and out[same].span is not None and out[same].span[1] >= span[0]:  # type: ignore[index]
                    first = out[same].span
                    assert first is not None
                    out[same] = replace(
                        out[same],
                        span=(first[0], max(first[1], span[1])),
                        severity=max(out[same].severity, verdict.severity),
                    )
                    continue
                spans[(verdict.rule, match.leaf)] = len(out)
            out.append(
                Finding(
                    control=verdict.control or rule.control,
                    rule=verdict.rule,
                    category=verdict.category or rule.category,
                    severity=verdict.severity if decoded is None else min(verdict.severity + 10, 100),
                    pointer=pointer(path),
                    detector="pattern.key" if is_key else "pattern" if decoded is None else "pattern.view",
                    value_hmac=self._digest(tenant, value) if self._digest is not None else "",
                    span=span,
                )
            )
        return out


def _joined(data: bytes, strings: Sequence[str], key_of: Callable[[int], tuple[str, bool]]) -> Buffer:
    starts: list[int] = []
    ends: list[int] = []
    at = 0
    for string in strings:
        starts.append(at)
        at += len(string) if string.isascii() else len(string.encode("utf-8", "replace"))
        ends.append(at)
        at += 1
    return Buffer(data, starts, ends, key_of)


class _Points:
    """Code point offsets of matches that come in order: every byte of a string is decoded once."""

    def __init__(self, buffer: Buffer, strings: Sequence[str]) -> None:
        self._buffer = buffer
        self._strings = strings
        self._leaf = -1
        self._byte = self._char = 0

    def span(self, match: Match) -> tuple[int, int]:
        """Return the code points of a match in its string."""
        low = self._buffer.starts[match.leaf]
        if self._strings[match.leaf].isascii():
            return match.start - low, match.end - low
        if match.leaf != self._leaf:
            self._leaf, self._byte, self._char = match.leaf, low, 0
        data = self._buffer.data
        self._char += len(data[self._byte : match.start].decode("utf-8", "ignore"))
        self._byte = match.start
        return self._char, self._char + len(data[match.start : match.end].decode("utf-8", "ignore"))


def _structure(body: JSON) -> list[Finding]:
    result = body.get("result") if isinstance(body, dict) else None
    tools = result.get("tools") if isinstance(result, dict) else None
    if not isinstance(tools, list):
        return []
    return [found for i, tool in enumerate(tools) for found in tool_review.structure(tool, ("result", "tools", i))]


def _bounded(findings: list[Finding], overflow: bool) -> list[Finding]:
    if len(findings) <= POLICY_FINDINGS and not overflow:
        return findings
    kept = sorted(findings, key=lambda f: -f.severity)[: POLICY_FINDINGS - 1]
    return [*kept, Finding("SCAN-01", "scan.overflow", "hygiene", 100, "", "pattern")]
