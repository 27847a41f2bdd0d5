"""The contract: what is encoded is exactly what is, or nothing; an answer is believed only if it is one."""

from __future__ import annotations

import dataclasses
from typing import Any

import jsonschema_rs
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firewall.core import bounds
from firewall.core.action import Action, Resource
from firewall.core.decision import OBLIGATIONS, Effect
from firewall.core.errors import PolicyFault
from firewall.core.label import label_of
from firewall.core.points import Point
from firewall.decide import bundle, contract, question
from firewall.decide.contract import parse_decision
from tests.decide.samples import ALICE, call, encoded, found, tool


def refused(action: Action) -> str:
    with pytest.raises(PolicyFault) as caught:
        encoded(action)
    assert caught.value.code == "input_invalid"
    return caught.value.detail


def listing(names: list[str], found_at: str) -> dict[str, Any]:
    body: Any = {"result": {"tools": [{"name": n, "description": "x"} for n in names]}}
    base = call()
    action = dataclasses.replace(
        base,
        point=Point.MCP_TOOL_LISTED,
        body=body,
        arguments={"items": [{"id": n} for n in names]},
        items_at=("result", "tools"),
    )
    document = orjson.loads(encoded(action, [found("injection", 80, found_at)]))
    return document["context"]["findings"][0]  # type: ignore[no-any-return]


class TestInput:
    def test_the_document_fits_the_published_schema(self) -> None:
        schema = orjson.loads((bundle.default_path() / "schemas" / "input.json").read_bytes())
        validator = jsonschema_rs.validator_for(schema)
        document = orjson.loads(encoded(call(), [found("secret")], label=label_of(["untrusted"])))
        assert [str(e) for e in validator.iter_errors(document)] == []
        document["resource"]["properties"]["pinn"] = "approved"
        assert not validator.is_valid(document), "the schema must be closed, or it proves nothing"

    def test_the_schema_and_the_native_list_of_facts_are_the_same(self) -> None:
        schema = orjson.loads((bundle.default_path() / "schemas" / "input.json").read_bytes())
        properties = schema["properties"]["resource"]["properties"]["properties"]["properties"]
        assert properties.keys() == contract.RESOURCE_PROPERTIES.keys()
        for name, allowed in contract.RESOURCE_PROPERTIES.items():
            assert properties[name].get("enum") == (sorted(allowed) if isinstance(allowed, frozenset) else None)

    def test_contract_and_point_come_first(self) -> None:
        assert encoded(call()).startswith(b'{"contract":"1","point":"mcp.tool.call",')

    def test_arguments_are_encoded_whole(self) -> None:
        text = 'quote " backslash \\ nul \x00 line \u2028 end'
        document = orjson.loads(encoded(call({"a": text, "b": [1, 2.5, None, True]})))
        assert document["action"]["properties"]["arguments"] == {"a": text, "b": [1, 2.5, None, True]}

    def test_spans_and_value_digests_stay_out(self) -> None:
        finding = dataclasses.replace(found("secret"), value_hmac="f" * 32, span=(3, 9))
        assert b"f" * 32 not in encoded(call(), [finding])
        assert b"span" not in encoded(call(), [finding])

    def test_a_resource_is_encoded_once(self) -> None:
        resource = tool()
        first = encoded(call(resource=resource))
        kept = resource.encoded[0]
        assert encoded(call(resource=resource)) == first
        assert resource.encoded[0] is kept

    def test_two_principals_never_share_a_fragment(self) -> None:
        other = dataclasses.replace(ALICE, tenant="globex")
        assert b'"tenant":"acme"' in encoded(call())
        assert b'"tenant":"globex"' in encoded(call(who=other))
        assert b'"tenant":"acme"' in encoded(call())

    def test_the_memo_of_principals_is_bounded(self) -> None:
        for n in range(question._PRINCIPALS + 10):
            encoded(call(who=dataclasses.replace(ALICE, subject=f"s{n}")))
        assert len(question._subjects) <= question._PRINCIPALS
        assert len(question._callers) <= question._PRINCIPALS
        assert len(question._frames) <= question._FRAGMENTS

    def test_tokens_that_say_the_same_of_their_caller_share_a_frame_and_others_do_not(self) -> None:
        """Twin of `test_two_principals_never_share_a_fragment`: what no policy is told makes no difference."""
        action = call()
        again = dataclasses.replace(action, principal=dataclasses.replace(ALICE, token_id="t_2", grant_id="g_2"))
        other = dataclasses.replace(action, principal=dataclasses.replace(ALICE, roles=("admin",)))
        encoded(action)
        before = len(question._frames)
        encoded(again)
        assert len(question._frames) == before
        encoded(other)
        assert len(question._frames) == before + 1

    def test_facts_that_a_gateway_leaves_out_get_the_type_s_default(self) -> None:
        document = orjson.loads(encoded(call(resource=tool(trust=None, schema=None))))
        assert document["resource"]["properties"]["trust"] == "untrusted"
        assert document["resource"]["properties"]["schema"] == "none"

    @pytest.mark.parametrize("name", ["pinn", "Pin", "scopes", ""])
    def test_an_unknown_property_is_refused(self, name: str) -> None:
        assert "property" in refused(call(resource=Resource("mcp_tool", "git/x", "git", {name: "approved"})))

    @pytest.mark.parametrize(
        ("name", "value"), [("pin", "aproved"), ("port", "443"), ("port", True), ("tenants", "acme"), ("tenants", [1])]
    )
    def test_a_value_outside_its_list_is_refused(self, name: str, value: Any) -> None:
        assert "outside" in refused(call(resource=tool(**{name: value})))

    def test_an_unknown_resource_type_is_refused(self) -> None:
        refused(call(resource=Resource("mcp_toll", "git/x", "git", {})))

    def test_a_finding_names_the_entry_that_it_stands_in(self) -> None:
        assert listing(["a", "b"], "/result/tools/1/description")["item"] == "b"

    @pytest.mark.parametrize(
        "pointer", ["/result/tools", "/result/toolsx/1", "/result/tools/7/x", "/result/tools/x/y", "/result", ""]
    )
    def test_a_finding_outside_the_entries_names_none(self, pointer: str) -> None:
        assert listing(["a", "b"], pointer)["item"] == ""


class TestInputBounds:
    """Beyond a bound means deny; nothing is ever cut (DESIGN §6b-5)."""

    @pytest.mark.parametrize(
        ("at", "beyond"),
        [
            ({"s": "x" * bounds.POLICY_STRING_CHARS}, {"s": "x" * (bounds.POLICY_STRING_CHARS + 1)}),
            ({"s": "é" * bounds.POLICY_STRING_CHARS}, {"s": "é" * (bounds.POLICY_STRING_CHARS + 1)}),
            ({"a": [0] * bounds.POLICY_ARRAY_ITEMS}, {"a": [0] * (bounds.POLICY_ARRAY_ITEMS + 1)}),
            (
                {str(n): 0 for n in range(bounds.POLICY_OBJECT_KEYS)},
                {str(n): 0 for n in range(bounds.POLICY_OBJECT_KEYS + 1)},
            ),
            ({"n": bounds.JSON_INTEGER}, {"n": bounds.JSON_INTEGER + 1}),
            ({"k" * bounds.POLICY_STRING_CHARS: 1}, {"k" * (bounds.POLICY_STRING_CHARS + 1): 1}),
        ],
    )
    def test_a_value_at_its_bound_passes_and_beyond_is_refused(
        self, at: dict[str, Any], beyond: dict[str, Any]
    ) -> None:
        encoded(call(at))
        refused(call(beyond))

    def test_depth(self) -> None:
        def nested(levels: int) -> dict[str, Any]:
            value: Any = 0
            for _ in range(levels - 1):
                value = [value]
            return {"v": value}

        encoded(call(nested(bounds.JSON_DEPTH)))
        refused(call(nested(bounds.JSON_DEPTH + 1)))
        refused(call(nested(5000)))

    def test_the_whole_document(self) -> None:
        part = "x" * bounds.POLICY_STRING_CHARS
        encoded(call({"a": part, "b": part, "c": part}))
        refused(call({"a": part, "b": part, "c": part, "d": part}))

    def test_findings(self) -> None:
        encoded(call(), [found("pii")] * bounds.POLICY_FINDINGS)
        with pytest.raises(PolicyFault, match="input_invalid"):
            encoded(call(), [found("pii")] * (bounds.POLICY_FINDINGS + 1))

    def test_a_list_chunk(self) -> None:
        def listed(count: int) -> Action:
            return dataclasses.replace(
                call(), point=Point.MCP_TOOL_LISTED, arguments={"items": [{"id": str(n)} for n in range(count)]}
            )

        encoded(listed(bounds.LIST_CHUNK))
        refused(listed(bounds.LIST_CHUNK + 1))

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), "\ud800", 2**64, b"bytes", object()])
    def test_what_json_cannot_say_is_refused(self, value: Any) -> None:
        refused(call({"v": value}))

    def test_the_short_road_gives_the_same_bytes_as_the_walk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        usual = encoded(call({"a": ["x"] * 50}))
        monkeypatch.setattr(question, "_NO_WALK_BYTES", 0)
        assert encoded(call({"a": ["x"] * 50})) == usual

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
            lambda v: st.lists(v) | st.dictionaries(st.text(), v),
        )
    )
    def test_any_json_value_comes_through_unchanged(self, value: Any) -> None:
        try:
            document = orjson.loads(encoded(call({"v": value})))
        except PolicyFault:
            return
        assert document["action"]["properties"]["arguments"] == {"v": value}


REASON = {"rule": "tools.pin_changed", "effect": "deny", "code": "quarantined", "owasp": ["ASI04"], "severity": 90}
DENY = {
    "contract": "1",
    "decision": False,
    "effect": "deny",
    "risk": 90,
    "reasons": [REASON],
    "obligations": [],
    "shadow": [],
    "lifted": [],
}
CLEAN_REASON = {**REASON, "effect": "transform"}
TRANSFORM = {
    **DENY,
    "decision": True,
    "effect": "transform",
    "reasons": [CLEAN_REASON],
    "obligations": [{"type": "redact", "pointer": "/a"}],
}
ALLOW = {**DENY, "decision": True, "effect": "allow", "reasons": [], "risk": 0}


def parsed(document: Any) -> Any:
    raw = document if isinstance(document, bytes) else orjson.dumps(document)
    return parse_decision(raw, revision="r", engine="e")


class TestDecision:
    def test_a_deny_is_read(self) -> None:
        decision = parsed(DENY)
        assert decision.effect is Effect.DENY
        assert decision.reasons[0].rule == "tools.pin_changed"
        assert not decision.permits

    def test_an_allow_and_a_transform_are_read(self) -> None:
        assert parsed(ALLOW).permits
        assert parsed(TRANSFORM).obligations[0].params == {"pointer": "/a"}

    def test_a_single_missing_scope_can_be_cured(self) -> None:
        reason = {**REASON, "rule": "identity.scope_missing", "code": "scope_missing"}
        step_up = [{"type": "step_up", "scope": "git:read"}]
        assert parsed({**DENY, "reasons": [reason], "obligations": step_up}).step_up_scopes == ("git:read",)
        assert parsed({**DENY, "reasons": [reason, REASON], "obligations": step_up}).step_up_scopes == ()

    @pytest.mark.parametrize(
        "broken",
        [
            b"",
            b"null",
            b'"<undefined>"',
            b"[]",
            b"{}",
            b"{",
            b"\xff",
            b" " * (contract.DECISION_BYTES + 1),
            {**DENY, "contract": "2"},
            {**DENY, "contract": 1},
            {**DENY, "effect": "permit"},
            {**DENY, "effect": None},
            {**DENY, "effect": ["deny"]},
            {**DENY, "decision": True},
            {**ALLOW, "decision": False},
            {**ALLOW, "decision": 1},
            {**ALLOW, "decision": "true"},
            {k: v for k, v in ALLOW.items() if k != "decision"},
            {**ALLOW, "extra": 1},
            {**ALLOW, "risk": -1},
            {**ALLOW, "risk": 101},
            {**ALLOW, "risk": True},
            {**ALLOW, "risk": 1.5},
            {**ALLOW, "reasons": None},
            {**ALLOW, "reasons": {}},
            {**ALLOW, "reasons": [REASON]},
            {**DENY, "reasons": []},
            {**DENY, "reasons": [{**REASON, "effect": "allow"}]},
            {**DENY, "reasons": [{**REASON, "effect": "quarantine"}]},
            {**DENY, "reasons": [{**REASON, "code": "engine_error"}]},
            {**DENY, "reasons": [{**REASON, "code": "Not Lower"}]},
            {**DENY, "reasons": [{**REASON, "rule": "<script>"}]},
            {**DENY, "reasons": [{**REASON, "severity": "90"}]},
            {**DENY, "reasons": [{**REASON, "owasp": "ASI04"}]},
            {**DENY, "reasons": [{**REASON, "note": 1}]},
            {**DENY, "reasons": [REASON] * (contract.DECISION_ITEMS + 1)},
            {**TRANSFORM, "obligations": []},
            {**TRANSFORM, "obligations": [{"type": "taint", "label": "untrusted"}]},
            {**TRANSFORM, "obligations": [{"type": "encrypt", "pointer": "/a"}]},
            {**TRANSFORM, "obligations": [{"type": "redact"}]},
            {**TRANSFORM, "obligations": [{"type": "redact", "pointer": 1}]},
            {**TRANSFORM, "obligations": [{"type": "redact", "pointer": "a"}]},
            {**TRANSFORM, "obligations": [{"type": "redact", "pointer": "/a", "with": "x"}]},
            {**TRANSFORM, "obligations": [{"type": "drop_item", "id": ""}]},
            {**TRANSFORM, "obligations": [*TRANSFORM["obligations"], {"type": "taint", "label": "spotless"}]},  # type: ignore[misc]
            {**TRANSFORM, "obligations": [*TRANSFORM["obligations"], {"type": "step_up", "scope": "a"}]},  # type: ignore[misc]
            {**ALLOW, "obligations": [{"type": "redact", "pointer": "/a"}]},
            {**DENY, "obligations": [{"type": "step_up", "scope": 'a" b'}]},
            {**DENY, "obligations": [{"type": "step_up", "scope": "a\r\nx: y"}]},
            {**ALLOW, "shadow": [{}]},
            {**ALLOW, "lifted": "all"},
        ],
    )
    def test_anything_else_is_no_decision(self, broken: Any) -> None:
        with pytest.raises(PolicyFault) as caught:
            parsed(broken)
        assert caught.value.code == "decision_invalid"

    @pytest.mark.parametrize("code", sorted(contract.RESERVED_CODES))
    def test_reserved_codes_cannot_come_from_rego(self, code: str) -> None:
        with pytest.raises(PolicyFault, match="decision_invalid"):
            parsed({**DENY, "reasons": [{**REASON, "code": code}]})

    @given(st.binary(max_size=200))
    def test_any_bytes_are_a_decision_or_a_fault(self, answer: bytes) -> None:
        with pytest.raises(PolicyFault, match="decision_invalid"):
            parsed(answer)

    def test_every_obligation_of_the_closed_set_can_be_said(self) -> None:
        good = {"pointer": "/a", "value": "v", "id": "t", "label": "secret", "scope": "a:b", "channel": "soc"}
        for kind, names in OBLIGATIONS.items():
            document = {**DENY, "obligations": [{"type": kind, **{n: good[n] for n in names}}]}
            assert parsed(document).obligations[0].type == kind
