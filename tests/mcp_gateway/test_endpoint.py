"""The endpoint over HTTP: exact answers to bad requests, sessions, challenges, and what is never forwarded."""

import json
from dataclasses import replace

import pytest

from tests.mcp_gateway.scripted import fine, scripted
from tests.support.kit import ALLOW, ScriptedEngine
from tests.support.mcp import MODERN_META, person, running, spec

pytestmark = pytest.mark.flow

INIT = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}},
}
ECHO = {"name": "echo", "arguments": {"a": 1}}
DEEP = b'{"jsonrpc":"2.0","id":1,"method":"ping","params":' + b'{"a":' * 70 + b"1" + b"}" * 70 + b"}"

# (what, raw body, HTTP status, JSON-RPC code)
BODIES = [
    ("no body", b"", 400, -32600),
    ("no JSON", b"{", 400, -32700),
    ("not UTF-8", b'{"jsonrpc":"2.0","id":1,"method":"\xff"}', 400, -32700),
    ("a repeated key", b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}', 400, -32600),
    ("a lone surrogate", b'{"jsonrpc":"2.0","id":1,"method":"\\ud800"}', 400, -32600),
    ("a batch", b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', 400, -32600),
    ("too deep", DEEP, 400, -32600),
    ("too large", b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":"' + b"x" * (4 << 20) + b'"}}', 413, -32600),
]


@pytest.mark.parametrize(("what", "body", "status", "code"), BODIES, ids=[b[0] for b in BODIES])
async def test_a_malformed_body_gets_its_status_and_code(what, body, status, code):
    async with scripted(fine) as upstream, running(spec("demo", url=upstream.url)) as stack:
        answer = await stack.post("/mcp/demo", body)
        assert answer.status_code == status
        assert answer.json()["error"]["code"] == code
        assert upstream.seen == []


# (what, headers, status)
MEDIA = [
    ("only JSON accepted", {"accept": "application/json"}, 406),
    ("only streams accepted", {"accept": "text/event-stream"}, 406),
    ("another content type", {"content-type": "text/plain"}, 415),
    ("everything accepted", {"accept": "*/*"}, 200),
    ("a charset", {"content-type": "application/json; charset=utf-8"}, 200),
]


@pytest.mark.parametrize(("what", "headers", "status"), MEDIA, ids=[m[0] for m in MEDIA])
async def test_media_types_are_negotiated_strictly(what, headers, status):
    async with scripted(fine) as upstream, running(spec("demo", url=upstream.url)) as stack:
        answer = await stack.modern("/mcp/demo", "tools/list", **headers)
        assert answer.status_code == status


async def test_paths_have_no_redirect_and_one_spelling_with_or_without_a_slash():
    async with scripted(fine) as upstream, running(spec("demo", url=upstream.url)) as stack:
        for path in ("/mcp/demo", "/mcp/demo/", "/mcp", "/mcp/"):
            assert (await stack.modern(path, "tools/list")).status_code == 200, path
        for path in ("/mcp/nobody", "/mcp/demo/x", "/mcp//demo", "/%6dcp/demo", "/mcp/%64emo"):
            assert (await stack.modern(path, "tools/list")).status_code in (400, 404), path


async def test_methods_outside_an_era_are_405_and_say_what_is_allowed():
    async with scripted(fine) as upstream, running(spec("demo", url=upstream.url)) as stack:
        import httpx2

        async with httpx2.AsyncClient(headers={"authorization": "Bearer alice"}) as http:
            modern = {"mcp-protocol-version": "2026-07-28"}
            for method, headers, allowed in (
                ("GET", modern, "POST"),
                ("DELETE", modern, "POST"),
                ("GET", {"mcp-protocol-version": "2099-01-01"}, "POST"),
                ("PUT", {}, "GET, POST, DELETE"),
                ("PATCH", {"mcp-protocol-version": "2025-11-25"}, "GET, POST, DELETE"),
            ):
                answer = await http.request(method, stack.url("/mcp/demo"), headers=headers)
                assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


async def test_a_method_outside_the_table_is_refused_by_name_404_modern_200_legacy():
    async with scripted(fine) as upstream, running(spec("demo", url=upstream.url)) as stack:
        for method in ("logging/setLevel", "resources/subscribe", "initialize", "ping", "no/such"):
            answer = await stack.modern("/mcp/demo", method)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, -32601), method
        for method in ("subscriptions/listen", "no/such", "server/discover"):
            answer = await stack.post("/mcp/demo", {"jsonrpc": "2.0", "id": 7, "method": method})
            assert (answer.status_code, answer.json()["error"]["code"], answer.json()["id"]) == (200, -32601, 7)
        assert upstream.seen == []


async def test_without_a_token_the_challenge_names_the_scope_and_nothing_is_parsed():
    async with scripted(fine) as upstream, running(spec("demo", url=upstream.url)) as stack:
        answer = await stack.post("/mcp/demo", b"{", token="")
        assert answer.status_code == 401
        assert 'scope="demo:read"' in answer.headers["www-authenticate"]
        assert (await stack.post("/mcp/demo", b"{", token="stranger")).status_code == 401


async def test_a_token_for_one_endpoint_is_worth_nothing_at_another():
    people = {"one": person("demo:read", "demo:write")}
    people["one"] = replace(people["one"], audience="http://127.0.0.1:8700/mcp/demo")
    async with scripted(fine) as upstream:
        async with running(spec("demo", url=upstream.url), spec("second", url=upstream.url), people=people) as stack:
            assert (await stack.modern("/mcp/demo", "tools/list", token="one")).status_code == 200
            assert (await stack.modern("/mcp/second", "tools/list", token="one")).status_code == 401
            assert (await stack.modern("/mcp", "tools/list", token="one")).status_code == 401


async def test_a_missing_scope_becomes_a_403_challenge_before_any_stream():
    def script(asked):
        if asked["point"] != "mcp.tool.call":
            return ALLOW
        reason = {
            "rule": "identity.scope_missing",
            "effect": "deny",
            "code": "scope_missing",
            "owasp": [],
            "severity": 40,
        }
        duty = {"type": "step_up", "scope": "demo:write"}
        return {**ALLOW, "decision": False, "effect": "deny", "risk": 40, "reasons": [reason], "obligations": [duty]}

    async with scripted(fine) as upstream:
        async with running(spec("demo", url=upstream.url), engine=ScriptedEngine(script)) as stack:
            answer = await stack.modern("/mcp/demo", "tools/call", ECHO)
            assert answer.status_code == 403
            assert 'scope="demo:write"' in answer.headers["www-authenticate"]
            error = answer.json()["error"]
            assert (error["code"], error["data"]["required"]) == (-31401, ["demo:write"])
            assert "tools/call" not in upstream.methods()


async def test_a_denied_call_is_a_tool_result_that_the_model_can_read_and_never_reaches_the_upstream():
    def script(asked):
        if asked["point"] != "mcp.tool.call":
            return ALLOW
        reason = {"rule": "t.no", "effect": "deny", "code": "because", "owasp": [], "severity": 40}
        return {**ALLOW, "decision": False, "effect": "deny", "risk": 40, "reasons": [reason]}

    async with scripted(fine) as upstream:
        async with running(spec("demo", url=upstream.url), engine=ScriptedEngine(script)) as stack:
            answer = await stack.modern("/mcp/demo", "tools/call", {"name": "echo", "arguments": {"a": 7}})
            assert answer.status_code == 200
            given = answer.json()["result"]
            assert given["isError"] is True
            assert "decision d_" in given["content"][0]["text"]
            assert "because" not in answer.text
            assert "tools/call" not in upstream.methods()


async def test_what_goes_upstream_is_made_anew_from_what_was_inspected():
    async with scripted(fine) as upstream, running(spec("demo", url=upstream.url)) as stack:
        vendor = {"com.example/keep": 1, "io.modelcontextprotocol/unknown": 2, "baggage": "secret=1"}
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        answer = await stack.modern(
            "/mcp/demo",
            "tools/call",
            {**ECHO, "task": {"ttl": 1}, "extra": 1, "_meta": {**vendor, "traceparent": trace}},
            rpc_id="client-id",
            **{"mcp-param-undeclared": "x", "x-custom": "y", "traceparent": trace},
        )
        assert answer.json()["id"] == "client-id"
        headers, body = upstream.seen[-1]
        assert body["method"] == "tools/call"
        assert body["id"] != "client-id"
        assert set(body["params"]) == {"name", "arguments", "_meta"}
        meta = body["params"]["_meta"]
        assert meta["com.example/keep"] == 1
        assert meta["traceparent"][:36] == trace[:36]
        assert meta["traceparent"] != trace, "our own span is the upstream's parent"
        assert "baggage" not in meta
        assert "io.modelcontextprotocol/unknown" not in meta
        assert meta["io.modelcontextprotocol/clientCapabilities"] == {}
        assert meta["io.modelcontextprotocol/clientInfo"]["name"] == "bartizan"
        assert (headers["mcp-method"], headers["mcp-name"]) == ("tools/call", "echo")
        assert not {"authorization", "mcp-param-undeclared", "x-custom", "cookie"} & set(headers)


async def test_parameter_headers_are_checked_against_the_listed_schema():
    schema = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
    bad = {"type": "object", "properties": {"n": {"type": "number", "x-mcp-header": "N"}}}
    tools = [{"name": "where", "inputSchema": schema}, {"name": "broken", "inputSchema": bad}]
    async with scripted(fine, tools=tools) as upstream, running(spec("demo", url=upstream.url)) as stack:
        listed = (await stack.modern("/mcp/demo", "tools/list")).json()["result"]["tools"]
        assert [tool["name"] for tool in listed] == ["where"]
        call = {"name": "where", "arguments": {"region": "eu"}}
        for header, code in (("us", -32020), (None, -32020), ("eu", None)):
            extra = {"mcp-param-region": header} if header else {}
            answer = (await stack.modern("/mcp/demo", "tools/call", call, **extra)).json()
            assert answer.get("error", {}).get("code") == code
        assert upstream.seen[-1][0]["mcp-param-region"] == "eu"


class TestSessions:
    async def open(self, stack, path="/mcp/demo", token="alice"):
        answer = await stack.post(path, INIT, token=token)
        assert answer.status_code == 200, answer.text
        return answer.headers["mcp-session-id"]

    async def ping(self, stack, session, path="/mcp/demo", token="alice"):
        headers = {"mcp-session-id": session} if session else {}
        return await stack.post(path, {"jsonrpc": "2.0", "id": 2, "method": "ping"}, headers=headers, token=token)

    async def test_a_session_belongs_to_its_principal_and_endpoint_alone(self):
        people = {
            "alice": person("demo:read"),
            "bob": person("demo:read", subject="u_bob"),
            "other": person("demo:read", client_id="https://other.example/c.json"),
        }
        async with scripted(fine) as upstream:
            async with running(
                spec("demo", url=upstream.url), spec("second", url=upstream.url), people=people
            ) as stack:
                session = await self.open(stack)
                assert all("\x21" <= c <= "\x7e" for c in session)
                assert (await self.ping(stack, session)).json()["result"] == {}
                for token, path in (("bob", "/mcp/demo"), ("other", "/mcp/demo"), ("alice", "/mcp/second")):
                    stolen = await self.ping(stack, session, path=path, token=token)
                    assert (stolen.status_code, stolen.json()["error"]["code"]) == (404, -32600), token
                assert (await self.ping(stack, session[:-2] + "AA")).status_code == 404

    async def test_without_a_session_id_a_legacy_request_is_400(self):
        async with scripted(fine) as upstream, running(spec("demo", url=upstream.url)) as stack:
            answer = await self.ping(stack, "")
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32600)

    async def test_delete_ends_a_session_for_good(self):
        import httpx2

        async with scripted(fine) as upstream, running(spec("demo", url=upstream.url)) as stack:
            session = await self.open(stack)
            headers = {"authorization": "Bearer alice", "mcp-session-id": session}
            async with httpx2.AsyncClient() as http:
                assert (await http.delete(stack.url("/mcp/demo"), headers=headers)).status_code == 200
                assert (await http.delete(stack.url("/mcp/demo"), headers=headers)).status_code == 404
            assert (await self.ping(stack, session)).status_code == 404

    async def test_a_notification_is_acknowledged_and_an_unknown_one_ends_here(self):
        async with scripted(fine) as upstream, running(spec("demo", url=upstream.url)) as stack:
            session = await self.open(stack)
            upstream.seen.clear()
            for method in ("notifications/initialized", "notifications/roots/list_changed", "notifications/cancelled"):
                note = {"jsonrpc": "2.0", "method": method, "params": {"requestId": 99}}
                answer = await stack.post("/mcp/demo", note, headers={"mcp-session-id": session})
                assert (answer.status_code, answer.content) == (202, b"")
            assert upstream.seen == []

    async def test_a_notification_with_an_id_is_an_unknown_request_and_a_request_without_one_is_no_notification(self):
        async with scripted(fine) as upstream, running(spec("demo", url=upstream.url)) as stack:
            headers = {"mcp-session-id": await self.open(stack)}
            upstream.seen.clear()
            for method in ("notifications/cancelled", "notifications/initialized"):
                asked = {"jsonrpc": "2.0", "id": 5, "method": method, "params": {"requestId": 1}}
                answer = await stack.post("/mcp/demo", asked, headers=headers)
                assert (answer.status_code, answer.json()["error"]["code"], answer.json()["id"]) == (200, -32601, 5)
            call = {"jsonrpc": "2.0", "method": "tools/call", "params": ECHO}
            answer = await stack.post("/mcp/demo", call, headers=headers)
            assert (answer.status_code, answer.content) == (202, b"")
            assert upstream.seen == []


async def test_errors_never_echo_what_the_client_sent():
    async with scripted(fine) as upstream, running(spec("demo", url=upstream.url)) as stack:
        marker = "MARKER-7731"
        for body in (
            {"jsonrpc": "2.0", "id": 1, "method": marker},
            {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": marker, "_meta": MODERN_META}},
            {"jsonrpc": marker, "id": 1, "method": "ping"},
        ):
            assert marker not in (await stack.post("/mcp/demo", body)).text
        answer = await stack.modern("/mcp/demo", "tools/call", {"name": marker, "arguments": {}})
        assert marker not in answer.text
        assert marker not in json.dumps(stack.kit.audit.records)
