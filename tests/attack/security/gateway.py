"""TP, SH, LO, UR and OR: what the MCP gateway owes to its callers, to the servers behind it, and to this machine."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import httpx2

from tests.attack.security.rows import Stage, by_setting, row
from tests.conformance.token_proxy import TokenProxy
from tests.mcp_gateway.scripted import fine, scripted
from tests.support.composed import composed, modern, raw_exchange, request_bytes, settings
from tests.support.mcp import Credentials, person, running, spec
from tests.support.world import world

ECHO = {"name": "echo", "arguments": {"a": 1}}
INIT = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}},
}


@row("TP-2", "the caller's own token goes to the server", by_setting)
async def token_passed_on(stage: Stage) -> bool:
    """The twin is a plain proxy that adds the token of its caller: the search does find one where there is one."""
    token = "canary-of-the-caller-0123456789"
    people = {token: person("demo:read", "demo:write")}
    own = Credentials({"demo": ((b"authorization", b"Bearer of-the-house"),)})
    async with scripted(fine) as upstream:
        if stage.off:
            proxy = TokenProxy(token)
            await proxy.start()
            proxy.upstream_port = upstream.port
            body, headers = modern("tools/call", ECHO)
            await raw_exchange(proxy.port, request_bytes("/mcp", "x", list(headers.items()), json.dumps(body).encode()))
            await proxy.close()
        else:
            async with running(spec("demo", url=upstream.url), people=people, credentials=own) as stack:
                for path, mode in (("/mcp/demo", "auto"), ("/mcp/demo", "legacy"), ("/mcp", "auto")):
                    name = "demo__echo" if path == "/mcp" else "echo"
                    async with stack.client(path, mode=mode, token=token, cache=None) as client:
                        await client.list_tools()
                        assert not (await client.call_tool(name, {"a": 1})).is_error
            assert any(h.get("authorization") == "Bearer of-the-house" for h, _ in upstream.seen)
        assert upstream.seen
        return any(token in json.dumps([headers, body]) for headers, body in upstream.seen)


@row("TP-3", "a call leaves no trace of who made it", by_setting)
async def call_without_record(stage: Stage) -> bool:
    """The twin loses its records: with a log that refuses them nothing is called at all."""
    async with scripted(fine) as upstream, running(spec("demo", url=upstream.url)) as stack:
        assert (await stack.modern("/mcp/demo", "tools/list")).status_code == 200
        before = len(stack.kit.audit.records)
        if stage.off:
            stack.kit.audit.broken = True
            answer = await stack.modern("/mcp/demo", "tools/call", ECHO)
            assert answer.status_code == 503
            assert "tools/call" not in upstream.methods()
        else:
            assert (await stack.modern("/mcp/demo", "tools/call", ECHO)).status_code == 200
            assert "tools/call" in upstream.methods()
        who = [
            (r["subject"], r["client"], r["upstream"], r["exchange"])
            for r in stack.kit.audit.records[before:]
            if r["kind"] == "decision" and r["point"] == "mcp.tool.call"
        ]
        alice = stack.auth.people["alice"]
        return not any(row[:3] == (alice.subject, alice.client_id, "demo") and row[3] for row in who)


async def _session(stack, token: str) -> str:  # type: ignore[no-untyped-def]
    answer = await stack.post("/mcp/demo", INIT, token=token)
    assert answer.status_code == 200, answer.text
    return str(answer.headers["mcp-session-id"])


def _people() -> dict[str, object]:
    rights = ("demo:read", "demo:write", "second:read")
    return {
        "alice": person(*rights),
        "bob": person(*rights, subject="u_bob"),
        "other-client": person(*rights, client_id="https://other.example/client.json"),
        "other-tenant": person(*rights, tenant="rival"),
    }


@row("SH-1", "a session id is stolen and used with another token", by_setting)
async def stolen_session(stage: Stage) -> bool:
    """The twin has the token of the session's owner. A stolen id is answered exactly as one that never was."""
    listing = {"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {}}
    async with scripted(fine) as upstream:
        specs = (spec("demo", url=upstream.url), spec("second", url=upstream.url))
        async with running(*specs, people=_people()) as stack:  # type: ignore[arg-type]
            stolen = await _session(stack, "alice")
            thieves = ["alice"] if stage.off else ["bob", "other-client", "other-tenant"]
            answers = [
                await stack.post("/mcp/demo", listing, token=t, headers={"mcp-session-id": stolen}) for t in thieves
            ]
            invented = await stack.post(
                "/mcp/demo", listing, token="bob", headers={"mcp-session-id": "A" * len(stolen)}
            )
            nobody = await stack.post("/mcp/demo", listing, token="", headers={"mcp-session-id": stolen})
            elsewhere = await stack.post("/mcp/second", listing, headers={"mcp-session-id": stolen})
            assert (invented.status_code, nobody.status_code, elsewhere.status_code) == (404, 401, 404)
            for answer in answers if not stage.off else []:
                assert answer.status_code == 404
                assert _without_ids(answer.json()) == _without_ids(invented.json())
            async with httpx2.AsyncClient() as http:
                for thief in thieves if not stage.off else []:
                    given = {"authorization": f"Bearer {thief}", "mcp-session-id": stolen}
                    assert (await http.delete(stack.url("/mcp/demo"), headers=given)).status_code == 404
            alive = await stack.post("/mcp/demo", listing, headers={"mcp-session-id": stolen})
            assert alive.status_code == 200, "nobody else ended it"
            return any(answer.status_code == 200 for answer in answers)


def _without_ids(body: dict) -> dict:  # type: ignore[type-arg]
    return {**body, "id": None, "error": {**body["error"], "data": None}}


@row("LO-1", "a program runs before an operator has agreed to it", by_setting)
async def program_without_consent(stage: Stage) -> bool:
    """A child that leaves a mark when it runs. The twin is approved; a server added by API has no command at all."""
    mark = stage.path / "ran"
    script = stage.path / "server.py"
    script.write_text(f"open({str(mark)!r}, 'w').close()\n")
    one = spec(
        "demo",
        transport="stdio",
        command=(sys.executable, "-I", "-S", str(script)),
        sandbox="off",
        unsandboxed=True,
        open_s=2.0,
    )
    async with running(one, approved=stage.off, scratch=str(stage.path / "scratch"), engine=_real_engine()) as stack:
        answer = await stack.modern("/mcp/demo", "tools/list")
        assert answer.status_code in (200, 403, 502), answer.text
        assert "error" in answer.json()
    return mark.exists()


def _real_engine():  # type: ignore[no-untyped-def]
    from firewall.decide.bundle import load
    from firewall.decide.regorus import RegorusEngine

    return RegorusEngine(load(wait=False))


@row("LO-2", "a program reads the environment of the firewall", by_setting)
async def environment_of_ours(stage: Stage) -> bool:
    """The twin is given the secret on purpose, by its own configuration."""
    stage.patch.setenv("BARTIZAN_CANARY", "canary-of-the-environment")
    child = Path(__file__).resolve().parents[2] / "mcp_gateway" / "child.py"
    one = spec(
        "demo",
        transport="stdio",
        command=(sys.executable, "-I", "-S", str(child), str(stage.path)),
        env={"BARTIZAN_CANARY": "given"} if stage.off else {},
        sandbox="off",
        unsandboxed=True,
    )
    async with running(one, scratch=str(stage.path / "scratch")) as stack:
        answer = await stack.modern("/mcp/demo", "tools/call", {"name": "report", "arguments": {}})
        told = json.loads(answer.json()["result"]["content"][0]["text"])
        assert not set(told["environment"]) & (set(os.environ) - {"PATH", "HOME", "TMPDIR", "LANG", "BARTIZAN_CANARY"})
        assert told["cwd"] != os.getcwd()
    return "BARTIZAN_CANARY" in told["environment"]


@row("LO-4", "a page in the browser reaches the local listener under a name of its own", by_setting)
async def rebound_browser(stage: Stage) -> bool:
    """DNS rebinding: the browser's own Host, and its Origin. The twin has no edge; both still need a token."""
    async with scripted(fine) as upstream, running(spec("demo", url=upstream.url), edge=not stage.off) as stack:
        passed = []
        for name, value, refused in (("host", "evil.example", 421), ("origin", "https://evil.example", 403)):
            answer = await stack.modern("/mcp/demo", "tools/list", **{name: value})
            assert answer.status_code in (200, refused)
            passed.append(answer.status_code == 200)
        assert (await stack.post("/mcp/demo", {}, token="")).status_code == 401
        assert all(passed) or not any(passed)
        return any(passed)


@row("OR-1", "a page of another origin reaches any path", by_setting)
async def foreign_origin(stage: Stage) -> bool:
    """403 before the body is read: it is no JSON, and the length says more than comes. The twin's origin is configured."""
    paths = [
        "/mcp/one", "/mcp", "/mcp/one/", "/v1/chat/completions", "/.well-known/oauth-protected-resource/mcp/one",
        "/.well-known/oauth-authorization-server", "/authorize", "/token", "/register", "/nowhere",
    ]  # fmt: skip
    origin = "https://console.example"
    async with world() as upstreams:
        one = {"url": upstreams.add_mcp("one"), "network": "loopback"}
        config = settings(stage.path / "state", mcp={"one": one})
        if stage.off:
            config["origins"] = [origin]
        async with composed(config) as wall:
            statuses = {}
            for path in paths:
                for verb in ("GET", "POST", "DELETE"):
                    fields = [("origin", origin), ("content-type", "application/json"), ("connection", "close")]
                    host = f"127.0.0.1:{wall.port}"
                    sent = request_bytes(path, host, fields, b"{" if verb == "POST" else b"", verb=verb)
                    statuses[verb, path] = (await raw_exchange(wall.port, sent)).status
            public = {(v, p) for v, p in statuses if "/.well-known/" in p or p in ("/token", "/register")}
            reached = {key: status for key, status in statuses.items() if status != 403 and key not in public}
            return bool(reached)
