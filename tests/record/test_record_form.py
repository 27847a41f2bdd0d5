"""A filled form is the very record; whatever else differs is another form."""

from __future__ import annotations

import dataclasses
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firewall.core.decision import Decision, Effect, Obligation, Reason
from firewall.core.exchange import Exchange
from firewall.core.finding import Finding
from firewall.core.jsonvalue import JSONObject
from firewall.core.label import Label
from firewall.core.permit import Permit
from firewall.core.points import Point
from firewall.core.record_form import PLACES, Filled, Form
from firewall.enforce.guard import _MINT
from firewall.enforce.records import FORMS, PermitRecords, outcome_of
from tests.support.kit import call, principal, tool

COMPLETION: JSONObject = {"uid": "", "seq": 0, "log": "node/audit/log_1", "time_us": 0, "node": "n%d", "ver": "1"}
OWN = {"uid": "log_1.7", "seq": 7, "time_us": 1_795_000_000_000_000}
TEXT = st.text(max_size=20).filter(lambda text: "\x00" not in text)


def whole(record: JSONObject) -> bytes:
    return orjson.dumps({"v": 1, **record, **COMPLETION, **OWN}, option=orjson.OPT_SORT_KEYS)


def filled(record: JSONObject | Filled) -> bytes:
    assert isinstance(record, Filled)
    return record.form.entry({**record.values, **OWN}, COMPLETION)


@given(
    others=st.dictionaries(TEXT, TEXT | st.integers(0, 9) | st.lists(TEXT), max_size=4),
    have=st.sets(st.sampled_from(sorted(PLACES))),
    data=st.data(),
)
def test_a_filled_form_has_the_bytes_of_the_record(others: Any, have: set[tuple[str, str]], data: Any) -> None:
    """Whatever stands beside the places, conversions and quotes included, and whichever of them are there."""

    def record(values: dict[str, Any]) -> JSONObject:
        made: Any = {name: text for name, text in others.items() if name not in {n for pair in PLACES for n in pair}}
        for above, name in have:
            (made.setdefault(above, {"%s": "%"}) if above else made)[name] = values[name]
        return made

    def drawn() -> dict[str, Any]:
        number, text = st.integers(0, 2**53 - 1), st.text("abcXYZ0189_.:", max_size=9)
        return {name: data.draw(number if PLACES[above, name] == "d" else text) for above, name in PLACES}

    one, two = drawn(), drawn()
    assert Form(record(one)).entry({**two, **OWN}, COMPLETION) == whole(record(two))


def test_a_form_follows_its_writer_to_another_log() -> None:
    form = Form({"exchange": "x_1"})
    assert b'"log":"node/audit/log_1"' in form.entry({"exchange": "x_2", **OWN}, COMPLETION)
    assert b'"log":"node/audit/log_2"' in form.entry(
        {"exchange": "x_2", **OWN}, {**COMPLETION, "log": "node/audit/log_2"}
    )


def test_a_record_with_the_mark_of_places_has_no_form() -> None:
    with pytest.raises(ValueError, match="NUL"):
        Form({"subject": "\x00exchange\x00", "exchange": "x_1"})


FOUND = (Finding("SCAN-04", "secret.key", "secret", 90, "/params", "patterns"),)
REASON = Reason("demo.rule", Effect.ALLOW, "told", ("ASI02",), 10)
ALLOWED = Decision(Effect.ALLOW, 0, (), (), (), "sha256:1", "engine/1", 12)


WHO, TOOL, PROTOCOL = principal(grant_id="g_1"), tool(), call({}).protocol


def permit(n: int = 1, decision: Decision = ALLOWED, label: int = 0, **changes: Any) -> Permit:
    action = call({"text": f"t{n}"}, who=changes.pop("who", WHO), resource=changes.pop("resource", TOOL))
    action = dataclasses.replace(action, **{"protocol": PROTOCOL, **changes})
    decided = dataclasses.replace(decision, eval_us=10 + n)
    return _MINT.permit(action, action.body, b"x" * n, decided, f"d_{n}", (), Label(label))


def exchange(n: int, trace: str = "") -> Exchange:
    made = Exchange(f"x_{n}", WHO, "mcp", 0)
    made.trace_id, made.intent_uid = trace, f"log_1.{n}"
    return made


def records(
    kept: PermitRecords, n: int, *, trace: str = "", settles: bool = False, **changes: Any
) -> tuple[Any, bytes]:
    """Return what is written of a permit, and the bytes that its record has by itself."""
    ended = outcome_of(exchange(n), outcome="ok", error="", duration_us=n) if settles else None
    asked = permit(n, **changes), exchange(n, trace), f"h:{n:032x}", ended
    alone = PermitRecords().record(*asked)
    assert isinstance(alone, dict)
    return kept.record(*asked), whole(alone)


@pytest.mark.parametrize("settles", [False, True])
@pytest.mark.parametrize("trace", ["", "ab" * 16])
def test_the_second_record_of_a_kind_is_filled_in_and_says_the_same(settles: bool, trace: str) -> None:
    kept = PermitRecords()
    point = Point.MCP_TOOL_RESULT if settles else Point.MCP_TOOL_CALL
    first, alone = records(kept, 1, settles=settles, trace=trace, point=point)
    assert whole(first) == alone
    second, alone = records(kept, 2, settles=settles, trace=trace, point=point)
    assert filled(second) == alone
    assert orjson.loads(alone)["phase"] == ("outcome" if settles else "intent")


@pytest.mark.parametrize(
    "other",
    [
        {"who": principal(tenant="globex", grant_id="g_1")},
        {"who": principal(subject="u_mallory", grant_id="g_1")},
        {"who": principal(client_id="other", grant_id="g_1")},
        {"who": principal()},
        {"resource": tool(scope="demo:write")},
        {"resource": dataclasses.replace(TOOL, id="demo/other")},
        {"resource": dataclasses.replace(TOOL, upstream="other")},
        {"protocol": dataclasses.replace(PROTOCOL, version="2025-11-25")},
        {"point": Point.MCP_TOOL_RESULT},
        {"verb": "tools/list"},
        {"side_effect": False},
        {"label": 1},
        {"trace": "ab" * 16},
        {"settles": True},
        {"decision": dataclasses.replace(ALLOWED, risk=5)},
        {"decision": dataclasses.replace(ALLOWED, revision="sha256:2")},
        {"decision": dataclasses.replace(ALLOWED, engine="engine/2")},
        {"decision": dataclasses.replace(ALLOWED, reasons=(REASON,))},
        {"decision": dataclasses.replace(ALLOWED, shadow=(REASON,))},
        {"decision": dataclasses.replace(ALLOWED, obligations=(Obligation("taint", {"label": "untrusted"}),))},
    ],
    ids=lambda other: next(iter(other)),
)
def test_whatever_else_a_record_says_is_another_form(other: dict[str, Any]) -> None:
    kept = PermitRecords()
    records(kept, 1)
    first, alone = records(kept, 2, **other)
    assert isinstance(first, dict), "nobody's form is filled with what is another's"
    assert whole(first) == alone
    assert filled(records(kept, 3)[0]) == records(kept, 3)[1]
    second, alone = records(kept, 4, **other)
    assert filled(second) == alone


def test_a_permit_with_a_finding_has_a_record_of_its_own() -> None:
    kept = PermitRecords()
    for n in (1, 2):
        plain = permit(n)
        found = _MINT.permit(plain.action, plain.body, plain.payload, plain.decision, f"d_{n}", FOUND, Label(0))
        assert isinstance(kept.record(found, exchange(n), "h:", None), dict)


def test_all_grants_of_a_caller_share_a_form_and_each_record_names_its_own() -> None:
    kept = PermitRecords()
    records(kept, 1)
    second, alone = records(kept, 2, who=principal(grant_id="g_Az-09"))
    assert filled(second) == alone
    assert orjson.loads(alone)["gid"] == "g_Az-09"


@pytest.mark.parametrize("gid", ['g"2', "g_é", "g\\", "g\x00", 'x","subject":"u_mallory'])
def test_a_grant_whose_id_is_not_plain_has_records_of_its_own(gid: str) -> None:
    kept = PermitRecords()
    records(kept, 1)
    for n in (2, 3):
        first, alone = records(kept, n, who=principal(grant_id=gid))
        assert isinstance(first, dict)
        assert orjson.loads(alone)["gid"] == gid


def test_forms_are_bounded() -> None:
    kept = PermitRecords()
    for n in range(FORMS + 10):
        kept.record(permit(1, resource=dataclasses.replace(TOOL, id=f"demo/{n}")), exchange(1), "h:", None)
    assert len(kept._kept) <= FORMS
