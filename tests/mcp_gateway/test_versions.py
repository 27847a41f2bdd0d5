"""The revision tables and the METHODS table."""

import mcp_types.methods
import mcp_types.version as sdk

from firewall.core.points import INFO, Point
from mcp_gateway import questions
from mcp_gateway.versions import (
    ERROR,
    HANDSHAKE_VERSIONS,
    KNOWN_VERSIONS,
    METHODS,
    MODERN_VERSIONS,
    REQUESTS,
    era_of,
    is_notification,
    negotiated,
    point_of,
)


def test_our_tables_equal_those_of_the_official_types():
    assert KNOWN_VERSIONS == sdk.KNOWN_PROTOCOL_VERSIONS
    assert HANDSHAKE_VERSIONS == sdk.HANDSHAKE_PROTOCOL_VERSIONS
    assert MODERN_VERSIONS == sdk.MODERN_PROTOCOL_VERSIONS


def test_every_mcp_point_is_used_and_no_other():
    asked = {*questions.ASK.values(), *questions.ANSWER.values()}  # what a server asks is found by its method there
    assert set(METHODS.values()) | asked == {p for p in Point if INFO[p].protocol == "mcp"}


def test_the_direction_of_a_row_is_the_direction_of_its_point():
    for (method, _era, flow), point in METHODS.items():
        if method != "ping":  # we answer pings ourselves: both rows stand for our answer
            assert INFO[point].direction == flow, method


def test_every_method_of_the_table_exists_in_its_era():
    known = {
        "legacy": {
            m
            for m, v in [*mcp_types.methods.CLIENT_REQUESTS, *mcp_types.methods.CLIENT_NOTIFICATIONS]
            if v == "2025-11-25"
        },
        "modern": {
            m
            for m, v in [*mcp_types.methods.CLIENT_REQUESTS, *mcp_types.methods.CLIENT_NOTIFICATIONS]
            if v == "2026-07-28"
        },
    }
    # The SDK never dispatches tasks; the table has those of 2025-11-25 and of the extension.
    known["legacy"] |= {"tasks/get", "tasks/result", "tasks/list", "tasks/cancel"}
    known["modern"] |= {"tasks/get", "tasks/update", "tasks/cancel"}
    for method, era, flow in METHODS:
        if flow == "request" and method != ERROR:
            assert method in known[era], (method, era)


def test_the_requests_are_every_row_of_a_client_that_is_no_notification():
    rows = {(method, era) for method, era, flow in METHODS if flow == "request"}
    assert {row for row in rows if not is_notification(row[0])} == REQUESTS
    assert rows - REQUESTS == {("notifications/initialized", "legacy"), ("notifications/cancelled", "legacy")}
    for row in [("tools/call", "modern"), ("initialize", "legacy"), ("server/discover", "modern")]:
        assert row in REQUESTS
    for row in [("initialize", "modern"), ("server/discover", "legacy"), (ERROR, "modern"), ("tools/none", "modern")]:
        assert row not in REQUESTS


# What the specification has and we answer ourselves or let end here, with the reason.
ENDS_HERE = {
    (
        "notifications/progress",
        "request",
    ): "a client tells of its progress with a question: no server of ours gave it a token",
    ("notifications/roots/list_changed", "request"): "we never declare `roots.listChanged` to a server",
    ("notifications/cancelled", "request"): "modern: cancelling is closing the stream",
    ("notifications/cancelled", "response"): "modern: a subscription ends with its result",
}


def test_every_method_of_every_revision_has_a_row_or_a_reason_to_have_none():
    m = mcp_types.methods
    tables = (
        ("request", {*m.CLIENT_REQUESTS, *m.CLIENT_NOTIFICATIONS}),
        ("response", {*m.SERVER_REQUESTS, *m.SERVER_NOTIFICATIONS}),
    )
    missing = set()
    for flow, table in tables:
        for method, version in table:
            era = era_of(version)
            asked = flow == "response" and method in questions.METHODS
            if version != "2024-11-05" and not asked and point_of(method, era, flow) is None:
                missing.add((method, flow))
    assert missing == ENDS_HERE.keys()


def test_a_method_of_the_other_era_has_no_point():
    assert point_of("initialize", "modern", "request") is None
    assert point_of("server/discover", "legacy", "request") is None
    assert point_of("ping", "modern", "request") is None
    for method in ("resources/subscribe", "tasks/result", "tasks/list", "logging/setLevel"):
        assert point_of(method, "modern", "request") is None, method
    for method in ("subscriptions/listen", "tasks/update"):
        assert point_of(method, "legacy", "request") is None, method


def test_a_legacy_client_is_offered_handshake_revisions_only():
    assert negotiated("2025-06-18") == "2025-06-18"
    assert negotiated("2026-07-28") == "2025-11-25"
    assert negotiated("zzz") == "2025-11-25"
    assert era_of("zzz") is None
