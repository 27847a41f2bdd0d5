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
    assert b"www-authenticate" not in dict(reply.refused(Refusal(fault("denied"), "d_1")).headers)


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


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("denied", "permission_error"),
        ("token_invalid", "authentication_error"),
        ("model_unknown", "not_found_error"),
        ("body_too_large", "request_too_large"),
        ("over_limit", "rate_limit_error"),
        ("params_invalid", "invalid_request_error"),
        ("upstream_timeout", "timeout_error"),
        ("internal", "api_error"),
    ],
)
def test_an_anthropic_error_has_its_own_shape_and_fixed_words(code, kind):
    told = reply.fixed(FAULTS[code], "d_1", words=reply.ANTHROPIC)
    assert json.loads(told.body) == {
        "type": "error",
        "error": {"type": kind, "message": FAULTS[code].text, "code": code},
        "request_id": "d_1",
    }
    assert (b"request-id", b"d_1") in told.headers
    types = pytest.importorskip("anthropic.types")
    if kind != "request_too_large":  # documented, but not in the client's types
        assert types.ErrorResponse.model_validate_json(told.body).error.type == kind


def test_an_anthropic_error_names_a_member_of_our_own_lists():
    told = reply.failed(Rejected("mcp_servers"), "x_1", words=reply.ANTHROPIC)
    assert error(told)["param"] == "mcp_servers"
    assert (b"x-should-retry", b"false") in reply.failed(BudgetExceeded(9), "x_1", words=reply.ANTHROPIC).headers
