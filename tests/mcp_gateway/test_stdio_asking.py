"""Children that may ask their callers: one per caller, answered by that one, and gone without harm (LO-2)."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from mcp_gateway.sandbox import Support, detect
from tests.support.mcp import person, running, spec

pytestmark = pytest.mark.flow
CHILD = Path(__file__).with_name("child.py")


@pytest.fixture(scope="module")
def support() -> Support:
    return detect()


def text(answer) -> str:
    return answer["result"]["content"][0]["text"]


ABLE = {"io.modelcontextprotocol/clientCapabilities": {"roots": {}}}


async def test_a_child_that_may_ask_belongs_to_one_caller_and_is_answered_by_that_one(support: Support, tmp_path: Path):
    people = {who: person("kid:read", "kid:write", subject=who) for who in ("alice", "bob")}
    command = (sys.executable, str(CHILD), "legacy")
    given = {"unsandboxed": True, "read": (str(CHILD), sys.prefix, sys.base_prefix)}
    kid = spec("kid", transport="stdio", command=command, asks=frozenset({"roots"}), roots=("/srv",), **given)
    async with running(kid, people=people, support=support, scratch=str(tmp_path / "scratch")) as stack:
        seen = []
        for who in people:
            asked = {"name": "roots", "arguments": {}, "_meta": ABLE}
            told = (await stack.modern("/mcp/kid", "tools/call", asked, token=who)).json()["result"]
            (key,) = told["inputRequests"]
            answer = {"roots": [{"uri": f"file:///srv/{who}"}, {"uri": "file:///etc"}]}
            retry = {**asked, "inputResponses": {key: answer}, "requestState": told["requestState"]}
            done = await stack.modern("/mcp/kid", "tools/call", retry, token=who)
            pid, cwd, heard = text(done.json()).split(" ", 2)
            assert json.loads(heard) == {
                "jsonrpc": "2.0",
                "id": "q2",
                "result": {"roots": [{"uri": f"file:///srv/{who}"}]},
            }
            seen.append((pid, cwd))
        assert len({pid for pid, _ in seen}) == 2
        assert len({cwd for _, cwd in seen}) == 2
        assert all(Path(cwd).parent == tmp_path / "scratch" / "default" for _, cwd in seen)


async def test_a_child_that_dies_while_its_question_waits_ends_the_call_and_the_next_one_works(
    support: Support, tmp_path: Path
):
    command = (sys.executable, str(CHILD), "legacy")
    given = {"unsandboxed": True, "read": (str(CHILD), sys.prefix, sys.base_prefix)}
    kid = spec("kid", transport="stdio", command=command, asks=frozenset({"roots"}), **given)
    async with running(kid, support=support, scratch=str(tmp_path / "scratch")) as stack:
        asked = {"name": "roots", "arguments": {}, "_meta": ABLE}
        told = (await stack.modern("/mcp/kid", "tools/call", asked)).json()["result"]
        (parked,) = (kept for kept, _ in stack.gateway._asking.conversations._parked.values())
        os.kill(parked.link.pid, 9)
        async with asyncio.timeout(5):
            while parked.link.alive:
                await asyncio.sleep(0.01)
            retry = {**asked, "inputResponses": {"q1": {"roots": []}}, "requestState": told["requestState"]}
            assert (await stack.modern("/mcp/kid", "tools/call", retry)).json()["error"]["code"] == -31502
            again = (await stack.modern("/mcp/kid", "tools/call", asked)).json()["result"]
            assert again["resultType"] == "input_required"
