"""Our own words, the table of points, and what this room is made of."""

import json

import pytest

from firewall.core.errors import FAULTS, Malformed, UpstreamFault, fault
from firewall.core.permit import Refusal
from firewall.core.points import Point
from llm_router import reply
from llm_router.action import METHODS
from llm_router.meter import BudgetExceeded
from llm_router.shape import Rejected


def error(answer) -> dict:
    return json.loads(answer.body)["error"]


def test_every_point_of_this_room_has_a_row_and_no_row_has_another_point():
    assert set(METHODS.values()) == {p for p in Point if p.startswith("llm.")}


def test_a_refusal_is_an_openai_error_with_the_decision_id():
    told = reply.refused(Refusal(fault("denied"), "d_1", rules=("content.secret_in_request",)))
    assert told.status == 403
    assert error(told) == {
        "message": FAULTS["denied"].text,
        "type": "permission_error",
        "code": "denied",
        "param": None,
        "decision_id": "d_1",
    }
    assert (b"x-should-retry", b"false") in told.headers


def test_a_scope_that_would_cure_it_is_challenged():
    told = reply.refused(Refusal(fault("scope_missing"), "d_1", challenge=("llm:invoke",)), b"Bearer x")
    assert (b"www-authenticate", b"Bearer x") in told.headers
    assert (
        reply.refused(Refusal(fault("denied"), "d_1"), b"Bearer x").headers.count((b"www-authenticate", b"Bearer x"))
        == 0
    )


def test_a_limit_says_when_to_come_back_and_may_be_retried():
    told = reply.refused(Refusal(fault("over_limit"), "d_1", retry_after_s=9))
    assert (told.status, error(told)["type"]) == (429, "rate_limit_error")
    assert (b"retry-after", b"9") in told.headers
    assert (b"x-should-retry", b"false") not in told.headers


def test_a_spent_budget_is_not_worth_a_retry():
    told = reply.failed(BudgetExceeded(60), "x_1")
    assert (told.status, error(told)["type"], error(told)["code"]) == (429, "insufficient_quota", "budget_exceeded")
    assert {(b"retry-after", b"60"), (b"x-should-retry", b"false")} <= set(told.headers)


@pytest.mark.parametrize("code", sorted(FAULTS))
def test_every_fault_has_an_error_type_and_echoes_nothing(code):
    told = reply.failed(Malformed(code, "text of a peer"), "x_1")
    assert b"peer" not in told.body
    assert error(told)["type"]
    assert told.status == FAULTS[code].status


def test_a_parameter_is_named_from_our_lists():
    assert error(reply.failed(Rejected("functions")))["param"] == "functions"
    assert error(reply.failed(UpstreamFault("failed")))["code"] == "upstream_failed"
