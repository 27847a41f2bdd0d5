"""What is remembered of policy answers, and what never is."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest

from firewall.core.action import Action, Protocol, Resource
from firewall.core.exchange import Exchange
from firewall.core.finding import Finding
from firewall.core.label import Label
from firewall.core.points import Point
from firewall.core.policy_input import PolicyInput
from firewall.core.principal import Actor
from firewall.decide import bundle as bundles
from firewall.decide.memo import ANSWERS, ARGUMENTS_BYTES, ENTRIES, Memo, is_blind, is_steady
from firewall.decide.program import Strict
from firewall.decide.question import ask
from firewall.decide.regorus import RegorusEngine
from tests.support.kit import call, principal, result


@pytest.mark.parametrize(
    "source",
    [
        "allow if input.context.time_us > 5",
        'allow if input.context.request_id == "x"',
        "allow if some k, v in input.context",
        'allow if object.get(input.context, "time_us", 0) > 1',
        "allow if input.context[k] == 1",
        "allow if walk(input)",
        "import input.context as facts",
        "allow if input[k]",
    ],
)
def test_a_rule_that_could_see_time_or_id_is_not_steady(source: str) -> None:
    assert not is_steady(["package a\n\nx if input.point", source])


def test_named_members_of_the_context_are_steady() -> None:
    assert is_steady(['a if "secret" in input.context.labels', "b if count(input.context.findings) == 0"])


@pytest.mark.parametrize(
    "source",
    [
        "allow if input.action.properties.arguments.path",
        "allow if some k, v in input.action.properties.arguments",
        "allow if is_object(input.action.properties.arguments.x)",
        "allow if object.get(input.action, [], 0)",
        "allow if input.action.properties[k]",
        "allow if walk(input)",
        "import input.action.properties as p",
        "allow if no_secret_in_is_object(input.action.properties.arguments)",
        "allow if lib.is_object(input.action.properties.arguments)",
        "is_object(v) if v.secret\n\nallow if is_object(input.action.properties.arguments)",
        "import data.firewall.lib.is_object\n\nallow if is_object(input.action.properties.arguments)",
        "import data.firewall.lib.own as is_object\n\nallow if is_object(input.action.properties.arguments)",
    ],
)
def test_a_rule_that_could_see_an_argument_is_not_blind(source: str) -> None:
    assert not is_blind([source])


def test_what_is_true_of_every_input_reads_no_argument() -> None:
    assert is_blind(["a if is_object(input.action.properties.arguments)", "b if input.action.properties.side_effect"])


def test_the_key_of_a_program_that_reads_arguments_is_all_but_id_and_time() -> None:
    memo = Memo(blind=False)
    assert memo.key(_ask(call({"x": 1}), "x_1")) == memo.key(_ask(call({"x": 1}), "x_2")) != b""
    assert memo.key(_ask(call({"x": 1}), "x_1")) != memo.key(_ask(call({"x": 2}), "x_1"))
    assert memo.key(_ask(call({"x": "x" * ARGUMENTS_BYTES}), "x_1")) == b""


def test_the_key_of_a_blind_program_holds_no_argument() -> None:
    memo = Memo(blind=True)
    assert memo.key(_ask(call({"x": 1}), "x_1")) == memo.key(_ask(call({"x": 2}), "x_2")) != b""


SERVER = Resource("mcp_server", "demo", "demo", {"trust": "trusted"})
SECRET = Finding("SCAN-04", "secret.key", "secret", 90, "/params/arguments/x", "patterns")


@pytest.mark.parametrize("blind", [True, False])
@pytest.mark.parametrize(
    "other",
    [
        {"who": principal(tenant="globex")},
        {"who": principal(subject="u_mallory")},
        {"who": principal(client_id="other")},
        {"who": principal(scopes=frozenset())},
        {"who": principal(roles=("admin",))},
        {"who": principal(acr="mfa")},
        {"who": principal(cnf="key")},
        {"who": principal(audience="http://127.0.0.1:8700/mcp/other")},
        {"who": principal(chain=(Actor("u_alice"), Actor("agent", "agent")))},
        {"point": Point.MCP_TOOL_LIST},
        {"verb": "tools/list"},
        {"side_effect": False},
        {"resource": SERVER},
        {"protocol": Protocol("mcp", "2025-11-25", "http")},
        {"protocol": Protocol("mcp", "2026-07-28", "stdio")},
        {"label": Label(1)},
        {"revision": "r2"},
        {"findings": (SECRET,)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_whatever_else_a_rule_can_see_changes_the_key(other: dict[str, Any], blind: bool) -> None:
    """Twice each, so that neither of two questions is answered with the frame that was kept of the other."""
    memo, one = Memo(blind=blind), call({"x": 1})
    asked = {name: other[name] for name in ("findings", "label", "revision") if name in other}
    changed = {name: what for name, what in other.items() if name not in asked}
    if "who" in changed:
        changed["principal"] = changed.pop("who")
    two = dataclasses.replace(one, **changed)
    for _ in range(2):
        assert memo.key(_ask(one, "x_1")) != memo.key(_ask(two, "x_1", **asked))
        assert _ask(one, "x_1").json != _ask(two, "x_1", **asked).json


def test_an_argument_that_looks_like_the_frame_hides_nothing() -> None:
    sly = call({"x": '},"action":{"name":"tools/call","properties":{"side_effect":true,"arguments":{}}}'})
    memo = Memo(blind=True)
    assert memo.key(_ask(sly, "x_1")) != memo.key(_ask(sly, "x_1", label=Label(1)))
    assert orjson.loads(_ask(sly, "x_1").json)["action"]["properties"]["arguments"] == sly.arguments


def test_a_document_from_elsewhere_is_evaluated_each_time() -> None:
    engine, machine = _engine(Point.MCP_TOOL_CALL)
    for _ in range(2):
        engine.decide(Point.MCP_TOOL_CALL, _ask(call({"text": "t"}), "x_1").json)
    assert machine.asked == 2


def test_memory_is_bounded() -> None:
    memo = Memo(blind=True)
    for n in range(3 * ENTRIES):
        memo.put(str(n).encode(), b"{}")
    assert len(memo.young) + len(memo._old) <= 2 * ENTRIES
    for n in range(3 * ANSWERS):
        memo.put(b"one", str(n).encode())
    assert len(memo._answers) <= ANSWERS


def test_what_is_asked_for_again_outlives_what_is_not() -> None:
    memo = Memo(blind=True)
    memo.put(b"often", b"[1]")
    memo.put(b"once", b"[2]")
    for n in range(2 * ENTRIES):
        memo.put(str(n).encode(), b"{}")
        assert memo.get(b"often") == b"[1]"
    assert memo.get(b"once") is None


class _Counted:
    """A machine that counts how often it is asked."""

    def __init__(self, machine: object) -> None:
        self.machine, self.asked = machine, 0

    def decide(self, document: bytes) -> bytes:
        self.asked += 1
        return self.machine.decide(document)  # type: ignore[attr-defined,no-any-return]


def _engine(point: Point) -> tuple[RegorusEngine, _Counted]:
    engine = RegorusEngine(bundles.load(), "compiled")
    counted = _Counted(engine._machines[point])
    engine._machines[point] = counted  # type: ignore[assignment]
    return engine, counted


def _ask(asked: Action, exchange: str, findings: tuple[Finding, ...] = (), **more: Any) -> PolicyInput:
    opened = Exchange(exchange, asked.principal, "mcp", 0)
    given = {"label": Label(0), "revision": "r", **more}
    return ask(asked, findings, exchange=opened, now_us=hash(exchange) % 1000, **given)


def _answer(engine: RegorusEngine, point: Point, asked: PolicyInput) -> Any:
    return orjson.loads(engine.decide(point, asked))


def test_the_same_callers_next_call_needs_no_evaluation_whatever_its_arguments() -> None:
    engine, machine = _engine(Point.MCP_TOOL_CALL)
    for n in range(5):
        answer = _answer(engine, Point.MCP_TOOL_CALL, _ask(call({"text": f"t{n}"}), f"x_{n}"))
        assert answer["effect"] == "allow"
    assert machine.asked == 1
    path = Finding("POL-02", "path.protected", "normal_form", 50, "/params/arguments/path", "patterns")
    answer = _answer(engine, Point.MCP_TOOL_CALL, _ask(call({"path": "/etc/shadow"}), "x_9", (path,)))
    assert (answer["effect"], machine.asked) == ("deny", 2)
    other = principal(subject="mallory", scopes=frozenset())
    answer = _answer(engine, Point.MCP_TOOL_CALL, _ask(call({"text": "t0"}, who=other), "x_1"))
    assert (answer["effect"], machine.asked) == ("deny", 3)


def test_where_the_lists_of_paths_are_the_operators_own_rules_read_every_call(tmp_path: Path) -> None:
    copy = tmp_path / "policies"
    shutil.copytree(bundles.default_path(), copy)
    data = copy / "config" / "data.yaml"
    data.write_text(data.read_text().replace("protected_prefixes: [/proc/", "protected_prefixes: [/vault/, /proc/"))
    bundle = bundles.read(copy)
    assert bundle.data["config"]["paths_inspected"] is False  # type: ignore[index,call-overload]
    assert not is_blind(bundle.specialised(Point.MCP_TOOL_CALL).values())
    strict = Strict(bundle.modules, bundle.data_json)
    answer = orjson.loads(strict.decide(Point.MCP_TOOL_CALL, _ask(call({"path": "/vault/x"}), "x_1").json))
    assert answer["effect"] == "deny"
    shipped = bundles.load()
    assert shipped.data["config"]["paths_inspected"] is True  # type: ignore[index,call-overload]
    assert is_blind(shipped.specialised(Point.MCP_TOOL_CALL).values())


def test_a_result_is_evaluated_once_and_a_changed_fact_again() -> None:
    engine, machine = _engine(Point.MCP_TOOL_RESULT)
    first = _answer(engine, Point.MCP_TOOL_RESULT, _ask(result("one"), "x_1"))
    assert _answer(engine, Point.MCP_TOOL_RESULT, _ask(result("two"), "x_2")) == first
    assert machine.asked == 1
    facts = result("two").resource
    suspended = Resource(facts.type, facts.id, facts.upstream, {**facts.properties, "state": "suspended"})
    changed = dataclasses.replace(result("two"), resource=suspended)
    assert _answer(engine, Point.MCP_TOOL_RESULT, _ask(changed, "x_3")) != first
    assert machine.asked == 2
