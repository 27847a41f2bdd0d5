"""Refusals in A2A's own form (a2a reference §2.7)."""

import json

import pytest

from a2a_gateway import reply
from firewall.core.errors import FAULTS, Malformed, UpstreamFault
from firewall.core.permit import Refusal


def body(fixed):
    return json.loads(fixed.body)


@pytest.mark.parametrize("code", sorted(FAULTS))
def test_every_fault_is_a_json_rpc_error_with_typed_details(code):
    fixed = reply.fixed(FAULTS[code], "r", "d_1")
    told = body(fixed)
    assert told["id"] == "r"
    assert told["error"]["message"] == FAULTS[code].text
    (info,) = told["error"]["data"]
    assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert info["metadata"] == {"decision_id": "d_1"}
    assert fixed.status == (200 if code in reply.INSIDE else FAULTS[code].status)


def test_the_official_client_raises_its_own_error_for_each_of_ours():
    from a2a.client.transports.jsonrpc import JsonRpcTransport
    from a2a.utils import errors

    read = JsonRpcTransport.__new__(JsonRpcTransport)._create_jsonrpc_error
    for code, kind in {
        "task_unknown": errors.TaskNotFoundError,
        "operation_unsupported": errors.UnsupportedOperationError,
        "push_unsupported": errors.PushNotificationNotSupportedError,
        "a2a_version": errors.VersionNotSupportedError,
        "agent_response": errors.InvalidAgentResponseError,
        "upstream_malformed": errors.InvalidAgentResponseError,
        "params_invalid": errors.InvalidParamsError,
        "method_unknown": errors.MethodNotFoundError,
        "media_type": errors.ContentTypeNotSupportedError,
    }.items():
        assert type(read(body(reply.fixed(FAULTS[code], 1, "d"))["error"])) is kind
    assert read(body(reply.fixed(FAULTS["task_unknown"], 1, "d_9"))["error"]).data == {"decision_id": "d_9"}


def test_a_denial_lies_outside_every_reserved_range():
    assert -31999 <= body(reply.fixed(FAULTS["denied"], 1, "d"))["error"]["code"] <= -31000


def test_no_text_of_an_exception_reaches_a_reply():
    for error in (Malformed("task_unknown", "secret words"), UpstreamFault("timeout", "secret words")):
        assert b"secret" not in reply.failed(error, 1, "d").body
    assert body(reply.failed(Malformed("never_listed"), 1))["error"]["code"] == FAULTS["internal"].rpc_code


def test_a_missing_scope_is_a_403_with_its_challenge_and_a_limit_says_when():
    fixed = reply.refused(Refusal(FAULTS["scope_missing"], "d", ("echo:send",)), 1, b'Bearer scope="echo:send"')
    assert fixed.status == 403
    assert (b"www-authenticate", b'Bearer scope="echo:send"') in fixed.headers
    assert body(fixed)["error"]["code"] == -31401
    limited = reply.refused(Refusal(FAULTS["over_limit"], "d", retry_after_s=7), 1)
    assert (limited.status, dict(limited.headers)[b"retry-after"]) == (429, b"7")
