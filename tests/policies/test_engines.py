"""Same policy, same decision: compiled, interpreter and OPA answer alike (promise 4)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import jsonschema_rs
import orjson
import pytest

from firewall.core.decision import EFFECTS, Effect
from firewall.core.errors import PolicyFault
from firewall.core.jsonvalue import JSON, JSONObject, pointer, replaced
from firewall.core.points import Point
from firewall.decide import bundle as bundles
from firewall.decide import selftest
from firewall.decide.bundle import Bundle
from firewall.decide.cases import Case, in_order, merge_patch
from firewall.decide.opa_server import OpaServerEngine
from firewall.decide.regorus import RegorusEngine
from firewall.decide.sampler import same_document
from firewall.tooling.cases import points_without_cases, run_cases
from tests.support.opa import OpaProcess


def effect_of(answer: bytes | None) -> Effect:
    return Effect.DENY if answer is None else EFFECTS[orjson.loads(answer)["effect"]]


class TestCases:
    def test_every_case_comes_out_on_the_embedded_engine(self, shipped: Bundle) -> None:
        results = run_cases(shipped)
        assert len(results) == 2 * len(shipped.cases)
        assert [(r.case.source, r.engine, r.problems) for r in results if r.problems] == []

    def test_every_case_comes_out_alike_on_opa(self, shipped: Bundle, opa: OpaProcess) -> None:
        results = run_cases(shipped, opa_address=opa.address)
        assert {r.engine.split("/")[0] for r in results} == {"regorus", "regorus-rvm", "opa-server"}
        assert [(r.case.source, r.engine, r.problems) for r in results if r.problems] == []

    def test_a_wrong_expectation_is_told(self, shipped: Bundle) -> None:
        """The twin: were results not compared, this would pass."""
        case = shipped.cases[0]
        wrong = Case(
            case.name,
            case.point,
            case.document,
            "deny",
            frozenset({"x.y"}),
            None,
            None,
            frozenset(),
            frozenset(),
            case.source,
        )
        bundle = Bundle(**{**{n: getattr(shipped, n) for n in Bundle.__dataclass_fields__}, "cases": (wrong,)})
        assert all(len(r.problems) == 2 for r in run_cases(bundle))

    def test_every_point_has_an_ordinary_case(self, shipped: Bundle) -> None:
        assert points_without_cases(shipped) == []
        allowed = {c.point for c in shipped.cases if c.effect == "allow" and not c.rules}
        assert allowed == set(Point)

    def test_inputs_and_answers_fit_the_published_schemas(self, shipped: Bundle) -> None:
        schemas = bundles.default_path() / "schemas"
        decisions = jsonschema_rs.validator_for(orjson.loads((schemas / "decision.json").read_bytes()))
        inputs = jsonschema_rs.validator_for(orjson.loads((schemas / "input.json").read_bytes()))
        broken_on_purpose = (
            "lost",
            "not told",
            "without",
            "invented",
            "no class",
            "unknown",
            "cannot be read",
            "to read",
        )
        engine = RegorusEngine(shipped)
        for case in shipped.cases:
            answer = orjson.loads(engine.decide(case.point, case.document))
            assert [str(e) for e in decisions.iter_errors(answer)] == [], case.name
            if not any(word in case.name for word in broken_on_purpose):
                assert [str(e) for e in inputs.iter_errors(orjson.loads(case.document))] == [], case.name


# What is removed or mistyped in deny cases, and asked of all three engines (policy reference §14, test 10).
LOST = (
    "an ordinary call passes",
    "a changed definition is quarantined",
    "a missing scope is told",
    "another tenant's tool is refused",
    "the token of another endpoint is refused",
    "a chain of four may not write",
    "a secret in arguments is stopped",
    "a secret in a result is replaced",
    "hidden instructions before sending are refused",
    "an ordinary listed passes",
    "a private address is not reached",
)


def lost(bundle: Bundle) -> Iterator[tuple[Case, str, bytes]]:
    """Yield (case, pointer, document) with one member removed, or one value turned into another type."""
    for case in bundle.cases:
        if case.name not in LOST:
            continue
        document = orjson.loads(case.document)
        for path, value in selftest._places(document, ()):
            if isinstance(path[-1], str):
                yield case, pointer(path), in_order(selftest.removed(document, path))
            stranger: JSON = [] if isinstance(value, (dict, str)) else "x"
            mutant = replaced(document, path, stranger)
            assert isinstance(mutant, dict)
            yield case, pointer(path), in_order(mutant)


class TestLostFacts:
    def test_a_lost_fact_never_opens_anything_on_any_engine(self, shipped: Bundle, opa: OpaProcess) -> None:
        asyncio.run(self._compare(shipped, opa.address))

    async def _compare(self, shipped: Bundle, address: str) -> None:
        compiled, strict = RegorusEngine(shipped, "compiled"), RegorusEngine(shipped, "interpreter")
        remote = OpaServerEngine(address, shipped.revision, deadline_s=10.0)
        checked = 0
        try:
            for case, where, document in lost(shipped):
                checked += 1
                answers = [_answer(compiled, case.point, document), _answer(strict, case.point, document)]
                try:
                    answers.append(await remote.decide_remote(case.point, document))
                except PolicyFault:
                    answers.append(None)
                fast, reference, real = (effect_of(a) for a in answers)
                assert fast >= reference, f"{case.name}: compiled is milder than interpreted at {where}"
                assert real == reference, f"{case.name}: OPA and the interpreter differ at {where}"
                if not where.startswith("/action/properties/arguments/"):
                    assert min(fast, reference, real) >= EFFECTS[case.effect], f"{case.name}: milder at {where}"
        finally:
            await remote.close()
        assert checked > 800


def _answer(engine: RegorusEngine, point: Point, document: bytes) -> bytes | None:
    try:
        return engine.decide(point, document)
    except PolicyFault:
        return None


class TestLattice:
    """allow < transform < approve < deny, and permission is an intersection (DESIGN §6b-6)."""

    def named(self, bundle: Bundle, name: str) -> JSONObject:
        return next(orjson.loads(c.document) for c in bundle.cases if c.name == name)

    def test_more_findings_never_make_an_effect_milder(self, shipped: Bundle) -> None:
        engine = RegorusEngine(shipped)
        for case in shipped.cases:
            document = orjson.loads(case.document)
            more = merge_patch(document, {"resource": {"properties": {"pin": "changed"}}})
            assert isinstance(more, dict)
            assert effect_of(engine.decide(case.point, in_order(more))) is Effect.DENY, case.name

    @pytest.mark.parametrize(
        "patch",
        [
            {"subject": {"properties": {"scopes": []}}},
            {"subject": {"properties": {"tenant": "globex"}}},
            {"resource": {"properties": {"state": "suspended"}}},
            {"resource": {"properties": {"pin": "none"}}},
            {"resource": {"properties": {"tenants": []}}},
        ],
    )
    def test_each_half_of_the_permission_is_needed(self, shipped: Bundle, patch: JSONObject) -> None:
        document = merge_patch(self.named(shipped, "an ordinary call passes"), patch)
        assert isinstance(document, dict)
        assert effect_of(RegorusEngine(shipped).decide(Point.MCP_TOOL_CALL, in_order(document))) is Effect.DENY

    def test_a_grant_of_a_third_package_opens_nothing(self, shipped: Bundle) -> None:
        extra = 'package firewall.rules.generous\n\nimport rego.v1\n\ngrant contains "generous.all"\n\nfinding contains 1 if false\n'
        modules = {**shipped.modules, "firewall/rules/generous.rego": extra}
        bundle = Bundle(**{**{n: getattr(shipped, n) for n in Bundle.__dataclass_fields__}, "modules": modules})
        engine = RegorusEngine(bundle, "interpreter")
        document = merge_patch(
            self.named(shipped, "an ordinary call passes"), {"subject": {"properties": {"scopes": []}}}
        )
        assert isinstance(document, dict)
        assert effect_of(engine.decide(Point.MCP_TOOL_CALL, in_order(document))) is Effect.DENY

    @pytest.mark.parametrize(
        "finding",
        [
            '{"rule": "odd.a"}',
            '{"rule": "odd.a", "effect": "permit", "code": "c", "owasp": [], "severity": 1, "obligations": []}',
            '{"effect": "allow"}',
            '"text"',
            "1",
            "{}",
        ],
    )
    def test_a_malformed_finding_is_a_deny(self, shipped: Bundle, finding: str) -> None:
        extra = f"package firewall.rules.odd\n\nimport rego.v1\n\nfinding contains {finding}\n"
        modules = {**shipped.modules, "firewall/rules/odd.rego": extra}
        bundle = Bundle(**{**{n: getattr(shipped, n) for n in Bundle.__dataclass_fields__}, "modules": modules})
        engine = RegorusEngine(bundle, "interpreter")
        answer = _answer(engine, Point.MCP_TOOL_CALL, in_order(self.named(shipped, "an ordinary call passes")))
        assert selftest._ask(lambda _: answer if answer is not None else b"", b"").effect is Effect.DENY


def test_the_same_bytes_are_decided_the_same_twice(shipped: Bundle) -> None:
    one, two = RegorusEngine(shipped), RegorusEngine(shipped)
    for case in shipped.cases:
        assert same_document(one.decide(case.point, case.document), two.decide(case.point, case.document))
