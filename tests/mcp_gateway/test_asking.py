"""The four cells of the bridge with real SDK servers and clients: whoever asks, of whatever era, is answered."""

import asyncio
import contextlib

import mcp_types as t
import pytest
from mcp.shared.exceptions import MCPError

from mcp_gateway import asking
from tests.mcp_gateway.asking_server import URL, build
from tests.mcp_gateway.scripted import event, head, result, scripted
from tests.support.kit import ALLOW, ScriptedEngine
from tests.support.mcp import running, served, spec

pytestmark = pytest.mark.flow
ALL = frozenset({"sampling", "elicitation", "roots"})
CELLS = [(client, server) for client in ("auto", "legacy") for server in ("modern", "legacy")]
CELL_IDS = [f"{client} client, {server} upstream" for client, server in CELLS]


class User:
    """Answers whatever a server asks; keeps the questions."""

    def __init__(self, *names: str, action: str = "accept") -> None:
        self.names = list(names or ("Ada",))
        self.action = action
        self.asked: list = []

    async def elicit(self, _ctx, params):
        self.asked.append(params)
        if params.mode == "url" or self.action != "accept":
            return t.ElicitResult(action=self.action)
        return t.ElicitResult(action="accept", content={"name": self.names.pop(0)})

    async def sample(self, _ctx, params):
        self.asked.append(params)
        return t.CreateMessageResult(role="assistant", content=t.TextContent(type="text", text="hi"), model="m")

    async def roots(self, _ctx):
        self.asked.append("roots")
        return t.ListRootsResult(roots=[t.Root(uri="file:///srv/desk/a"), t.Root(uri="file:///home/ada/private")])

    @property
    def callbacks(self):
        return {
            "elicitation_callback": self.elicit,
            "sampling_callback": self.sample,
            "list_roots_callback": self.roots,
        }


@contextlib.asynccontextmanager
async def cell(client: str, server: str, user: User, engine=None, **changes):
    async with served(build(modern=server == "modern").streamable_http_app()) as origin:
        given = {"asks": ALL, "roots": ("/srv/desk",), "era": server, **changes}
        one = spec("demo", url=origin + "/mcp", **given)
        async with running(one, engine=engine or ScriptedEngine()) as stack:
            async with stack.client("/mcp/demo", mode=client, **user.callbacks) as mcp:
                yield mcp, stack


def text(result) -> str:
    return result.content[0].text


@pytest.mark.parametrize(("client", "server"), CELLS, ids=CELL_IDS)
class TestEveryCell:
    async def test_a_form_is_answered_and_says_who_asks(self, client, server):
        user = User()
        async with cell(client, server, user) as (mcp, _):
            assert text(await mcp.call_tool("form", {})) == "accept Ada"
        assert [q.message for q in user.asked] == ['The server "demo" asks: Who are you?']

    @pytest.mark.parametrize("action", ["decline", "cancel"])
    async def test_who_declines_is_heard(self, client, server, action):
        async with cell(client, server, User(action=action)) as (mcp, _):
            assert text(await mcp.call_tool("form", {})) == f"{action} None"

    async def test_an_address_is_shown_and_answered(self, client, server):
        user = User()
        async with cell(client, server, user) as (mcp, _):
            assert text(await mcp.call_tool("link", {})) == "accept"
        assert [q.url for q in user.asked] == [URL]

    async def test_a_model_is_asked_without_the_context_of_others(self, client, server):
        user = User()
        async with cell(client, server, user) as (mcp, _):
            assert text(await mcp.call_tool("model", {})) == "said hi"
        assert [(q.include_context, q.max_tokens) for q in user.asked] == [("none", 50)]

    async def test_only_roots_that_configuration_allows_are_told(self, client, server):
        async with cell(client, server, User()) as (mcp, _):
            assert text(await mcp.call_tool("roots", {})) == "roots ['file:///srv/desk/a']"

    async def test_a_question_after_an_answer_is_asked_too(self, client, server):
        async with cell(client, server, User("Ada", "Grace")) as (mcp, _):
            assert text(await mcp.call_tool("twice", {})) == "Ada and Grace"

    async def test_every_question_and_answer_is_decided_at_its_point_with_its_facts(self, client, server):
        engine = ScriptedEngine()
        async with cell(client, server, User(), engine) as (mcp, _):
            await mcp.call_tool("form", {})
        seen = [i for i in engine.inputs if i["point"].startswith("mcp.elicitation")]
        points = [i["point"] for i in seen]
        assert points == ["mcp.elicitation.ask", "mcp.elicitation.answer"]
        assert seen[0]["action"]["properties"]["arguments"] == {
            "mode": "form", "fields": ["name"], "titles": [], "formats": [],
        }  # fmt: skip
        assert seen[1]["action"]["properties"]["arguments"] == {"action": "accept", "fields": ["name"]}
        assert seen[0]["resource"]["properties"]["asks"] == sorted(ALL)

    @pytest.mark.parametrize("point", ["mcp.elicitation.ask", "mcp.elicitation.answer"])
    async def test_a_refused_question_or_answer_never_arrives(self, client, server, point):
        """The twins are the tests above: the same exchange without the refusal."""
        reason = {"rule": "t.no", "effect": "deny", "code": "because", "owasp": [], "severity": 40}
        no = {**ALLOW, "decision": False, "effect": "deny", "risk": 40, "reasons": [reason]}
        user = User()
        engine = ScriptedEngine(lambda asked: no if asked["point"] == point else ALLOW)
        async with cell(client, server, user, engine) as (mcp, stack):
            heard = "nothing"
            with contextlib.suppress(MCPError):
                told = await mcp.call_tool("form", {})
                heard = "an error" if told.is_error else text(told)
            assert "accept" not in heard
            assert len(stack.gateway._asking.conversations) == 0
        assert len(user.asked) == (0 if point.endswith("ask") else 1)

    async def test_a_server_that_nobody_lets_ask_is_declared_nothing(self, client, server):
        user = User()
        async with cell(client, server, user, asks=frozenset()) as (mcp, _):
            with contextlib.suppress(MCPError):
                assert (await mcp.call_tool("form", {})).is_error
        assert user.asked == []


async def test_a_server_of_both_eras_that_asks_mid_call_can_ask_a_legacy_client_through_us_too():
    """The official server answers `server/discover`, and its mid-call questions work in the legacy era only."""
    user = User()
    async with cell("legacy", "legacy", user, era="auto") as (mcp, _):
        assert text(await mcp.call_tool("form", {})) == "accept Ada"
    async with cell("legacy", "legacy", User(), era="modern") as (mcp, _):  # without the choice it cannot
        with pytest.raises(MCPError):
            await mcp.call_tool("form", {})


async def test_a_server_of_the_modern_era_alone_is_asked_for_a_legacy_session_once():
    user = User("Ada", "Bea")
    opened = []

    app = build(modern=True).streamable_http_app()

    async def modern_only(scope, receive, send):
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        told = [await receive()]
        if b'"initialize"' in told[0].get("body", b""):
            opened.append(1)
            await send({"type": "http.response.start", "status": 400, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return

        async def again():
            return told.pop() if told else await receive()

        await app(scope, again, send)

    async with served(modern_only) as origin:
        one = spec("demo", url=origin + "/mcp", asks=ALL)
        async with running(one) as stack, stack.client("/mcp/demo", mode="legacy", **user.callbacks) as mcp:
            assert [text(await mcp.call_tool("form", {})) for _ in "ab"] == ["accept Ada", "accept Bea"]
    assert opened == [1]


async def test_a_server_asks_so_many_questions_within_one_call_and_no_more(monkeypatch):
    """Each is a decision, two records and a message upstream: no server buys that without end."""
    monkeypatch.setattr(asking, "QUESTIONS_PER_CALL", 20)

    async def nosy(asked, send):
        await send(head("text/event-stream"))
        for n in range(200):
            question = {"jsonrpc": "2.0", "id": f"q{n}", "method": "sampling/createMessage", "params": {"messages": 1}}
            await send(event(question))
            async with asyncio.timeout(2):
                while not any(body.get("id") == f"q{n}" for _, body in upstream.seen):
                    await asyncio.sleep(0.001)

    async def asks(asked, send, *, questions=20):
        await send(head("text/event-stream"))
        for n in range(questions):
            await send(event({"jsonrpc": "2.0", "id": f"r{n}", "method": "roots/list"}))
            await asyncio.sleep(0.01)
        await send(event(result(asked)))

    async with scripted(nosy, legacy=True) as upstream:
        async with running(spec("demo", url=upstream.url, asks=ALL, era="legacy"), engine=ScriptedEngine()) as stack:
            async with stack.client("/mcp/demo", mode="legacy", **User().callbacks) as mcp:
                with pytest.raises(MCPError):
                    await mcp.call_tool("echo", {})
                answered = {str(body["id"]) for _, body in upstream.seen if "error" in body}
                assert answered == {f"q{n}" for n in range(20)}
                upstream.call = asks  # the twin: as many as are allowed
                assert text(await mcp.call_tool("echo", {})) == "fine"
