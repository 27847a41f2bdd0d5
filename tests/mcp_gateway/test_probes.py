"""Every probe of the wire, over real sockets, with its exact answer: status, JSON-RPC code, and what must not be told.

The order of the checks is part of the answer: a request that breaks two rules is told of the first (MCP
2026-07-28, transports; our order stands in `mcp_gateway.serve`). Nothing of a probe comes back in an answer.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.mcp_gateway.scripted import Scripted, fine, scripted
from tests.support.composed import raw_exchange, request_bytes
from tests.support.mcp import MODERN_META, Stack, person, running, spec

pytestmark = pytest.mark.flow
ODD = "zq7-marker"  # stands in whatever a probe sends that is wrong, and nowhere in an answer
PV, CC = "io.modelcontextprotocol/protocolVersion", "io.modelcontextprotocol/clientCapabilities"
INIT = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}},
}


@dataclass
class Probe:
    """One request. drop: headers left out; add: headers beside the good ones; change: headers put anew."""

    name: str
    status: int
    code: int | None
    method: str = "tools/call"
    params: dict[str, Any] | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    raw: bytes | None = None
    verb: str = "POST"
    path: str = "/mcp/demo"
    era: str = "modern"
    rpc_id: Any = 1
    drop: tuple[str, ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    change: dict[str, str] = field(default_factory=dict)
    header: tuple[str, str] = ("", "")
    reached: bool = False

    def request(self, port: int) -> bytes:
        """Return its bytes."""
        params = {"name": "echo", "arguments": {"a": 1}} if self.params is None else dict(self.params)
        headers = {
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "authorization": "Bearer alice",
        }
        if self.era == "modern":
            params["_meta"] = {k: v for k, v in {**MODERN_META, **self.meta}.items() if v is not None}
            headers |= {"mcp-protocol-version": "2026-07-28", "mcp-method": self.method}
            if isinstance(params.get("name"), str):
                headers["mcp-name"] = params["name"]
        headers |= self.change
        pairs = [(k, v) for k, v in headers.items() if k not in self.drop] + [*self.add, ("connection", "close")]
        body = {"jsonrpc": "2.0", "id": self.rpc_id, "method": self.method, "params": params}
        data = json.dumps(body).encode() if self.raw is None else self.raw
        return request_bytes(self.path, f"127.0.0.1:{port}", pairs, b"" if self.verb == "GET" else data, verb=self.verb)


def legacy(name: str, status: int, code: int | None, **more: Any) -> Probe:
    """Return a probe without a modern envelope."""
    return Probe(name, status, code, era="legacy", **more)


B64 = "=?base64?ZWNobw==?="
PROBES = [
    Probe("a good modern call", 200, None, reached=True),
    Probe("Mcp-Name in base64", 200, None, change={"mcp-name": B64}, reached=True),
    Probe("Mcp-Name with space around it", 200, None, change={"mcp-name": "  echo\t"}, reached=True),
    Probe("a session id and a Last-Event-ID, which this era ignores", 200, None,
          add=(("mcp-session-id", ODD), ("last-event-id", ODD)), reached=True),
    Probe("an unknown Mcp-Param", 200, None, add=(("mcp-param-other", ODD),), reached=True),
    # headers and body
    Probe("Mcp-Name of another tool", 400, -32020, change={"mcp-name": ODD}),
    Probe("Mcp-Name missing", 400, -32020, drop=("mcp-name",)),
    Probe("Mcp-Name twice", 400, -32020, add=(("mcp-name", "echo"),)),
    Probe("Mcp-Name in another case", 400, -32020, change={"mcp-name": "Echo"}),
    Probe("Mcp-Name in base64 that is not exact", 400, -32020, change={"mcp-name": "=?base64?ZWNobw?="}),
    Probe("Mcp-Method of another method", 400, -32020, change={"mcp-method": "tools/list"}),
    Probe("Mcp-Method missing", 400, -32020, drop=("mcp-method",)),
    Probe("Mcp-Method twice", 400, -32020, add=(("mcp-method", "tools/call"),)),
    Probe("the revision twice", 400, -32020, add=(("mcp-protocol-version", "2026-07-28"),)),
    Probe("a header's revision that the body does not name", 400, -32020, meta={PV: "2099-01-01"}),
    # eras
    Probe("a modern body without the header", 400, -32020, drop=("mcp-protocol-version",)),
    Probe("a modern body with a legacy header", 400, -32020, change={"mcp-protocol-version": "2025-11-25"}),
    legacy("a legacy body with a modern header", 400, -32602, change={"mcp-protocol-version": "2026-07-28"}),
    Probe("a revision of the future", 400, -32022, meta={PV: "2099-01-01"}, change={"mcp-protocol-version": "2099-01-01"}),
    legacy("a legacy revision that never was", 400, -32022, change={"mcp-protocol-version": "2024-13-45"}),
    Probe("initialize in the modern era", 404, -32601, method="initialize", params={}),
    Probe("ping in the modern era", 404, -32601, method="ping", params={}),
    Probe("logging/setLevel in the modern era", 404, -32601, method="logging/setLevel", params={"level": "info"}),
    Probe("resources/subscribe in the modern era", 404, -32601, method="resources/subscribe", params={"uri": "a:b"}),
    Probe("tasks/result in the modern era", 404, -32601, method="tasks/result", params={"taskId": ODD}),
    Probe("a server's method from a client", 404, -32601, method="sampling/createMessage", params={}),
    Probe("a method that nobody knows", 404, -32601, method=ODD, params={}),
    # the envelope
    Probe("no revision in _meta", 400, -32602, meta={PV: None}),
    Probe("no capabilities in _meta", 400, -32602, meta={CC: None}),
    Probe("capabilities that are a list", 400, -32602, meta={CC: []}),
    # shapes
    Probe("an array", 400, -32600, raw=b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]'),
    Probe("a string", 400, -32600, raw=b'"zq7-marker"'),
    Probe("no JSON", 400, -32700, raw=b"{zq7-marker"),
    Probe("nothing", 400, -32600, raw=b""),
    Probe("bytes that are no UTF-8", 400, -32700, raw=b'{"jsonrpc":"2.0","id":1,"method":"\xff"}'),
    Probe("UTF-8 of a surrogate", 400, -32700, raw=b'{"jsonrpc":"2.0","id":1,"method":"\xed\xa0\x80"}'),
    Probe("a lone surrogate", 400, -32600, raw=b'{"jsonrpc":"2.0","id":1,"method":"\\ud800"}'),
    Probe("a byte order mark", 400, -32700, raw=b'\xef\xbb\xbf{"jsonrpc":"2.0","id":1,"method":"ping"}'),
    Probe("a key that stands twice", 400, -32600, raw=b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}'),
    Probe("the same key, escaped once", 400, -32600, raw=b'{"jsonrpc":"2.0","id":1,"\\u0069d":2,"method":"ping"}'),
    Probe("not a number", 400, -32700, raw=b'{"jsonrpc":"2.0","id":NaN,"method":"ping"}'),
    Probe("no method and no result", 400, -32600, raw=b'{"jsonrpc":"2.0","id":1}'),
    Probe("a response, which this era has not", 400, -32600,
          raw=b'{"jsonrpc":"2.0","id":"q","result":{"resultType":"complete"}}'),
    Probe("too deep", 400, -32600, raw=b'{"jsonrpc":"2.0","id":1,"method":"ping","params":' + b'{"a":' * 70 + b"1" + b"}" * 71),
    Probe("too large by its own account", 413, -32600, change={"content-length": "5000000"}),
    *(Probe(f"an id that is {what}", 400, -32600, rpc_id=value) for what, value in (
        ("null", None), ("true", True), ("a fraction", 1.5), ("an array", [1]), ("an object", {}), ("too long", "x" * 300),
        ("beyond the safe integers", 2**53),
    )),
    *(Probe(f"an id that is {what}", 200, None, rpc_id=value, reached=True) for what, value in (
        ("zero", 0), ("negative", -1), ("the largest", 2**53 - 1), ("empty", ""), ("a word", "one"), ("a number in words", "1"),
    )),
    Probe("a tool's name that is a number", 400, -32020, params={"name": 7, "arguments": {}}),
    Probe("arguments that are a list", 400, -32602, params={"name": "echo", "arguments": []}),
    Probe("a cursor of somebody's own", 400, -32602, method="tools/list", params={"cursor": ODD}),
    Probe("a requestState of somebody's own", 400, -32602,
          params={"name": "echo", "arguments": {"a": 1}, "requestState": ODD, "inputResponses": {}}),
    # HTTP
    Probe("GET in the modern era", 405, None, verb="GET", header=("allow", "POST")),
    Probe("DELETE in the modern era", 405, None, verb="DELETE", header=("allow", "POST")),
    Probe("only JSON accepted", 406, -32600, change={"accept": "application/json"}),
    Probe("only streams accepted", 406, -32600, change={"accept": "text/event-stream"}),
    Probe("a form", 400, -32600, change={"content-type": "application/x-www-form-urlencoded"}),
    Probe("plain text", 415, -32600, change={"content-type": "text/plain"}),
    Probe("a content coding", 415, -32600, add=(("content-encoding", "gzip"),)),
    Probe("no token", 401, -31401, drop=("authorization",)),
    Probe("a token in the address", 400, -32600, drop=("authorization",), path="/mcp/demo?access_token=alice"),
    Probe("two tokens", 400, None, add=(("authorization", "Bearer alice"),)),
    Probe("another host", 421, None, change={"host": "evil.example"}),
    Probe("another origin", 403, None, add=(("origin", "https://evil.example"),)),
    Probe("the origin null", 403, None, add=(("origin", "null"),)),
    # paths: two spellings, no redirect, nothing else
    Probe("a slash at the end", 200, None, path="/mcp/demo/", reached=True),
    *(Probe(f"the path {path}", 404, None, path=path) for path in (
        "/mcp/demo/x", "/mcp/nobody", "/MCP/demo", "/mcp/demo;x", "/mcp/..", "/mcp/demo//", "//mcp/demo", "/%6dcp/demo", "/mcp/./demo",
    )),
    # sessions
    legacy("a request without a session", 400, -32600, method="tools/list", params={}),
    legacy("a session that never was", 404, -32600, method="tools/list", params={}, add=(("mcp-session-id", ODD),)),
    legacy("two sessions", 400, None, method="tools/list", params={}, add=(("mcp-session-id", ODD), ("mcp-session-id", ODD))),
    legacy("the end of a session that never was", 404, -32600, verb="DELETE", add=(("mcp-session-id", ODD),)),
    legacy("a stream of a session that never was", 404, -32600, verb="GET", add=(("mcp-session-id", ODD),),
           change={"accept": "text/event-stream"}),
    legacy("an answer without a session", 400, -32600, raw=b'{"jsonrpc":"2.0","id":"q","result":{}}'),
]  # fmt: skip


@pytest.fixture(scope="module")
async def rig() -> AsyncIterator[tuple[Stack, Scripted]]:
    """One gateway and one upstream for all probes: no probe leaves anything behind."""
    async with scripted(fine) as upstream, running(spec("demo", url=upstream.url)) as stack:
        assert (await stack.modern("/mcp/demo", "tools/list")).status_code == 200
        yield stack, upstream


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name.replace(" ", "_"))
async def test_a_probe_gets_its_exact_answer(rig: tuple[Stack, Scripted], probe: Probe) -> None:
    stack, upstream = rig
    before = upstream.methods().count("tools/call")
    answer = await raw_exchange(stack.port, probe.request(stack.port))
    told = f"{answer.status} {answer.body[:300]!r}"
    assert answer.status == probe.status, told
    if probe.code is not None:
        assert answer.json["error"]["code"] == probe.code, told
        assert answer.json["jsonrpc"] == "2.0"
    if probe.reached:
        assert answer.json["id"] == probe.rpc_id
        assert type(answer.json["id"]) is type(probe.rpc_id)
    if probe.header[0]:
        assert answer.header(probe.header[0]) == probe.header[1]
    assert ODD not in answer.text, "an answer tells what was sent"
    assert not answer.header("location")
    assert (upstream.methods().count("tools/call") - before == 1) is probe.reached
    assert stack.kit.faults == []


async def test_two_clients_with_one_id_get_an_answer_each() -> None:
    """Both call with id 1 at once, over one upstream connection; each hears its own."""
    import asyncio

    from tests.mcp_gateway.scripted import as_json

    both = asyncio.Event()
    waiting: list[int] = []

    async def hold(asked: dict[str, Any], send: Any) -> None:
        given = asked["params"]["arguments"]["a"]
        waiting.append(asked["id"])
        if len(waiting) == 2:
            both.set()
        await both.wait()
        said = {"resultType": "complete", "content": [{"type": "text", "text": str(given)}]}
        await send(as_json({"jsonrpc": "2.0", "id": asked["id"], "result": said}))

    people = {name: person("demo:read", "demo:write", subject=f"u_{name}") for name in ("ann", "bob")}
    async with scripted(hold) as upstream, running(spec("demo", url=upstream.url), people=people) as stack:
        calls = [
            stack.modern("/mcp/demo", "tools/call", {"name": "echo", "arguments": {"a": n}}, token=name)
            for n, name in enumerate(people)
        ]
        answers = [answer.json() for answer in await asyncio.gather(*calls)]
    assert len(set(waiting)) == 2, "upstream every request has an id of its own"
    assert [a["id"] for a in answers] == [1, 1]
    assert [a["result"]["content"][0]["text"] for a in answers] == ["0", "1"]


@pytest.mark.parametrize(
    "version", ["2025-03-26", "2025-06-18", "2025-11-25", "2024-11-05", "2026-07-28", "1999-01-01", ""]
)
async def test_initialize_is_answered_with_a_revision_that_has_sessions(
    rig: tuple[Stack, Scripted], version: str
) -> None:
    stack, _ = rig
    body = {**INIT, "params": {**INIT["params"], "protocolVersion": version}}  # type: ignore[dict-item]
    answer = await stack.post("/mcp/demo", body)
    served = version if version in ("2025-03-26", "2025-06-18", "2025-11-25") else "2025-11-25"
    assert answer.json()["result"]["protocolVersion"] == served
    session = answer.headers["mcp-session-id"]
    assert 22 <= len(session) <= 256
    assert all(0x21 <= ord(c) <= 0x7E for c in session)
