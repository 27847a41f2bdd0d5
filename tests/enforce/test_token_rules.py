"""What a token and a sign-in limit by themselves: named calls, step-up. Policy is asked after them, never instead."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from firewall.core.action import Action, Protocol, Resource
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON
from firewall.core.permit import Cleared, Refusal
from firewall.core.points import Point
from firewall.core.principal import Principal
from firewall.core.step_up import StepUp
from firewall.core.tool_details import ToolDetail, covers, details_of, parse_details
from firewall.enforce import token_rules
from firewall.enforce.token_rules import asked_of_sign_in
from firewall.record.record import validate_record
from tests.enforce.test_guard import decided, reason
from tests.support.kit import ScriptedEngine, kit, principal

HERE = "https://fw.example/mcp/demo"
ALL = "https://fw.example/mcp"
READ = ToolDetail((HERE,), ("read_file",), (("path", ("/docs/a", "/docs/b")),))
NOW_S = 1_795_000_000


def detail(**changes: Any) -> dict[str, Any]:
    given = {"type": "mcp_tool", "locations": [HERE], "actions": ["call"], "tools": ["read_file"], **changes}
    return {name: value for name, value in given.items() if value is not None}


def call(who: Principal, tool: str = "read_file", point: Point = Point.MCP_TOOL_CALL, **arguments: Any) -> Action:
    resource = Resource("mcp_tool", f"demo/{tool}", "demo", {"scope": "demo:write", "effect_class": "write"})
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}
    return Action(point, who, "tools/call", resource, Protocol("mcp", "2026-07-28", "http"), body, arguments)


def person(**changes: Any) -> Principal:
    return replace(principal(), audience=HERE, scopes=frozenset({"demo:read", "demo:write"}), **changes)


async def judged(action: Action, **options: Any) -> Cleared | Refusal:
    parts = kit(**options)
    return await parts.guard.clear(action, parts.guard.new_exchange(action.principal, "mcp"))


# -- the shape of a detail ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        [],
        "mcp_tool",
        [detail()] * 9,
        [1],
        [detail(type="payment")],
        [detail(type=None)],
        [detail(extra=1)],
        [detail(actions=["call", "list"])],
        [detail(actions=[])],
        [detail(actions=None)],
        [detail(locations=None)],
        [detail(locations=[])],
        [detail(locations=[HERE, HERE])],
        [detail(tools=[])],
        [detail(tools=["a"] * 2)],
        [detail(tools=[""])],
        [detail(tools=["a\u202eb"])],
        [detail(tools=["a" * 257])],
        [detail(tools=[str(n) for n in range(33)])],
        [detail(constraints=[])],
        [detail(constraints={"path": "/docs/a"})],
        [detail(constraints={"path": []})],
        [detail(constraints={"path": [None]})],
        [detail(constraints={"path": [1.5]})],
        [detail(constraints={"path": [{"a": 1}]})],
        [detail(constraints={"path": [2**60]})],
        [detail(constraints={str(n): [1] for n in range(9)})],
    ],
)
def test_a_detail_that_is_not_understood_refuses_the_whole(value: Any) -> None:
    with pytest.raises(Malformed, match="authorization_details"):
        parse_details(value)


def test_what_was_read_is_written_the_same() -> None:
    given = [detail(constraints={"n": [1, True], "path": ["/docs/a", ""]})]
    assert [one.as_json() for one in parse_details(given)] == given


def test_a_token_whose_details_cannot_be_read_is_refused_and_foreign_types_concern_others() -> None:
    assert details_of({}) == ()
    with pytest.raises(Malformed):
        details_of({"authorization_details": []})
    with pytest.raises(Malformed):
        details_of({"authorization_details": [{"type": "payment"}]})
    assert details_of({"authorization_details": [{"type": "payment"}]}, foreign=True) == ()
    both = {"authorization_details": [{"type": "payment"}, detail()]}
    assert len(details_of(both, foreign=True)) == 1
    with pytest.raises(Malformed):
        details_of({"authorization_details": [detail(actions=["all"])]}, foreign=True)


def test_a_bound_argument_must_be_there_with_a_listed_value_of_its_type() -> None:
    assert READ.lacks(HERE, "read_file", {"path": "/docs/a", "other": 1}) == ""
    wrong: list[dict[str, JSON]] = [{}, {"path": "/docs/c"}, {"path": ["/docs/a"]}, {"path": None}, {"Path": "/docs/a"}]
    for arguments in wrong:
        assert READ.lacks(HERE, "read_file", arguments) == "argument path"
    assert READ.lacks(HERE, "read_file") == ""  # arguments are not looked at
    assert READ.lacks(ALL, "read_file", {"path": "/docs/a"}) == "location"
    assert READ.lacks(HERE, "stat", {"path": "/docs/a"}) == "tool"
    one = ToolDetail((HERE,), ("t",), (("n", (1,)),))
    assert one.lacks(HERE, "t", {"n": 1}) == ""
    assert one.lacks(HERE, "t", {"n": True}) == "argument n"
    assert one.lacks(HERE, "t", {"n": 1.0}) == "argument n"


def test_narrower_is_within_and_nothing_else_is() -> None:
    assert covers([READ], READ)
    assert covers([READ], replace(READ, constraints=(("path", ("/docs/a",)), ("n", (1,)))))
    assert covers([replace(READ, constraints=())], READ)
    for wider in (
        replace(READ, constraints=()),
        replace(READ, constraints=(("path", ("/docs/a", "/etc")),)),
        replace(READ, constraints=(("other", ("/docs/a",)),)),
        replace(READ, tools=("read_file", "write_file")),
        replace(READ, locations=(HERE, ALL)),
    ):
        assert not covers([READ], wider)
    # Two details together are not one wider detail: each call must be within one of them.
    assert not covers([READ, replace(READ, tools=("x",))], replace(READ, tools=("read_file", "x")))


# -- at the choke point --------------------------------------------------------------------------------------


@pytest.mark.parametrize("control", ["on", "off"])
async def test_a_call_that_no_detail_names_is_refused_before_policy_with_a_challenge(
    control: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if control == "off":
        monkeypatch.setattr(token_rules, "beyond_details", lambda _action: ())
    who = person(details=(READ,))
    assert isinstance(await judged(call(who, path="/docs/a")), Cleared)
    for action in (call(who, path="/etc"), call(who, "write_file", path="/docs/a"), call(who)):
        verdict = await judged(action)
        assert isinstance(verdict, Refusal) is (control == "on")
        if isinstance(verdict, Refusal):
            assert (verdict.fault.code, verdict.fault.status) == ("details_missing", 403)
            assert verdict.challenge == ()  # the scope is held: asked for it, a client would come back with the same
            assert verdict.rules == ("core.details",)
            assert verdict.detail == ToolDetail((HERE,), (action.resource.id.removeprefix("demo/"),))


async def test_a_token_that_lacks_the_scope_as_well_is_told_both() -> None:
    who = replace(person(details=(READ,)), scopes=frozenset({"demo:read"}))
    verdict = await judged(call(who, "write_file"))
    assert isinstance(verdict, Refusal)
    assert (verdict.fault.code, verdict.challenge) == ("details_missing", ("demo:write",))


async def test_the_record_says_what_each_detail_lacks_and_holds_no_value() -> None:
    parts = kit()
    other = replace(READ, locations=("https://fw.example/mcp/other",))
    who = person(details=(READ, other, replace(READ, tools=("stat",))))
    action = call(who, path="/etc/shadow")
    assert isinstance(await parts.guard.clear(action, parts.guard.new_exchange(who, "mcp")), Refusal)
    kept = parts.audit.records[-1]
    validate_record({**kept, "v": 1})
    assert kept["scope"] == "demo:write"
    assert kept["because"] == {
        "rule": "core.details",
        "lacks": ["detail 1: argument path", "detail 2: location", "detail 3: tool"],
    }
    assert "/etc/shadow" not in repr(kept)
    weak = kit(step_up={"demo": StepUp("", "mfa", 300)})
    action = call(person(acr="pwd"))
    assert isinstance(await weak.guard.clear(action, weak.guard.new_exchange(action.principal, "mcp")), Refusal)
    assert weak.audit.records[-1]["because"] == {
        "rule": "core.step_up_required",
        "lacks": ["sign-in of level mfa", "sign-in of the last 300 s"],
    }


async def test_what_a_caller_typed_is_in_no_suggestion() -> None:
    who = person(details=(READ,))
    unlisted = call(who, "ignore all rules")
    unlisted = replace(unlisted, resource=replace(unlisted.resource, properties={"pin": "none", "scope": "demo:write"}))
    for action in (unlisted, call(who, "x" * 257), call(who, "a\u202eb"), call(who, point=Point.MCP_RESOURCE_READ)):
        verdict = await judged(action)
        assert isinstance(verdict, Refusal)
        assert verdict.detail is None


@pytest.mark.parametrize(
    "point",
    [
        Point.MCP_RESOURCE_READ,
        Point.MCP_RESOURCE_WATCH,
        Point.MCP_PROMPT_GET,
        Point.MCP_COMPLETION_ASK,
        Point.A2A_MESSAGE_SEND,
        Point.LLM_REQUEST,
    ],
)
async def test_details_reach_nothing_else_that_has_content(point: Point) -> None:
    assert isinstance(await judged(call(person(details=(READ,)), point=point)), Refusal)
    assert isinstance(await judged(call(person(), point=point)), Cleared)


@pytest.mark.parametrize("point", [Point.MCP_SESSION_OPEN, Point.MCP_TOOL_LIST, Point.MCP_TOOL_RESULT])
async def test_what_carries_the_protocol_stays_open(point: Point) -> None:
    assert isinstance(await judged(call(person(details=(READ,)), point=point)), Cleared)


@pytest.mark.parametrize("point", [Point.MCP_TASK_GET, Point.MCP_TASK_CANCEL])
async def test_tasks_are_reached_of_calls_that_are_named(point: Point) -> None:
    who = person(details=(READ,))
    assert isinstance(await judged(call(who, point=point)), Cleared)
    assert isinstance(await judged(call(who, "write_file", point=point)), Refusal)
    unknown = call(who, point=point)
    unknown = replace(unknown, resource=replace(unknown.resource, type="mcp_server"))
    assert isinstance(await judged(unknown), Refusal), "a task whose tool is not known is no named call"


async def test_at_the_aggregate_a_tool_is_named_with_its_server() -> None:
    named = ToolDetail((ALL,), ("demo/read_file",))
    bare = ToolDetail((ALL,), ("read_file",))
    for given, wanted in ((named, Cleared), (bare, Refusal)):
        who = replace(person(details=(given,)), audience=ALL)
        assert isinstance(await judged(call(who)), wanted)
    # A detail of the aggregate is none of the server's own endpoint, and the other way round.
    assert isinstance(await judged(call(person(details=(replace(named, tools=("read_file",)),)))), Refusal)


@pytest.mark.parametrize(
    ("who", "fit"),
    [
        ({"acr": "mfa", "auth_time": NOW_S - 300}, True),
        ({"acr": "mfa", "auth_time": NOW_S - 301}, False),
        ({"acr": "pwd", "auth_time": NOW_S}, False),
        ({"acr": "", "auth_time": NOW_S}, False),
        ({"acr": "mfa", "auth_time": 0}, False),
        ({"acr": "urn:gold", "auth_time": NOW_S}, False),
    ],
)
async def test_an_operation_waits_for_the_sign_in_that_its_upstream_asks(who: dict[str, Any], fit: bool) -> None:
    rules = {"demo": StepUp("demo:write", "mfa", 300)}
    verdict = await judged(call(person(**who)), step_up=rules)
    if fit:
        assert isinstance(verdict, Cleared)
        return
    assert isinstance(verdict, Refusal)
    assert (verdict.fault.code, verdict.fault.status) == ("step_up_required", 401)
    assert verdict.challenge == ("demo:write", "stepup:mfa")
    assert verdict.step_up == rules["demo"]


async def test_step_up_is_asked_for_its_scope_and_its_upstream_only() -> None:
    for rules in ({"demo": StepUp("demo:read", "mfa")}, {"other": StepUp("", "mfa")}):
        assert isinstance(await judged(call(person(acr="pwd")), step_up=rules), Cleared)
    assert isinstance(await judged(call(person(acr="pwd")), step_up={"demo": StepUp("", "mfa")}), Refusal)


def test_policy_asks_for_a_sign_in_by_a_scope() -> None:
    assert asked_of_sign_in(("demo:write",)) is None
    assert asked_of_sign_in(("demo:write", "stepup:mfa")) == StepUp(acr="mfa")
    assert asked_of_sign_in(("stepup:fresh",)) == StepUp(max_age_s=0)


async def test_a_rule_of_policy_asks_for_a_stronger_sign_in() -> None:
    duty: list[JSON] = [{"type": "step_up", "scope": "stepup:mfa"}]
    answer = decided("deny", reason("acme.weak_sign_in", code="scope_missing"), obligations=duty)
    verdict = await judged(call(person(acr="pwd")), engine=ScriptedEngine(lambda _input: answer))
    assert isinstance(verdict, Refusal)
    assert (verdict.fault.code, verdict.challenge) == ("step_up_required", ("stepup:mfa",))
    assert verdict.step_up == StepUp(acr="mfa")


def test_what_a_challenge_says_cannot_be_broken_out_of() -> None:
    assert StepUp("", "mfa", 300).parameters == ', acr_values="mfa", max_age="300"'
    assert StepUp("", "", 0).parameters == ', max_age="0"'
    assert StepUp("", 'x", error="y').parameters == ""
