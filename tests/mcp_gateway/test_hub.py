"""Listening to upstreams: what is heard, what is asked for, and what a flood or a silence costs."""

import asyncio
import contextlib
import runpy
import sys
import warnings
from pathlib import Path

import anyio
import mcp_types as types
import pytest
from mcp.client.subscriptions import ResourceUpdated, ToolsListChanged
from mcp.server import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.applications import Starlette
from starlette.routing import Mount

from mcp_gateway import hub, subscriptions, uris
from mcp_gateway.heard import Event, Wanted, belongs, event_of, filter_of
from mcp_gateway.hub import Slot
from mcp_gateway.message import SUBSCRIPTION_ID
from tests.support.mcp import running, served, spec

PROGRAM = Path(__file__).with_name("changing.py")
DEMO = spec("demo", url="http://127.0.0.1:1/mcp")


def note(method, **params):
    return {"jsonrpc": "2.0", "method": method, "params": params}


HEARD = [
    (note("notifications/tools/list_changed", x=1), ("tools", "")),
    ({"jsonrpc": "2.0", "method": "notifications/prompts/list_changed"}, ("prompts", "")),
    (note("notifications/resources/list_changed"), ("resources", "")),
    (note("notifications/resources/updated", uri="file:///a"), ("updated", "file:///a")),
    (note("notifications/tasks", taskId="t"), ("task", "t")),
    (note("notifications/tasks/status", taskId="t"), ("task", "t")),
    (note("notifications/resources/updated"), None),
    (note("notifications/resources/updated", uri=7), None),
    (note("notifications/tasks", taskId=""), None),
    (note("notifications/tasks", taskId="x" * 2000), None),
    (note("notifications/message", level="info", data="x"), None),
    (note("notifications/roots/list_changed"), None),
    ({"jsonrpc": "2.0", "id": 1, "method": "notifications/tools/list_changed"}, None),
    ({"jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": []}, None),
    ({"jsonrpc": "2.0", "method": 7}, None),
]


@pytest.mark.parametrize(("value", "meant"), HEARD)
def test_only_known_notifications_are_heard_and_of_a_list_only_that_it_changed(value, meant):
    event = event_of(DEMO, "key", value)
    assert (None if event is None else (event.what, event.name)) == meant
    if meant and meant[0] != "task":
        assert event.params is None


def test_what_is_wanted_is_asked_for_in_the_words_of_the_protocol():
    both = Wanted(lists=frozenset({"tools"})) | Wanted(uris=frozenset({"b", "a"}), tasks=frozenset({"t"}))
    assert filter_of(both) == {"toolsListChanged": True, "resourceSubscriptions": ["a", "b"], "taskIds": ["t"]}
    assert filter_of(Wanted()) == {}


def test_an_event_goes_to_those_who_want_it():
    wants = Wanted(frozenset({"tools"}), frozenset({"a"}), frozenset({"t"}))
    for event, covered in (
        (Event(DEMO, "k", "tools"), True),
        (Event(DEMO, "k", "prompts"), False),
        (Event(DEMO, "k", "updated", "a"), True),
        (Event(DEMO, "k", "updated", "b"), False),
        (Event(DEMO, "k", "task", "t"), True),
        (Event(DEMO, "k", "task", "u"), False),
    ):
        assert wants.covers(event) is covered
    assert Wanted(any_task=True).covers(Event(DEMO, "k", "task", "u"))


def test_of_two_events_about_one_thing_the_later_waits_and_a_flood_is_bounded():
    slot = Slot(DEMO, "default", "k")
    for n in range(3):
        slot.hear(Event(DEMO, "k", "task", "t", {"n": n}))
    assert [event.params for event in slot.heard.values()] == [{"n": 2}]
    for n in range(hub.WAITING + 10):
        slot.hear(Event(DEMO, "k", "updated", f"uri-{n}"))
    assert len(slot.heard) == hub.WAITING
    assert ("updated", "uri-0") not in slot.heard


def test_a_list_is_told_at_most_once_a_second_and_nothing_else_waits_for_it():
    slot = Slot(DEMO, "default", "k")
    told = []
    for tenth in range(31):
        for what, name in (("tools", ""), ("updated", "a")):
            slot.hear(Event(DEMO, "k", what, name))
        told += [(event.what, tenth) for event in slot.ready(tenth / 10)]
    assert [tenth for what, tenth in told if what == "tools"] == [0, 10, 20, 30]
    assert [tenth for what, tenth in told if what == "updated"] == list(range(31))


def test_a_notification_of_another_listen_is_not_ours():
    for told, mine in ((7, True), ("7", True), (8, False), (True, False), (None, False)):
        assert belongs(note("x", _meta={SUBSCRIPTION_ID: told}), 7) is mine
    assert not belongs({"jsonrpc": "2.0", "method": "x"}, 7)
    assert not belongs(note("x", _meta={SUBSCRIPTION_ID: True}), 1)


# -- against the official SDK ------------------------------------------------------------------------


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(hub, "GAP_S", 0.01)
    monkeypatch.setattr(hub, "LIST_GAP_S", 0.02)
    monkeypatch.setattr(subscriptions, "PAUSE_S", 0.0)


def modern_server():
    """Return a fresh copy of the server in `changing`."""
    return runpy.run_path(str(PROGRAM))["server"]


@pytest.mark.flow
async def test_the_sdk_client_hears_the_sdk_server_through_us(soon):
    async with served(modern_server().streamable_http_app()) as origin:
        async with running(spec("demo", url=origin + "/mcp")) as stack, stack.client("/mcp/demo") as client:
            async with client.listen(tools_list_changed=True, resource_subscriptions=["note://one"]) as heard:
                assert heard.honored.resource_subscriptions == ["note://one"]
                await client.call_tool("change")
                seen = set()
                with anyio.fail_after(10):
                    async for event in heard:
                        seen.add(event)
                        if len(seen) == 2:
                            break
                assert seen == {ToolsListChanged(), ResourceUpdated(uri="note://one")}
                assert {tool.name for tool in (await client.list_tools()).tools} == {"change", "fresh"}


@pytest.mark.flow
async def test_a_program_on_a_pipe_is_heard_and_lives_on_when_nobody_listens(soon, tmp_path):
    command = (sys.executable, str(PROGRAM))
    kid = spec("kid", transport="stdio", command=command, unsandboxed=True, sandbox="off", era="modern")
    async with running(kid, scratch=str(tmp_path)) as stack, stack.client("/mcp/kid") as client:
        async with client.listen(tools_list_changed=True) as heard:
            assert heard.honored.tools_list_changed
            await asyncio.sleep(0.1)
            await client.call_tool("change")
            with anyio.fail_after(10):
                assert await anext(aiter(heard)) == ToolsListChanged()
        async with asyncio.timeout(5):
            while len(stack.gateway._later.hub):
                await asyncio.sleep(0.01)
        assert (await client.call_tool("fresh")).content[0].text == "fresh"


@contextlib.asynccontextmanager
async def legacy_server():
    """An SDK server with sessions only: a GET stream, ``resources/subscribe``, and a tool that changes things."""
    tools = [types.Tool(name="change", input_schema={"type": "object"})]
    watched: list[str] = []

    async def list_tools(_ctx, _params):
        return types.ListToolsResult(tools=tools)

    async def list_resources(_ctx, _params):
        return types.ListResourcesResult(resources=[types.Resource(uri="note://one", name="one")])

    async def watch(_ctx, params):
        watched.append(str(params.uri))
        return types.EmptyResult()

    async def call(ctx, _params):
        tools.append(types.Tool(name="fresh", input_schema={"type": "object"}))
        await ctx.session.send_tool_list_changed()
        await ctx.session.send_resource_updated("note://one")
        return types.CallToolResult(content=[types.TextContent(text="changed")])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        server = Server(
            "sdk",
            on_list_tools=list_tools,
            on_list_resources=list_resources,
            on_call_tool=call,
            on_subscribe_resource=watch,
        )
    manager = StreamableHTTPSessionManager(server)

    @contextlib.asynccontextmanager
    async def lifespan(_app):
        async with manager.run():
            yield

    async with served(Starlette(routes=[Mount("/mcp", manager.handle_request)], lifespan=lifespan)) as origin:
        yield origin + "/mcp/", watched


@pytest.mark.flow
async def test_a_modern_sdk_client_hears_a_legacy_sdk_server_through_us(soon):
    async with legacy_server() as (url, watched):
        async with running(spec("demo", url=url, era="legacy")) as stack, stack.client("/mcp/demo") as client:
            async with client.listen(tools_list_changed=True, resource_subscriptions=["note://one"]) as heard:
                async with asyncio.timeout(10):
                    while watched != ["note://one"]:
                        await asyncio.sleep(0.01)
                await asyncio.sleep(0.1)
                await client.call_tool("change")
                seen = set()
                with anyio.fail_after(10):
                    async for event in heard:
                        seen.add(event)
                        if len(seen) == 2:
                            break
                assert seen == {ToolsListChanged(), ResourceUpdated(uri="note://one")}


@pytest.mark.flow
async def test_a_legacy_sdk_client_hears_a_modern_sdk_server_through_us(soon):
    heard: list[str] = []

    async def handle(message) -> None:
        if not isinstance(message, Exception):
            heard.append(type(message).__name__)

    async with served(modern_server().streamable_http_app()) as origin:
        async with running(spec("demo", url=origin + "/mcp")) as stack:
            async with stack.client("/mcp/demo", mode="legacy", message_handler=handle) as client:
                await client.session.subscribe_resource("note://one")
                async with asyncio.timeout(5):
                    while not any(s.listening for s in stack.gateway.sessions._live.values()):
                        await asyncio.sleep(0.01)
                await asyncio.sleep(0.1)
                await client.call_tool("change")
                async with asyncio.timeout(10):
                    while len(set(heard)) < 2:
                        await asyncio.sleep(0.01)
                assert set(heard) == {"ToolListChangedNotification", "ResourceUpdatedNotification"}


LONG = "a://" + "/" * 2_000


def test_a_long_name_of_a_changed_resource_costs_each_listener_little(monkeypatch):
    """A server names what it likes, and all that listen look at each name."""
    assert uris.above("a://b/c?d")[:4] == ("a://b/c?", "a://b/c", "a://b/", "a://b")
    assert len(uris.above(LONG)) <= 2 * uris.LEVELS
    assert Wanted(uris=frozenset({LONG[:-8]})).covers(Event(None, "k", "updated", LONG))
    assert not Wanted(uris=frozenset({"a://"})).covers(Event(None, "k", "updated", LONG)), "too far above"
    uris.above.cache_clear()
    monkeypatch.setattr(uris, "LEVELS", 10_000)  # the twin
    assert len(uris.above(LONG)) > 3_900
    uris.above.cache_clear()


def test_who_watches_no_resource_looks_at_no_name(monkeypatch):
    def looked(_uri):
        raise AssertionError

    monkeypatch.setattr(uris, "above", looked)
    event = Event(None, "k", "updated", LONG)
    assert not Wanted(frozenset({"tools"})).covers(event)
    with pytest.raises(AssertionError):  # the twin
        Wanted(uris=frozenset({"a://b"})).covers(event)
