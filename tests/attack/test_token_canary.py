"""TP-2 over everything: a caller's token goes through every method, both eras, and every transport; it comes out nowhere.

Each server keeps every byte that reached it. The twin of the search is the house's own credential, which does
arrive, and a harmless argument.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.mcp_gateway.legacy import LegacyClient
from tests.sim.planted import ERAS as SIDES
from tests.sim.planted import Era, planted
from tests.support.mcp import MODERN_META, Credentials, Stack, person, running, spec

pytestmark = [pytest.mark.flow, pytest.mark.timeout(120)]
TOKEN = "canary-token-7f3a9c1e5b"
HOUSE = "credential-of-the-house"
WORD = "harmless-word"
ABLE = {
    "sampling": {},
    "elicitation": {"form": {}, "url": {}},
    "roots": {},
    "extensions": {"io.modelcontextprotocol/tasks": {}},
}
ANSWERS = {
    "elicitation/create": {"action": "accept", "content": {"colour": "blue"}},
    "sampling/createMessage": {"role": "assistant", "model": "m", "content": {"type": "text", "text": "x"}},
    "roots/list": {"roots": []},
}
CALLS = ("text", "structured", "progress", "log", "error", "ask-form", "ask-url", "ask-sampling", "ask-roots", "task")
METHODS: list[tuple[str, dict[str, Any]]] = [
    ("server/discover", {}),
    ("ping", {}),
    ("tools/list", {}),
    *(("tools/call", {"name": name, "arguments": {"word": WORD}}) for name in CALLS),
    ("resources/list", {}),
    ("resources/templates/list", {}),
    ("resources/read", {"uri": "test://one"}),
    ("resources/subscribe", {"uri": "test://one"}),
    ("resources/unsubscribe", {"uri": "test://one"}),
    ("prompts/list", {}),
    ("prompts/get", {"name": "greet", "arguments": {"who": WORD}}),
    ("completion/complete", {"ref": {"type": "ref/prompt", "name": "greet"}, "argument": {"name": "who", "value": WORD}}),
    ("logging/setLevel", {"level": "debug"}),
    ("tasks/get", {"taskId": "{task}"}),
    ("tasks/result", {"taskId": "{task}"}),
    ("tasks/list", {}),
    ("tasks/cancel", {"taskId": "{task}"}),
    ("no/such", {}),
]  # fmt: skip


async def modern(stack: Stack) -> str:
    """Send every method as a modern client; answer what is asked; return all that was answered."""
    told, task = "", "x"
    meta = {"io.modelcontextprotocol/clientCapabilities": ABLE, "io.modelcontextprotocol/logLevel": "debug"}
    for method, given in METHODS:
        params = json.loads(json.dumps(given).replace("{task}", task)) | {"_meta": {**MODERN_META, **meta}}
        named = params.get("uri", params.get("taskId"))
        extra = {"mcp-name": named} if named else {}
        answer = await stack.modern("/mcp/planted", method, params, token=TOKEN, **extra)
        told += answer.text + str(answer.headers)
        result = _last(answer.text).get("result", {})
        task = result.get("taskId", task)
        if result.get("resultType") == "input_required":
            responses = {key: ANSWERS[asked["method"]] for key, asked in result["inputRequests"].items()}
            again = {**params, "inputResponses": responses, "requestState": result["requestState"]}
            told += (await stack.modern("/mcp/planted", method, again, token=TOKEN, **extra)).text
    return told


async def legacy(stack: Stack) -> str:
    """The same in a session, with a stream that is lost and taken up again."""
    client, told, task = LegacyClient(stack, "/mcp/planted", TOKEN), "", "x"
    await client.initialize(ABLE)
    for number, (method, given) in enumerate(METHODS, 2):
        params = json.loads(json.dumps(given).replace("{task}", task))
        if params.get("name") == "task":
            params["task"] = {"ttl": 60000}
        if params.get("name", "").startswith("ask"):
            async with client.call(params["name"], rpc_id=number) as events:
                while (said := await events.message(10)) is not None:
                    told += json.dumps(said)
                    if "method" in said and "id" in said:
                        await client.answer(said, ANSWERS[said["method"]])
            continue
        answer = await client.request(method, params, rpc_id=number)
        told += answer.text + str(answer.headers)
        task = (_last(answer.text).get("result", {}).get("task") or {}).get("taskId", task)
    async with client.call("progress", rpc_id=90) as events:
        last = await events.next()
    assert last is not None
    async with client.get(last.id) as replay:
        while (said := await replay.message(5)) is not None and "result" not in said:
            told += json.dumps(said)
    return told


def _last(text: str) -> dict[str, Any]:
    lines = [text] if text.startswith("{") else [line[5:] for line in text.split("\n") if line.startswith("data:")]
    found = [json.loads(line) for line in lines if line.strip()]
    return dict(found[-1]) if found else {}


@pytest.mark.parametrize("front", ["modern", "legacy"])
@pytest.mark.parametrize("back", SIDES)
async def test_the_callers_token_reaches_no_server_by_any_method(front: str, back: Era) -> None:
    people = {TOKEN: person("planted:read", "planted:write")}
    own = Credentials({"planted": ((b"authorization", f"Bearer {HOUSE}".encode()),)})
    async with planted(back) as server:
        one = spec(
            "planted",
            url=server.url,
            era=back,
            asks=frozenset({"sampling", "elicitation", "roots"}),
            effects={tool["name"]: "read" for tool in server.tools()},
            answer_s=10.0,
        )
        async with running(one, people=people, credentials=own) as stack:
            told = await (modern(stack) if front == "modern" else legacy(stack))
            records = json.dumps(stack.kit.audit.records)
            assert stack.kit.faults == []
        received = server.received()
    methods = {body.get("method") for _, _, body in server.seen if body}
    assert {"tools/call", "resources/read", "prompts/get", "completion/complete"} <= methods
    assert WORD in received
    assert HOUSE in received
    for place, text in (("the server", received), ("an answer", told), ("a record", records)):
        assert TOKEN not in text, place
    assert HOUSE not in told + records


async def test_the_callers_token_reaches_no_program(tmp_path: Path) -> None:
    """Stdio: neither what is written to the pipe nor the environment holds it."""
    heard = tmp_path / "heard"
    script = tmp_path / "server.py"
    child = Path(__file__).resolve().parents[1] / "mcp_gateway" / "child.py"
    script.write_text(
        "import io, os, sys\n"
        f"log = open({str(heard)!r}, 'a')\n"
        "log.write(repr(sorted(os.environ.items())) + '\\n')\n"
        "class Tee(io.TextIOBase):\n"
        "    def __iter__(self):\n"
        "        for line in sys.__stdin__:\n"
        "            log.write(line); log.flush()\n"
        "            yield line\n"
        "sys.stdin = Tee()\n"
        f"exec(open({str(child)!r}).read())\n"
    )
    people = {TOKEN: person("demo:read", "demo:write")}
    command = (sys.executable, "-I", "-S", str(script), str(tmp_path))
    one = spec("demo", transport="stdio", command=command, sandbox="off", unsandboxed=True)
    async with running(one, people=people, scratch=str(tmp_path / "scratch")) as stack:
        for name in ("fine", "progress"):
            call = {"name": name, "arguments": {"word": WORD}}
            assert (await stack.modern("/mcp/demo", "tools/call", call, token=TOKEN)).status_code == 200
        client = LegacyClient(stack, "/mcp/demo", TOKEN)
        await client.initialize({})
        assert (await client.request("tools/call", {"name": "fine", "arguments": {}})).status_code == 200
    text = heard.read_text()
    assert WORD in text
    assert TOKEN not in text
