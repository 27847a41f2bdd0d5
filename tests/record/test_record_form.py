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
from firewall.core.principal import Actor
from firewall.core.record_form import PLACES, Filled, Form
from firewall.decide.question import ask
from firewall.enforce.guard import _MINT
from firewall.enforce.records import FORMS, PermitRecords, decision_record, outcome_of
from tests.support.kit import call, principal, tool

COMPLETION: JSONObject = {"uid": "", "seq": 0, "log": "node/audit/log_1", "time_us": 0, "node": "n%d", "ver": "1"}
OWN: dict[str, Any] = {"uid": "log_1.7", "seq": 7, "time_us": 1_795_000_000_000_000}
# Not what looks like the mark of places, written out either: such a record has no form (below), which costs and no more.
TEXT = st.text(max_size=20).filter(lambda text: "\x00" not in text and "u0000" not in text)


def whole(record: JSONObject) -> bytes:
    return orjson.dumps({"v": 1, **record, **COMPLETION, **OWN}, option=orjson.OPT_SORT_KEYS)


def filled(record: JSONObject | Filled) -> bytes:
    assert isinstance(record, Filled)
    form, values = record
    return form.entry(values, COMPLETION, **OWN)


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
    values = tuple([two[pair[1]] if pair in have else "" for pair in PLACES if pair[1] not in OWN])
    assert Form(record(one)).entry(values, COMPLETION, **OWN) == whole(record(two))


def test_a_form_follows_its_writer_to_another_log() -> None:
    form, values = Form({"exchange": "x_1"}), ("", "", "", "", "x_2", "", "", "", "", "", "")
    for log in ("node/audit/log_1", "node/audit/log_2"):
        said = orjson.loads(form.entry(values, {**COMPLETION, "log": log}, **OWN))
        assert said == {"v": 1, "exchange": "x_2", **COMPLETION, **OWN, "log": log}


def test_a_record_with_the_mark_of_places_has_no_form() -> None:
    with pytest.raises(ValueError, match="NUL"):
        Form({"subject": "\x00exchange\x00", "exchange": "x_1"})


FOUND = (Finding("SCAN-04", "secret.key", "secret", 90, "/params", "patterns"),)
REASON = Reason("demo.rule", Effect.ALLOW, "told", ("ASI02",), 10)
ALLOWED = Decision(Effect.ALLOW, 0, (), (), (), "sha256:1", "engine/1")


WHO, TOOL, PROTOCOL = principal(grant_id="g_1"), tool(), call({}).protocol


def permit(n: int = 1, decision: Decision = ALLOWED, label: int = 0, **changes: Any) -> Permit:
    action = call({"text": f"t{n}"}, who=changes.pop("who", WHO), resource=changes.pop("resource", TOOL))
    action = dataclasses.replace(action, **{"protocol": PROTOCOL, **changes})
    asked = ask(action, (), label=Label(0), exchange=exchange(n), now_us=n, revision="sha256:1")
    return Permit(_MINT, action, action.body, b"x" * n, decision, f"d_{n}", (), Label(label), 10 + n, asked.frame)


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
        {"who": principal(grant_id="g_1", chain=(Actor("u_alice"), Actor("agent", "agent")))},
        {"who": principal(grant_id="g_1", chain=(Actor("u_alice", "agent"),))},
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
        found = Permit(
            _MINT, plain.action, plain.body, plain.payload, plain.decision, f"d_{n}", FOUND, Label(0), 1, plain.frame
        )
        assert isinstance(kept.record(found, exchange(n), "h:", None), dict)


def test_what_several_rounds_decided_together_has_a_record_of_its_own() -> None:
    kept = PermitRecords()
    for n in (1, 2):
        plain = permit(n)
        joined = Permit(_MINT, plain.action, plain.body, plain.payload, plain.decision, f"d_{n}", (), Label(0), 1, b"")
        assert isinstance(kept.record(joined, exchange(n), "h:", None), dict)
    assert not kept._kept


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


# What somebody would call themselves, or a grant, who wants to stand in a place that is another's.
HOSTILE = st.sampled_from(
    [
        "",
        "g_1",
        "\x00gid\x00",
        "\x00",
        "\\u0000gid\\u0000",
        '\\u0000","subject":"u_mallory',
        '"',
        "\\",
        '","tenant":"globex',
        "gid",
        "%s",
        "%d",
        "_",
        "é",
        "²",
        "\u0660",
        "g 1",
        "g\n",
    ]
) | st.text(max_size=6)
CALLERS = st.builds(
    lambda subject, client, tenant, gid, actors: principal(
        subject=subject, client_id=client, tenant=tenant, grant_id=gid, chain=tuple(Actor(a, b) for a, b in actors)
    ),
    HOSTILE,
    HOSTILE,
    st.sampled_from(["default", "globex"]) | HOSTILE,
    HOSTILE,
    st.lists(st.tuples(HOSTILE, HOSTILE), max_size=2),
)
# One record after the other, each the one before it but for one thing.
STEPS = st.one_of(
    st.tuples(st.just("who"), st.integers(0, 2)),
    st.tuples(st.just("gid"), st.none() | HOSTILE),
    st.tuples(st.just("actor"), HOSTILE),
    st.tuples(st.just("resource"), st.sampled_from([TOOL, tool(scope='x","gid":"g_2')])),
    st.tuples(st.just("trace"), st.sampled_from(["", "ab" * 16])),
    st.tuples(st.just("result"), st.sampled_from(["", "ok", "refused"])),
    st.tuples(st.just("label"), st.sampled_from([0, 1, 1 << 9])),
)


@given(
    callers=st.lists(CALLERS, min_size=3, max_size=3),
    steps=st.lists(STEPS, min_size=1, max_size=20),
    room=st.integers(1, 6),
)
def test_every_record_says_what_is_true_of_its_own_caller(callers: list[Any], steps: list[Any], room: int) -> None:
    """Beside a plain rendering: `decision_record`, with no form kept; with little room, so that forms come and go."""
    kept = PermitRecords()
    now: dict[str, Any] = {"who": 0, "gid": None, "actor": "", "resource": TOOL, "trace": "", "result": "", "label": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("firewall.enforce.records.FORMS", room)
        for n, (name, value) in enumerate(steps, 1):
            now[name] = value
            who = callers[now["who"]]
            if now["gid"] is not None:
                who = dataclasses.replace(who, grant_id=now["gid"])
            if now["actor"]:
                who = dataclasses.replace(who, chain=(*who.chain, Actor(now["actor"], "agent")))
            asked = permit(n, who=who, resource=now["resource"], label=now["label"])
            of, result, digest = exchange(n, now["trace"]), now["result"], f"h:{n:032x}"
            error = "" if result == "ok" else "e"
            ended = outcome_of(of, outcome=result, error=error, duration_us=n) if result else None
            alone = decision_record(
                asked.action,
                of,
                phase="intent",
                decision_id=asked.decision_id,
                decision=asked.decision,
                fault="",
                findings=(),
                label=asked.label,
                digest=digest,
                size=len(asked.payload),
                eval_us=asked.eval_us,
                settles=ended,
            )
            record = kept.record(asked, of, digest, ended)
            assert (filled(record) if isinstance(record, Filled) else whole(record)) == whole(alone)


def test_how_an_exchange_ended_is_another_form() -> None:
    kept = PermitRecords()
    for n, result in ((1, "ok"), (2, "refused"), (3, "ok")):
        ended = outcome_of(exchange(n), outcome=result, error="", duration_us=n)
        record = kept.record(permit(n), exchange(n), "h:", ended)
        said = record.record() if isinstance(record, Filled) else record
        assert said["outcome"]["result"] == result  # type: ignore[index,call-overload]


@pytest.mark.parametrize("gid", ["g_1", "_", "-", "A0z"])
def test_the_twin_plain_grants_are_filled_in(gid: str) -> None:
    kept = PermitRecords()
    records(kept, 1, who=principal(grant_id="g_0"))
    second, alone = records(kept, 2, who=principal(grant_id=gid))
    assert filled(second) == alone
