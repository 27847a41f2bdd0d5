"""Our own words: one fixed answer per fault, with a decision id and nothing else."""

import json

import pytest

from firewall.core.errors import FAULTS
from firewall.core.permit import Refusal
from mcp_gateway import reply
from mcp_gateway.message import Rejected
from mcp_gateway.versions import LEGACY, MODERN


def told(fixed):
    return json.loads(fixed.body)


@pytest.mark.parametrize("code", sorted(FAULTS))
def test_every_fault_becomes_its_code_its_text_and_the_decision_id(code):
    body = told(reply.failed(code, 1, "x_1"))
    fault = FAULTS[code]
    assert body == {
        "jsonrpc": "2.0",
        "id": 1,
        "error": {"code": fault.rpc_code, "message": fault.text, "data": {"decision_id": "x_1"}},
    }


@pytest.mark.parametrize("code", ["denied", "arguments_mismatch", "killed", "quarantined", "approval_pending"])
@pytest.mark.parametrize("era", [LEGACY, MODERN])
def test_a_denied_tool_call_is_a_result_with_a_fixed_text(code, era):
    fixed = reply.refused(Refusal(FAULTS[code], "d_1", rules=("secret.rule",)), 1, era=era, tool_call=True)
    result = told(fixed)["result"]
    assert (fixed.status, result["isError"]) == (200, True)
    assert result["content"] == [{"type": "text", "text": f"{FAULTS[code].text} (decision d_1)"}]
    assert ("resultType" in result) is (era == MODERN)
    assert b"secret.rule" not in fixed.body


def test_any_other_denial_is_an_error():
    fixed = reply.refused(Refusal(FAULTS["denied"], "d_1"), 1, era=MODERN, tool_call=False)
    assert told(fixed)["error"] == {"code": -31403, "message": FAULTS["denied"].text, "data": {"decision_id": "d_1"}}


def test_a_challenge_is_403_with_the_scopes():
    refusal = Refusal(FAULTS["scope_missing"], "d_1", challenge=("b", "a"))
    fixed = reply.refused(refusal, 1, era=MODERN, tool_call=True, challenge=b'Bearer scope="a b"')
    assert (fixed.status, dict(fixed.headers)[b"www-authenticate"]) == (403, b'Bearer scope="a b"')
    assert told(fixed)["error"]["code"] == -31401
    assert told(fixed)["error"]["data"] == {"decision_id": "d_1", "required": ["a", "b"]}


def test_over_the_limit_says_when_to_come_back():
    fixed = reply.refused(Refusal(FAULTS["over_limit"], "d_1", retry_after_s=7), 1, era=MODERN, tool_call=True)
    assert (fixed.status, dict(fixed.headers)[b"retry-after"]) == (429, b"7")


def test_an_unknown_method_is_404_where_that_cannot_end_a_session():
    assert reply.unknown_method(1, MODERN, "x").status == 404
    assert reply.unknown_method(1, LEGACY, "x").status == 200


def test_a_rejection_keeps_its_id_and_its_closed_data():
    error = Rejected("version_unsupported", rpc_id=5, data={"supported": ["2026-07-28"], "requested": "x"})
    fixed = reply.rejected(error, "x_1")
    assert fixed.status == 400
    assert told(fixed)["id"] == 5
    assert told(fixed)["error"]["data"] == {"supported": ["2026-07-28"], "requested": "x", "decision_id": "x_1"}
