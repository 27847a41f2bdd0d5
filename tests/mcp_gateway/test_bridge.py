"""The era bridge, value by value."""

from dataclasses import replace

import mcp_types.methods as official
import pytest

from firewall.core.errors import Malformed
from mcp_gateway import apps, bridge, content
from mcp_gateway.message import Call
from mcp_gateway.versions import LEGACY, MODERN

NEW, OLD = "2026-07-28", "2025-11-25"
INFO = {"name": "s", "version": "1"}
TEXT = [{"type": "text", "text": "hi"}]


def call(method="tools/call", era=MODERN, **changes) -> Call:
    given = {"params": {"name": "x__echo", "arguments": {"a": 1}}, "meta": {"com.example/k": 1}, **changes}
    return Call(era, NEW if era == MODERN else OLD, "client", method, **given)


@pytest.mark.parametrize("front", [MODERN, LEGACY])
@pytest.mark.parametrize("version", [NEW, OLD])
def test_a_call_in_either_era_becomes_a_valid_call_in_either(front, version):
    body = bridge.request(call(era=front, progress_token="p"), version, 7, {"name": "echo", "arguments": {"a": 1}})
    assert (body["id"], body["params"]["name"], body["params"]["arguments"]) == (7, "echo", {"a": 1})
    meta = body["params"]["_meta"]
    assert (meta["progressToken"], meta["com.example/k"]) == (7, 1)
    assert ("io.modelcontextprotocol/protocolVersion" in meta) is (version == NEW)
    official.validate_client_request("tools/call", version, body["params"])


def test_no_progress_is_asked_for_that_the_client_did_not_want():
    assert "progressToken" not in bridge.request(call(), NEW, 7, {})["params"]["_meta"]


def test_the_log_level_travels_in_the_modern_envelope_only():
    assert (
        bridge.request(call(log_level="info"), NEW, 1, {})["params"]["_meta"]["io.modelcontextprotocol/logLevel"]
        == "info"
    )
    assert (
        "io.modelcontextprotocol/logLevel" not in bridge.request(call(log_level="info"), OLD, 1, {})["params"]["_meta"]
    )


@pytest.mark.parametrize("make", [lambda: bridge.discover(1, NEW), lambda: bridge.list_page(1, NEW, "tools/list", "c")])
def test_our_own_modern_requests_are_valid(make):
    body = make()
    official.validate_client_request(body["method"], NEW, body["params"])


def test_our_own_legacy_requests_are_valid():
    body = bridge.initialize(1, OLD)
    official.validate_client_request("initialize", OLD, body["params"])
    assert "_meta" not in bridge.list_page(1, OLD, "tools/list", "")["params"]


def test_what_an_upstream_says_of_itself_is_read_in_both_eras():
    meta = {"io.modelcontextprotocol/serverInfo": {**INFO, "icons": ["x"], "websiteUrl": 5}}
    new = bridge.opened(
        {"supportedVersions": [NEW], "capabilities": {"tools": {}}, "_meta": meta, "instructions": "i"}, MODERN
    )
    assert (new.version, new.server_info, new.instructions, "tools" in new.capabilities) == (NEW, INFO, "i", True)
    old = bridge.opened({"protocolVersion": OLD, "capabilities": {}, "serverInfo": INFO}, LEGACY)
    assert (old.version, old.server_info, old.capabilities) == (OLD, INFO, {})


@pytest.mark.parametrize(
    ("value", "era"),
    [
        ("x", MODERN),
        ({"supportedVersions": ["2099-01-01"], "capabilities": {}}, MODERN),
        ({"supportedVersions": NEW, "capabilities": {}}, MODERN),
        ({"protocolVersion": NEW, "capabilities": {}}, LEGACY),
        ({"protocolVersion": 5, "capabilities": {}}, LEGACY),
        ({"protocolVersion": OLD, "capabilities": []}, LEGACY),
        ({"protocolVersion": OLD, "capabilities": {}, "instructions": "x" * 20_000}, LEGACY),
    ],
)
def test_an_opening_without_a_known_shape_is_refused(value, era):
    with pytest.raises(Malformed, match="result_shape"):
        bridge.opened(value, era)


@pytest.mark.parametrize("era", [MODERN, LEGACY])
def test_results_are_valid_in_the_era_of_the_client(era):
    version = NEW if era == MODERN else OLD
    received = {
        "content": TEXT, "structuredContent": {"a": 1}, "isError": False, "resultType": "complete", "ttlMs": 5,
        "vendor": 1, "_meta": {"com.example/k": 1, "io.modelcontextprotocol/evil": 2},
    }  # fmt: skip
    body = content.tool_result("c", era, received, INFO, None, apps.NONE)
    result = body["result"]
    official.validate_server_result("tools/call", version, result)
    assert body["id"] == "c"
    assert ("resultType" in result) is (era == MODERN)
    assert "ttlMs" not in result
    assert result["vendor"] == 1
    assert "io.modelcontextprotocol/evil" not in result["_meta"]
    official.validate_server_result("tools/list", version, bridge.listed(1, era, "tools", [], "c", 0)["result"])


def test_structured_content_of_any_kind_is_for_modern_clients_only():
    received = {"content": TEXT, "structuredContent": [1]}
    assert content.tool_result(1, MODERN, received, INFO, None, apps.NONE)["result"]["structuredContent"] == [1]
    assert "structuredContent" not in content.tool_result(1, LEGACY, received, INFO, None, apps.NONE)["result"]


@pytest.mark.parametrize(
    "value",
    [
        None, [], {}, {"content": "text"}, {"content": ["text"]}, {"content": [{"text": "no type"}]},
        {"content": TEXT, "isError": "no"}, {"content": TEXT, "resultType": "task"}, {"content": TEXT, "resultType": "x"},
        {"content": TEXT, "task": {"taskId": "t"}}, {"resultType": "input_required", "inputRequests": {}},
    ],
)  # fmt: skip
def test_a_result_of_unknown_kind_is_refused(value):
    with pytest.raises(Malformed, match="result_shape"):
        content.tool_result(1, MODERN, value, INFO, None, apps.NONE)


def test_our_own_opening_answers_are_valid():
    said = bridge.Opened(NEW, MODERN, INFO, "i")
    official.validate_server_result("server/discover", NEW, bridge.session_opened(1, MODERN, NEW, said)["result"])
    official.validate_server_result("initialize", OLD, bridge.session_opened(1, LEGACY, OLD, said)["result"])
    nameless = bridge.session_opened(
        1, LEGACY, OLD, bridge.Opened(OLD, LEGACY, {"name": "x"}, capabilities={"tools": {}})
    )["result"]
    assert nameless["serverInfo"]["name"] == "bartizan"
    assert nameless["capabilities"] == {"tools": {"listChanged": False}}


PROGRESS = {
    "method": "notifications/progress",
    "params": {"progressToken": 9, "progress": 1, "total": 2, "message": "m", "x": 1},
}
LOG = {"method": "notifications/message", "params": {"level": "info", "logger": "l", "data": {"a": 1}, "x": 1}}


class TestNotices:
    def test_progress_gets_the_clients_token_and_closed_members(self):
        body = bridge.notice(PROGRESS, call(progress_token="mine"))
        assert body["params"] == {"progressToken": "mine", "progress": 1, "total": 2, "message": "m"}
        assert bridge.notice(PROGRESS, call()) is None

    def test_logs_go_to_those_who_asked(self):
        assert bridge.notice(LOG, call()) is None
        body = bridge.notice(LOG, call(log_level="info"))
        assert body["params"] == {"level": "info", "logger": "l", "data": {"a": 1}}
        assert bridge.notice(LOG, call(era=LEGACY)) is not None

    @pytest.mark.parametrize(
        "value",
        [
            {"method": "notifications/progress", "params": []},
            {"method": "notifications/progress", "params": {"progress": "1"}},
            {"method": "notifications/progress", "params": {"progress": True}},
            {"method": "notifications/message", "params": {"level": 1, "data": 1}},
            {"method": "notifications/message", "params": {"level": "info"}},
            {"method": "notifications/elicitation/complete", "params": {}},
            {"method": "notifications/tools/list_changed"},
        ],
    )
    def test_everything_else_is_dropped(self, value):
        assert bridge.notice(value, call(progress_token=1, log_level="info")) is None


def test_the_end_of_an_elicitation_is_told_to_clients_that_know_it():
    told = {"jsonrpc": "2.0", "method": "notifications/elicitation/complete", "params": {"elicitationId": "e1", "x": 1}}
    heard = bridge.notice(told, call(era=LEGACY))
    assert heard is not None
    assert heard["params"] == {"elicitationId": "e1"}
    assert bridge.notice(told, replace(call(era=LEGACY), version="2025-06-18")) is None
    assert bridge.notice(told, call()) is None
    assert bridge.notice({**told, "params": {"elicitationId": 7}}, call(era=LEGACY)) is None


def test_no_block_of_a_result_speaks_in_a_reserved_name():
    block = {"type": "text", "text": "a", "_meta": {"io.modelcontextprotocol/serverInfo": {}, "vendor/x": 1}}
    plain = {"type": "text", "text": "b"}
    told = content.tool_result(1, "modern", {"content": [plain, block]}, {}, None, apps.NONE)
    assert told["result"]["content"] == [plain, {**block, "_meta": {"vendor/x": 1}}]
    assert told["result"]["content"][0] is plain
