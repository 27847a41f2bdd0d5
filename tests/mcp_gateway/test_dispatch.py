"""The table of handlers: complete, gated by era, and every answer of its own decided."""

import pytest

from mcp_gateway.kinds import BY_METHOD, KINDS
from mcp_gateway.versions import LEGACY, METHODS, MODERN
from tests.mcp_gateway.scripted import fine, scripted
from tests.support.kit import ALLOW, ScriptedEngine
from tests.support.mcp import running, spec

pytestmark = pytest.mark.flow


async def test_every_request_of_the_table_has_a_handler_and_no_other_has():
    async with scripted(fine) as upstream, running(spec("demo", url=upstream.url)) as stack:
        rows = {method for method, _, flow in METHODS if flow == "request"}
        handled = set(stack.gateway._dispatch.handlers)
        assert {method for method in rows if not method.startswith("notifications/")} <= handled | ANSWERS
        assert handled <= rows


ANSWERS = {"sampling/createMessage", "elicitation/create", "roots/list"}  # what a client answers, not what it calls


@pytest.mark.parametrize("method", sorted(BY_METHOD))
def test_lists_have_the_points_of_their_kind_in_both_eras(method):
    info = KINDS[BY_METHOD[method]]
    for era in (LEGACY, MODERN):
        assert METHODS[method, era, "request"] is info.asked
        assert METHODS[method, era, "response"] is info.listed


@pytest.mark.parametrize(
    "method",
    [
        "resources/write",
        "prompts/set",
        "completion",
        "tools/run",
        "Resources/read",
        "resources/read/",
        "resources/list ",
        "x" * 128,
    ],
)
async def test_a_method_without_a_row_is_refused_by_name_and_reaches_nobody(method):
    async with scripted(fine) as upstream, running(spec("demo", url=upstream.url)) as stack:
        headers = {"mcp-method": method.strip()} if method != method.strip() else {}
        answer = await stack.modern("/mcp/demo", method, {}, **headers)
        assert answer.status_code in (400, 404)
        assert answer.json()["error"]["code"] in (-32601, -32020)
        assert method not in answer.text
        assert upstream.methods() == []


ASKED = [
    ("tools/list", {}), ("prompts/list", {}), ("resources/list", {}), ("resources/templates/list", {}),
    ("prompts/get", {"name": "p"}), ("resources/read", {"uri": "note://a"}), ("tools/call", {"name": "echo"}),
    ("completion/complete", {"ref": {"type": "ref/prompt", "name": "p"}, "argument": {"name": "a", "value": ""}}),
]  # fmt: skip
OBJECTS = {
    "prompts/list": {"prompts": [{"name": "p", "arguments": [{"name": "a"}]}]},
    "prompts/get": {"messages": []},
    "resources/list": {"resources": [{"uri": "note://a", "name": "n"}]},
    "resources/templates/list": {"resourceTemplates": []},
    "resources/read": {"contents": [{"uri": "note://a", "text": "t"}]},
    "completion/complete": {"completion": {"values": []}},
}


def denying(*points):
    reason = {"rule": "test.deny", "effect": "deny", "code": "denied", "owasp": ["ASI02"], "severity": 50}
    denied = {**ALLOW, "decision": False, "effect": "deny", "risk": 50, "reasons": [reason]}
    return ScriptedEngine(lambda asked: denied if asked["point"] in points else ALLOW)


@pytest.mark.parametrize(("method", "params"), ASKED, ids=[method for method, _ in ASKED])
async def test_a_denied_request_never_reaches_the_upstream_and_a_denied_answer_never_the_client(method, params):
    asked, answered = (METHODS[method, MODERN, flow].value for flow in ("request", "response"))
    listing = method in BY_METHOD
    async with scripted(fine, answers=OBJECTS) as upstream:
        async with running(spec("demo", url=upstream.url)) as stack:  # the twin: nothing is denied
            told = (await stack.modern("/mcp/demo", method, params)).json()
            assert "result" in told
            assert not told["result"].get("isError")
            calls = upstream.methods().count(method)
            assert calls
        for point in (asked, answered):
            before = upstream.methods().count(method)
            async with running(spec("demo", url=upstream.url), engine=denying(point)) as stack:
                told = (await stack.modern("/mcp/demo", method, params)).json()
                assert "error" in told or told["result"]["isError"]
                reached = upstream.methods().count(method) - before
                assert reached == (point == answered and not (listing and point == asked))


@pytest.mark.parametrize(("method", "params"), ASKED, ids=[method for method, _ in ASKED])
async def test_each_request_and_each_answer_is_recorded(method, params):
    async with scripted(fine, answers=OBJECTS) as upstream, running(spec("demo", url=upstream.url)) as stack:
        await stack.modern("/mcp/demo", method, params)
        seen = {point for point, _, _ in stack.kit.telemetry.decisions}
        assert METHODS[method, MODERN, "request"] in seen
        assert METHODS[method, MODERN, "response"] in seen


async def test_nothing_goes_out_when_no_record_can_be_written():
    async with scripted(fine, answers=OBJECTS) as upstream, running(spec("demo", url=upstream.url)) as stack:
        await stack.modern("/mcp/demo", "resources/list")
        calls = len(upstream.seen)
        stack.kit.audit.broken = True
        for method, params in ASKED:
            told = (await stack.modern("/mcp/demo", method, params)).json()
            assert "error" in told
        assert len(upstream.seen) == calls
