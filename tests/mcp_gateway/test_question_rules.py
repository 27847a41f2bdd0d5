"""What servers may ask and clients may answer under the packaged policy and the real inspection, in every cell.

Each refused question has its twin: the same exchange with nothing wrong in it, which is answered.
"""

import asyncio
import contextlib

import mcp_types as t
import pytest
from mcp.shared.exceptions import MCPError

from firewall.decide.bundle import load
from firewall.decide.regorus import RegorusEngine
from firewall.detect.scan import PatternScanner
from tests.mcp_gateway.scripted import as_json, event, head, result, scripted
from tests.mcp_gateway.test_asking import ALL, CELL_IDS, CELLS, User, text
from tests.support.mcp import running, spec
from tests.support.patterns import PATTERNS

pytestmark = pytest.mark.flow


@pytest.fixture(scope="module")
def real():
    return {"engine": RegorusEngine(load(state_dir=PATTERNS)), "scanner": PatternScanner(cache=PATTERNS)}


def form(message="Who are you?", **fields):
    properties = fields or {"name": {"type": "string"}}
    return "elicitation/create", {"message": message, "requestedSchema": {"type": "object", "properties": properties}}


def link(url):
    return "elicitation/create", {"mode": "url", "url": url, "message": "Sign in", "elicitationId": "e1"}


def sample(most=50, prompt="Say hi", **more):
    messages = [{"role": "user", "content": {"type": "text", "text": prompt}}]
    return "sampling/createMessage", {"messages": messages, "maxTokens": most, **more}


KEY = "AKIA" + "IOSFODNN7EXAMPL3"
TOOL = {"name": "t", "inputSchema": {"type": "object"}}
# (what, the question, whether the server is trusted, whether anybody is asked)
QUESTIONS = [
    ("a form", form(), False, True),
    ("a form for a password", form(password={"type": "string"}), False, False),
    ("a form for a password under another name", form(x={"type": "string", "title": "Your password"}), False, False),
    ("an address", link("https://sign-in.example.com/start"), False, True),
    ("an address in the clear", link("http://sign-in.example.com/start"), False, False),
    ("an address of the house", link("https://10.0.0.1/start"), False, False),
    ("a cloud's metadata", link("https://169.254.169.254/latest"), False, False),
    ("an address with a user part", link("https://bank.example@evil.example.com/"), False, False),
    ("a look-alike address", link("https://xn--pple-43d.com/"), False, False),
    ("a script for an address", link("javascript:alert(1)"), False, False),
    ("sampling", sample(), False, True),
    ("sampling without a bound", sample(1_000_000), False, False),
    ("sampling with a stranger's tools", sample(tools=[TOOL]), False, False),
    ("a trusted server's roots", ("roots/list", {}), True, True),
    ("a stranger's roots", ("roots/list", {}), False, False),
]


def script(server: str, upstream: list, question):
    """Return how a server of an era asks in the middle of a call."""
    method, params = question

    async def modern(asked, send):
        if "inputResponses" in asked["params"]:
            await send(as_json(result(asked, content=[{"type": "text", "text": "answered"}])))
        else:
            requests = {"q": {"method": method, "params": params}}
            await send(as_json(result(asked, resultType="input_required", inputRequests=requests)))

    async def legacy(asked, send):
        said = {"jsonrpc": "2.0", "id": "srv-1", "method": method, "params": params}
        await send(head("text/event-stream") + event(said))
        while not (told := [b for _, b in upstream[0].seen if b.get("id") == "srv-1"]):
            await asyncio.sleep(0.01)
        heard = "answered" if "result" in told[0] else "declined"
        await send(event(result(asked, content=[{"type": "text", "text": heard}])))

    return modern if server == "modern" else legacy


@contextlib.asynccontextmanager
async def cell(client, server, question, user, real, *, trusted=False):
    box: list = []
    async with scripted(script(server, box, question), legacy=server == "legacy") as upstream:
        box.append(upstream)
        trust = "trusted" if trusted else "untrusted"
        one = spec("demo", url=upstream.url, asks=ALL, roots=("/srv/desk",), trust=trust, deadline_s=5.0)
        async with running(one, **real) as stack, stack.client("/mcp/demo", mode=client, **user.callbacks) as mcp:
            yield mcp, upstream


async def outcome(mcp) -> str:
    with contextlib.suppress(MCPError):
        told = await mcp.call_tool("other", {})
        return "refused" if told.is_error else text(told)
    return "refused"


class Able(User):
    """Declares tools in sampling too, so that only policy stands between."""

    @property
    def callbacks(self):
        return {**super().callbacks, "sampling_capabilities": t.SamplingCapability(tools=t.SamplingToolsCapability())}


@pytest.mark.parametrize(("client", "server"), CELLS, ids=CELL_IDS)
@pytest.mark.parametrize(("what", "question", "trusted", "asked"), QUESTIONS, ids=[q[0] for q in QUESTIONS])
async def test_a_question_is_asked_or_not(client, server, what, question, trusted, asked, real):
    class Willing(Able):
        async def elicit(self, ctx, params):
            self.asked.append(params)
            return t.ElicitResult(action="accept", content={} if params.mode == "form" else None)

    user = Willing()
    async with cell(client, server, question, user, real, trusted=trusted) as (mcp, upstream):
        told = await outcome(mcp)
        assert (len(user.asked), told == "answered") == ((1, True) if asked else (0, False)), told
        assert [m for m in upstream.methods() if m == "tools/call"]


@pytest.mark.parametrize(("client", "server"), CELLS, ids=CELL_IDS)
async def test_a_key_in_a_prompt_is_taken_out_and_nothing_is_answered_to_who_showed_it(client, server, real):
    user = Able()
    async with cell(client, server, sample(prompt=f"use {KEY}"), user, real) as (mcp, _):
        assert await outcome(mcp) != "answered"
    assert len(user.asked) == 1
    assert KEY not in str(user.asked)


@pytest.mark.parametrize(("client", "server"), CELLS, ids=CELL_IDS)
async def test_an_answer_with_a_key_in_it_does_not_leave(client, server, real):
    user = User(KEY)
    async with cell(client, server, form(), user, real) as (mcp, upstream):
        assert await outcome(mcp) != "answered"
        assert len(user.asked) == 1
        assert KEY not in str(upstream.seen)


@pytest.mark.parametrize(("client", "server"), CELLS, ids=CELL_IDS)
async def test_the_same_answer_without_one_does(client, server, real):
    """The negative twin of the test above."""
    async with cell(client, server, form(), User("Ada"), real) as (mcp, upstream):
        assert await outcome(mcp) == "answered"
        assert "Ada" in str(upstream.seen)
