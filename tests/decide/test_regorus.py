"""The embedded engine: the same answers in both modes, and no answer but a decision."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import orjson
import pytest

from firewall.core.errors import PolicyFault
from firewall.core.jsonvalue import JSON
from firewall.core.label import label_of
from firewall.core.points import Point
from firewall.decide.bundle import Bundle
from firewall.decide.contract import parse_decision
from firewall.decide.program import Compiled, Strict, compile_program
from firewall.decide.regorus import Mode, RegorusEngine
from firewall.decide.sampler import same_document
from tests.decide.samples import ALICE, call, encoded, found, tool

CALL = Point.MCP_TOOL_CALL


@pytest.fixture(params=["compiled", "interpreter"])
def engine(request: pytest.FixtureRequest, shipped: Bundle) -> RegorusEngine:
    return RegorusEngine(shipped, request.param)


def reading_paths(bundle: Bundle) -> Bundle:
    """Return a bundle whose rules read the paths in arguments themselves."""
    config = {**cast("dict[str, JSON]", bundle.data["config"]), "paths_inspected": False}
    data = {**bundle.data, "config": config}
    changed = replace(bundle, data=data, data_json=orjson.dumps(data).decode())
    program = compile_program(changed.specialised(CALL), changed.data_json)
    return replace(changed, programs={**bundle.programs, CALL: program})


def effect(engine: RegorusEngine, document: bytes, point: Point = CALL) -> str:
    answer = engine.decide(point, document)
    parse_decision(answer, revision="", engine="")
    return str(orjson.loads(answer)["effect"])


def test_what_the_encoder_makes_is_decided(engine: RegorusEngine) -> None:
    assert effect(engine, encoded(call())) == "allow"
    assert effect(engine, encoded(call(resource=tool(pin="changed")))) == "deny"
    assert effect(engine, encoded(call(), [found("secret")])) == "deny"
    assert effect(engine, encoded(call(resource=tool(effect_class="exec", scope="git:write")))) == "approve"
    sending = call(resource=tool(effect_class="send", scope="git:write"))
    assert effect(engine, encoded(sending, label=label_of(["secret"]))) == "deny"
    assert effect(engine, encoded(call(who=replace(ALICE, tenant="globex")))) == "deny"


def test_the_engine_says_what_it_is(shipped: Bundle) -> None:
    assert RegorusEngine(shipped).name.startswith("regorus-rvm/")
    interpreter = RegorusEngine(shipped, "interpreter")
    assert interpreter.name.startswith("regorus/")
    assert interpreter.mode == "interpreter"
    assert interpreter.revision == shipped.revision


def test_every_case_has_the_same_answer_in_both_modes(shipped: Bundle) -> None:
    compiled, strict = RegorusEngine(shipped, "compiled"), RegorusEngine(shipped, "interpreter")
    for case in shipped.cases:
        one, two = compiled.decide(case.point, case.document), strict.decide(case.point, case.document)
        assert same_document(one, two), case.name
    assert compiled.fallbacks == 0


class TestFailClosed:
    """The table of policy reference §10.5, as far as it is the engine's."""

    @pytest.mark.parametrize(
        "document",
        [
            b"",
            b"{}",
            b"null",
            b"[]",
            b'{"contract":"1","point":"mcp.tool.list","subject":{}}',
            b'{"contract":"2","point":"mcp.tool.call","subject":{}}',
            b'{"point":"mcp.tool.call","contract":"1"}',
            b'{"contract":"1","point":"mcp.tool.call",',
            b'{"contract":"1","point":"mcp.tool.call",\xff}',
            b'{"contract":"1","point":"mcp.tool.call","x":"\\ud800"}',
            b'{"contract":"1","point":"mcp.tool.call","x":NaN}',
            b'{"contract":"1","point":"mcp.tool.call","x":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        ],
    )
    def test_an_input_that_is_none_is_an_engine_error(self, engine: RegorusEngine, document: bytes) -> None:
        with pytest.raises(PolicyFault) as caught:
            engine.decide(CALL, document)
        assert caught.value.code == "engine_error"
        assert effect(engine, encoded(call())) == "allow", "the engine must survive it"

    def test_an_input_of_another_point_never_reaches_a_folded_program(self, engine: RegorusEngine) -> None:
        with pytest.raises(PolicyFault, match="engine_error"):
            engine.decide(Point.MCP_PONG, encoded(call()))

    def test_an_almost_empty_input_is_denied(self, engine: RegorusEngine) -> None:
        assert effect(engine, b'{"contract":"1","point":"mcp.tool.call","x":1}') == "deny"

    def test_an_undefined_decision_is_an_engine_error(self, shipped: Bundle) -> None:
        modules = {"firewall/main.rego": 'package firewall\n\ndecision := 1 if input.subject.id == "x"\n'}
        with pytest.raises(PolicyFault, match="engine_error"):
            Strict(modules, "{}").decide(CALL, encoded(call()))
        with pytest.raises(PolicyFault, match="engine_error"):
            Compiled(CALL, compile_program(modules, "{}"), "{}").decide(encoded(call()))

    def test_a_builtin_error_is_an_engine_error_on_the_interpreter_and_not_when_compiled(self) -> None:
        """Why the profile and the self-test exist (policy reference, correction 1)."""
        modules = {
            "firewall/main.rego": 'package firewall\n\nimport rego.v1\n\ndefault decision := "allow"\n\n'
            'decision := "deny" if startswith(input.action.properties.arguments.path, "/etc")\n'
        }
        document = encoded(call({"path": ["/etc/shadow"]}))
        with pytest.raises(PolicyFault, match="engine_error"):
            Strict(modules, "{}").decide(CALL, document)
        assert Compiled(CALL, compile_program(modules, "{}"), "{}").decide(document) == b'"allow"'

    def test_a_damaged_program_is_refused(self, shipped: Bundle) -> None:
        program = shipped.programs[CALL]
        for damaged in (b"", program[:20], b"\0" * 64):
            with pytest.raises(PolicyFault, match="policy_unavailable"):
                Compiled(CALL, damaged, shipped.data_json)

    def test_another_thread_may_not_use_it(self, engine: RegorusEngine) -> None:
        seen: list[str] = []

        def use() -> None:
            try:
                engine.decide(CALL, encoded(call()))
            except PolicyFault as fault:
                seen.append(fault.code)

        gc.collect()
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        assert seen == ["engine_error"]

    def test_engines_of_several_threads_decide_side_by_side(self, shipped: Bundle) -> None:
        results: list[str] = []

        def use() -> None:
            mine = RegorusEngine(shipped)
            results.extend(effect(mine, encoded(call())) for _ in range(50))

        gc.collect()  # engines of earlier tests must not be found by another thread's collector
        threads = [threading.Thread(target=use) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == ["allow"] * 400

    def test_a_bundle_that_may_not_run_compiled_cannot_be_forced(self, shipped: Bundle) -> None:
        with pytest.raises(PolicyFault, match="policy_unavailable"):
            RegorusEngine(replace(shipped, mode="interpreter", programs={}), "compiled")

    def test_a_machine_that_gives_up_is_answered_by_the_interpreter(self, shipped: Bundle) -> None:
        """200 findings pass the machine's limit of instructions (DESIGN §6 Policy)."""
        engine = RegorusEngine(shipped, "compiled")
        result = replace(call(), point=Point.MCP_TOOL_RESULT, arguments={"is_error": False, "structured": False})
        document = encoded(result, [found("secret", 90, f"/result/content/{n}/text") for n in range(200)])
        answer = engine.decide(Point.MCP_TOOL_RESULT, document)
        decision = parse_decision(answer, revision="", engine="")
        assert [o.type for o in decision.obligations].count("redact") == 200
        assert engine.fallbacks == 1
        assert engine.mode == "compiled"


class TestHostileInput:
    """H1–H13: values that crash, wrap or cut in some engine (policy reference §2)."""

    @pytest.mark.parametrize(
        "arguments",
        [
            {"path": "/etc/shadow\x00.txt"},
            {"path": "/etc/shadow\u2028"},
            {"n": 2**53 - 1, "m": -(2**53) + 1, "f": 1e308},
            {"": "", "\x00": "\x00"},
            {"a" * 1000: "b" * 60_000},
            {"__proto__": {"x": 1}, "constructor": None},
            {"<undefined>": "<undefined>"},
            {"path": "\\\\?\\C:\\Users\\a\\.ssh\\id"},
        ],
    )
    def test_both_modes_agree_and_live(self, shipped: Bundle, arguments: dict[str, object]) -> None:
        document = encoded(call(arguments))  # type: ignore[arg-type]
        compiled, strict = RegorusEngine(shipped, "compiled"), RegorusEngine(shipped, "interpreter")
        assert same_document(compiled.decide(CALL, document), strict.decide(CALL, document))

    @pytest.mark.parametrize("mode", ["compiled", "interpreter"])
    def test_a_nul_does_not_cut_a_path(self, shipped: Bundle, mode: Mode) -> None:
        engine = RegorusEngine(reading_paths(shipped), mode)
        assert effect(engine, encoded(call({"path": "/etc/shadow\x00.txt"}))) == "deny"
        assert effect(engine, encoded(call({"path": "\x00/etc/shadow"}))) == "allow", (
            "a twin: the rule is about the beginning"
        )


H15 = {
    "not f(input.missing)": "not startswith_(input.subject.missing)",
    "not input.missing in {…}": 'not input.subject.missing in {"a"}',
    "not x in input.missing": 'not "a" in input.subject.missing',
    "not input.missing <= 5": "not input.subject.missing <= 5",
    "not glob.match(…)": 'not glob.match("a", [], input.subject.missing)',
}


@pytest.mark.parametrize("expression", list(H15.values()), ids=list(H15))
@pytest.mark.parametrize("mode", ["compiled", "interpreter"])
def test_a_negation_over_a_missing_field_holds(mode: str, expression: str) -> None:
    """H15: the rule fires although the field is missing; OPA is asked the same in tests/policies."""
    modules = {"firewall/main.rego": h15_module(expression)}
    ask: Callable[[bytes], bytes]
    if mode == "compiled":
        ask = Compiled(CALL, compile_program(modules, "{}"), "{}").decide
    else:
        strict = Strict(modules, "{}")
        ask = lambda text: strict.decide(CALL, text)  # noqa: E731
    assert ask(encoded(call())) == b'"deny"'


def h15_module(expression: str) -> str:
    """Return a module whose decision is deny if the expression holds."""
    return (
        "package firewall\n\nimport future.keywords.not\nimport rego.v1\n\n"
        'default decision := "allow"\n\n'
        f'decision := "deny" if {expression}\n\n'
        'startswith_(x) if {\n\tis_string(x)\n\tstartswith(x, "a")\n}\n'
    )
