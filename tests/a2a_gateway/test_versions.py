"""Telling versions apart (a2a reference §1.3, §1.4)."""

import pytest

from a2a_gateway.versions import CARRIED, REFUSED, check_method, check_version
from firewall.core.errors import FAULTS, Malformed


@pytest.mark.parametrize(
    ("header", "query"),
    [(b"1.0", b""), (b" 1.0 ", b""), (b"1.0.1", b""), (None, b"A2A-Version=1.0"), (b"1.0", b"a2a-version=1.0")],
)
def test_one_dot_zero_is_spoken_here(header, query):
    check_version(header, query)


@pytest.mark.parametrize(
    ("header", "query"),
    [
        (None, b""),
        (b"", b""),
        (b"0.3", b""),
        (b"1", b""),
        (b"1.9", b""),
        (b"2.0", b""),
        (b"1.0,0.3", b""),
        (b"v1.0", b""),
        (b"1.0", b"A2A-Version=0.3"),
        (b"1.0", b"A2A-Version=1.0.1"),
        (b"1.0", b"A2A-Version=1.0&A2A-Version=0.3"),
        (b"1.0", b"\xff"),
        (b"1.0.x", b""),
        (b"1.0.\xb2", b""),
    ],
)
def test_anything_else_is_another_version_and_is_never_guessed_at(header, query):
    with pytest.raises(Malformed) as caught:
        check_version(header, query)
    assert caught.value.code == "a2a_version"
    assert FAULTS["a2a_version"].rpc_code == -32009


@pytest.mark.parametrize(
    ("method", "code"),
    [
        ("message/send", "a2a_version"),
        ("tasks/get", "a2a_version"),
        ("ListTasks", "operation_unsupported"),
        ("SubscribeToTask", "operation_unsupported"),
        ("GetExtendedAgentCard", "operation_unsupported"),
        ("CreateTaskPushNotificationConfig", "push_unsupported"),
        ("sendmessage", "method_unknown"),
        ("SendMessage ", "method_unknown"),
    ],
)
def test_operations_we_do_not_carry_are_refused_by_name(method, code):
    with pytest.raises(Malformed) as caught:
        check_method(method)
    assert caught.value.code == code


def test_every_operation_of_the_standard_is_carried_or_refused_by_name():
    from a2a.server.routes.jsonrpc_dispatcher import JsonRpcDispatcher

    assert set(JsonRpcDispatcher.METHOD_TO_MODEL) == CARRIED.keys() | REFUSED.keys()
