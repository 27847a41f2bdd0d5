"""The self-test that a bundle must pass before its compiled form may decide.

Three questions, asked of every program with every decision case as a start (DESIGN §6 Policy):

1. *Same as the reference?* For every case the compiled answer equals the interpreter's. For every
   mutant of a representative case (each member removed, each value turned into every other JSON
   type, each list lengthened by a stranger) it equals the interpreter's, or is a more severe one.
2. *Never milder?* No mutant outside the caller's own arguments gets a milder effect than its case:
   a fact that gets lost or mistyped must not open anything.
3. *In time?* The largest inputs that the contract admits are answered within a bound by both.

A representative is the first case of each point, and the first to name each rule at a point. No
clock is read here but the one passed in; the result is a `Verdict` that says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import orjson

from firewall.core import bounds
from firewall.core.decision import Effect
from firewall.core.errors import PolicyFault
from firewall.core.jsonvalue import JSON, JSONObject, Path, get, pointer, replaced
from firewall.core.points import Point
from firewall.decide.cases import Case, in_order
from firewall.decide.contract import parse_decision
from firewall.decide.program import Compiled, Strict

WORST_COMPILED_MS: Final = 250
WORST_STRICT_MS: Final = 1500

# Leaves of these types take the place of every leaf of another type.
_STRANGERS: Final[tuple[JSON, ...]] = (None, True, 0, "", [], {})
_ARGUMENTS: Final[Path] = ("action", "properties", "arguments")
_FREE: Final = pointer(_ARGUMENTS) + "/"
_FIXED: Final = frozenset({"contract", "point"})
_ITEM_POINTS: Final = frozenset({Point.MCP_TOOL_LISTED, Point.MCP_RESOURCE_LISTED, Point.MCP_PROMPT_LISTED})


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome: whether the compiled form may decide, why, and how much was tried."""

    passed: bool
    why: str
    mutants: int
    worst_ms: float


@dataclass(frozen=True, slots=True)
class _Answer:
    effect: Effect
    document: JSON  # None where there was no usable decision, which is a deny


def run(
    programs: Mapping[Point, bytes],
    modules: Mapping[str, str],
    data_json: str,
    cases: Iterable[Case],
    monotonic_ns: Callable[[], int],
) -> Verdict:
    """Return the verdict on a bundle's programs. See the module's rules."""
    strict = Strict(modules, data_json)
    machines = {point: Compiled(point, program, data_json) for point, program in programs.items()}
    listed = list(cases)
    missing = sorted({point.value for point in programs} - {case.point.value for case in listed})
    if missing:
        return Verdict(False, f"no decision case for {', '.join(missing)}", 0, 0.0)
    count = 0
    covered: set[tuple[Point, str]] = set()
    for case in listed:
        compiled, reference = machines[case.point].decide, partial(strict.decide, case.point)
        base = _ask(compiled, case.document)
        if base.document != _ask(reference, case.document).document:
            return Verdict(False, f"{case.source}: compiled and interpreted answers differ", count, 0.0)
        news = {(case.point, rule) for rule in case.rules | {""}} - covered
        covered |= news
        if not news:
            continue
        for where, document in _mutants(case):
            count += 1
            encoded = in_order(document)
            fast = _ask(compiled, encoded)
            if not _agree(fast, partial(_ask, reference, encoded)):
                return Verdict(False, f"{case.source}: compiled and interpreted answers differ at {where}", count, 0.0)
            if fast.effect < base.effect and not where.startswith(_FREE):
                return Verdict(False, f"{case.source}: milder when {where} is lost or of another type", count, 0.0)
    return _worst(machines, strict, listed, monotonic_ns, count)


def _agree(fast: _Answer, reference: Callable[[], _Answer]) -> bool:
    """Whether the compiled answer is the interpreter's, or more severe. A deny needs no question."""
    if fast.effect is Effect.DENY:
        return True
    slow = reference()
    return fast.effect > slow.effect or fast.document == slow.document


def _ask(decide: Callable[[bytes], bytes], document: bytes) -> _Answer:
    try:
        answer = decide(document)
        decision = parse_decision(answer, revision="", engine="")
    except PolicyFault:
        return _Answer(Effect.DENY, None)
    raw = decision.raw
    if isinstance(raw, dict):
        # Sets have no order that all engines share.
        raw = {k: sorted(v, key=_sort_key) if isinstance(v, list) else v for k, v in raw.items()}
    return _Answer(decision.effect, raw)


def _sort_key(value: JSON) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


# -- mutants -------------------------------------------------------------------------------------


def _mutants(case: Case) -> Iterator[tuple[str, JSONObject]]:
    """Yield the mutants of a case: (pointer of what changed, document)."""
    document = _object(orjson.loads(case.document))
    for path, value in _places(document, ()):
        where = pointer(path)
        if isinstance(path[-1], str):
            yield where, removed(document, path)
        for stranger in _STRANGERS:
            if type(stranger) is not type(value):
                yield where, _object(replaced(document, path, stranger))
        if isinstance(value, list):
            for extra in _STRANGERS:
                yield where, _object(replaced(document, path, [*value, extra]))


def _places(value: JSON, path: Path) -> Iterator[tuple[Path, JSON]]:
    """Yield every member of every object below, and every entry of every list."""
    if isinstance(value, dict):
        for name, member in value.items():
            if path == () and name in _FIXED:
                continue
            yield (*path, name), member
            yield from _places(member, (*path, name))
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield (*path, index), member
            yield from _places(member, (*path, index))


def _object(value: JSON) -> JSONObject:
    assert isinstance(value, dict)
    return value


def removed(document: JSONObject, path: Path) -> JSONObject:
    """Return a copy of the document without the member at a path."""
    parent = _object(get(document, path[:-1]))
    return _object(replaced(document, path[:-1], {k: v for k, v in parent.items() if k != path[-1]}))


# -- worst cases ----------------------------------------------------------------------------------


def worst_inputs(case: Case) -> Iterator[JSONObject]:
    """Yield the largest documents of a case's shape that `question.encode_input` lets through."""
    document = _object(orjson.loads(case.document))
    categories = (
        "hygiene",
        "injection",
        "secret",
        "pii",
        "egress",
        "markup",
        "schema",
        "review",
        "normal_form",
        "flow",
    )
    for category in categories:
        findings: list[JSON] = [
            {
                "control": "SCAN-01",
                "rule": f"{category}.worst",
                "category": category,
                "severity": 90,
                "pointer": f"/params/arguments/a{n}",
                "item": f"tool{n}" if case.point in _ITEM_POINTS else "",
                "detector": "test",
            }
            for n in range(bounds.POLICY_FINDINGS)
        ]
        yield _object(replaced(document, ("context", "findings"), findings))
    if case.point in _ITEM_POINTS:
        entry: JSONObject = {"id": "", "effect_class": "exec", "scope": "other:write", "pin": "new", "state": "pending"}
        items: list[JSON] = [{**entry, "id": f"tool{n}"} for n in range(bounds.LIST_CHUNK)]
        yield _object(replaced(document, _ARGUMENTS, {"items": items}))
        return
    names = ["path", "file", "url", "text"]
    long = "/." * (bounds.POLICY_STRING_CHARS // 2)
    yield _object(replaced(document, _ARGUMENTS, dict.fromkeys(names[:3], long)))
    yield _object(replaced(document, _ARGUMENTS, {name: ["/tmp/a/b/c"] * bounds.POLICY_ARRAY_ITEMS for name in names}))  # noqa: S108
    yield _object(replaced(document, _ARGUMENTS, {f"path{n}": "/a" for n in range(bounds.POLICY_OBJECT_KEYS)}))


def _worst(
    machines: Mapping[Point, Compiled], strict: Strict, cases: list[Case], monotonic_ns: Callable[[], int], count: int
) -> Verdict:
    seen: set[Point] = set()
    worst_ms = 0.0
    for case in cases:
        if case.point in seen:
            continue
        seen.add(case.point)
        for document in worst_inputs(case):
            encoded = in_order(document)
            for decide, bound in (
                (machines[case.point].decide, WORST_COMPILED_MS),
                (partial(strict.decide, case.point), WORST_STRICT_MS),
            ):
                took = min(_timed(decide, encoded, monotonic_ns) for _ in range(2))
                worst_ms = max(worst_ms, took)
                if took > bound:
                    return Verdict(False, f"{case.point.value}: a worst-case input took {took:.0f} ms", count, worst_ms)
    return Verdict(True, "profile and self-test passed", count, worst_ms)


def _timed(decide: Callable[[bytes], bytes], document: bytes, monotonic_ns: Callable[[], int]) -> float:
    """Return milliseconds; the better of two is judged, since a library's first failure costs extra."""
    started = monotonic_ns()
    _ask(decide, document)
    return (monotonic_ns() - started) / 1e6
