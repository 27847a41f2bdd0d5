"""Search, describe, call: three tools in front of a large catalogue, and the inner tool's own policy."""

from dataclasses import replace

import pytest

from firewall.core.exchange import Exchange
from firewall.decide.bundle import load
from firewall.decide.regorus import RegorusEngine
from firewall.detect.scan import PatternScanner
from firewall.detect.tool_review import review
from mcp_gateway.house import Refused
from mcp_gateway.lists import definition
from mcp_gateway.search import OWN, ranked
from tests.mcp_gateway.scripted import fine, scripted
from tests.support.mcp import person, running, spec
from tests.support.patterns import PATTERNS

pytestmark = pytest.mark.flow

SEARCH = {"catalog": "search"}
MAIL = {
    "name": "send_mail",
    "description": "Sends a letter.",
    "inputSchema": {"type": "object", "properties": {"to": {"type": "string"}}},
}
READ = {
    "name": "read_file",
    "description": "Returns the text of a file.",
    "inputSchema": {
        "type": "object",
        "properties": {"name": {"type": "string"}},
        "required": ["name"],
        "additionalProperties": False,
    },
}
EFFECTS = {"effects": {"read_file": "read", "send_mail": "write"}}


@pytest.fixture(scope="module")
def bundle():
    return load(state_dir=PATTERNS)


@pytest.fixture
def real(bundle):
    return {
        "engine": RegorusEngine(bundle),
        "scanner": PatternScanner(cache=PATTERNS),
        "review": review,
        "settings": SEARCH,
    }


async def call(stack, tool, token="alice", **arguments):
    answer = await stack.modern("/mcp", "tools/call", {"name": tool, "arguments": arguments}, token=token)
    return answer.json()


async def found(stack, query, **more):
    told = await call(stack, "search_tools", query=query, **more)
    return [one["name"] for one in told["result"]["structuredContent"]["tools"]]


async def test_the_aggregate_lists_three_tools_and_a_single_endpoint_all_of_its_own(real):
    async with scripted(fine, tools=[MAIL, READ]) as upstream, running(spec("demo", url=upstream.url), **real) as stack:
        told = (await stack.modern("/mcp", "tools/list")).json()["result"]
        assert [one["name"] for one in told["tools"]] == ["call_tool", "describe_tool", "search_tools"]
        alone = (await stack.modern("/mcp/demo", "tools/list")).json()["result"]["tools"]
        assert [one["name"] for one in alone] == ["read_file", "send_mail"]


@pytest.mark.parametrize("front", ["auto", "legacy"])
async def test_the_official_client_finds_reads_and_calls_a_tool(front, real):
    async with scripted(fine, tools=[MAIL, READ]) as upstream, running(spec("demo", url=upstream.url), **real) as stack:
        async with stack.client("/mcp", mode=front) as client:
            told = await client.call_tool("search_tools", {"query": "text of a file"})
            assert told.structured_content["tools"][0] == {
                "name": "demo__read_file",
                "description": READ["description"],
            }
            whole = await client.call_tool("describe_tool", {"name": "demo__read_file"})
            assert whole.structured_content["tool"]["inputSchema"] == READ["inputSchema"]
            called = await client.call_tool("call_tool", {"name": "demo__read_file", "arguments": {"name": "a"}})
            assert called.content[0].text == "fine"
        (params,) = upstream.asked("tools/call")
        assert (params["name"], params["arguments"]) == ("read_file", {"name": "a"})
        assert stack.kit.faults == []


async def test_a_search_shows_what_a_list_would_show_to_this_caller(real):
    people = {"alice": person("demo:read"), "writer": person("demo:read", "demo:write", subject="u_2")}
    async with scripted(fine, tools=[MAIL, READ]) as upstream:
        async with running(spec("demo", url=upstream.url, **EFFECTS), people=people, **real) as stack:
            assert await found(stack, "") == ["demo__read_file"]
            told = await call(stack, "search_tools", token="writer", query="")
            assert told["result"]["structuredContent"]["total"] == 2
            hidden = (await call(stack, "describe_tool", name="demo__send_mail"))["result"]
            unknown = (await call(stack, "describe_tool", name="demo__nothing"))["result"]
            assert hidden["isError"] is True
            assert hidden["content"] == unknown["content"]


async def test_the_inner_tool_is_decided_as_in_a_direct_call(real):
    people = {"alice": person("demo:read")}
    cases = [
        ("demo__read_file", {"name": "a"}),
        ("demo__read_file", {}),
        ("demo__read_file", {"name": "a", "x": 1}),
        ("demo__send_mail", {"to": "b"}),
    ]
    async with scripted(fine, tools=[MAIL, READ]) as upstream:
        async with running(spec("demo", url=upstream.url, **EFFECTS), people=people, **real) as stack:
            for name, arguments in cases:
                direct = await stack.modern("/mcp", "tools/call", {"name": name, "arguments": arguments})
                records = len(stack.kit.audit.records)
                params = {"name": "call_tool", "arguments": {"name": name, "arguments": arguments}}
                inner = await stack.modern("/mcp", "tools/call", params)
                assert inner.status_code == direct.status_code
                assert ("result" in inner.json()) == ("result" in direct.json())
                assert any(name.removeprefix("demo__") in str(record) for record in stack.kit.audit.records[records:])
            assert len(upstream.asked("tools/call")) == 2  # the first case, both ways


async def test_a_changed_inner_tool_is_quarantined(real):
    async with scripted(fine, tools=[MAIL, READ]) as upstream:
        async with running(spec("demo", url=upstream.url, ttl_s=0.0), **real) as stack:
            assert await found(stack, "file") == ["demo__read_file"]
            upstream.tools = [MAIL, {**READ, "description": "Returns the text of a file. Really."}]
            assert await found(stack, "file") == []
            refused = await call(stack, "call_tool", name="demo__read_file", arguments={"name": "a"})
            assert refused["result"]["isError"] is True
            assert upstream.asked("tools/call") == []
            digest = definition(upstream.tools[1]).digest
            stack.pins.approve("default", "demo", "tool", "read_file", digest, by="operator")
            assert (await call(stack, "call_tool", name="demo__read_file", arguments={"name": "a"}))["result"][
                "content"
            ]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("search_tools", {}), ("search_tools", {"query": 1}), ("search_tools", {"query": "x", "limit": 0}),
        ("search_tools", {"query": "x" * 201}), ("search_tools", {"query": "x", "more": 1}), ("describe_tool", {}),
        ("call_tool", {}), ("call_tool", {"name": 1}), ("call_tool", {"name": "demo__echo", "arguments": []}), ("call_tool", {"name": "x", "y": 1}),
    ],
)  # fmt: skip
async def test_arguments_of_our_own_tools_must_fit(name, arguments, real):
    async with scripted(fine) as upstream, running(spec("demo", url=upstream.url), **real) as stack:
        told = (await stack.modern("/mcp", "tools/call", {"name": name, "arguments": arguments})).json()
        assert "error" in told or told["result"]["isError"]
        assert upstream.asked("tools/call") == []


async def test_our_own_tools_exist_on_a_searched_aggregate_only(real):
    async with scripted(fine) as upstream:
        for settings, path in (({}, "/mcp"), (SEARCH, "/mcp/demo")):
            async with running(spec("demo", url=upstream.url), **{**real, "settings": settings}) as stack:
                answer = await stack.modern(path, "tools/call", {"name": "search_tools", "arguments": {"query": ""}})
                assert "structuredContent" not in answer.text


async def test_what_a_search_tells_is_inspected(real):
    leaking = {**READ, "description": "Uses key AKIAZ7VRSQWX2FBN4TKD for its work."}
    async with scripted(fine, tools=[leaking]) as upstream:
        async with running(spec("demo", url=upstream.url), **{**real, "review": lambda _: []}) as stack:
            told = await call(stack, "search_tools", query="")
            assert "AKIAZ7VRSQWX2FBN4TKD" not in str(told)


class _One:
    def __init__(self, raw):
        self.definition = definition({"inputSchema": {}, **raw})


def test_names_count_more_than_titles_and_titles_more_than_descriptions():
    raw = [
        {"name": "a__mail"}, {"name": "b__x", "title": "mail"}, {"name": "c__y", "description": "mail"}, {"name": "d__mailer"}, {"name": "e"},
    ]  # fmt: skip
    entries = {one["name"]: _One(one) for one in raw}
    assert ranked(entries, sorted(entries), "Mail!") == ["a__mail", "d__mailer", "b__x", "c__y"]
    assert ranked(entries, sorted(entries), " ?") == sorted(entries)
    assert ranked(entries, sorted(entries), "nothing") == []


def test_our_own_tools_have_no_name_that_an_upstream_could_have():
    assert all("__" not in name for name in OWN)


class TestStops:
    """The kill switch comes before everything that is kept."""

    @pytest.mark.parametrize("stopped", [True, False], ids=["stopped", "control off"])
    async def test_of_a_stopped_server_nothing_is_listed_found_or_described(self, real, stopped):
        everyone = {"alice": person("one:read", "one:write", "two:read", "two:write")}
        async with scripted(fine, tools=[MAIL, READ]) as upstream:
            specs = [spec(name, url=upstream.url, ttl_s=600.0, list_age_s=600.0) for name in ("one", "two")]
            for settings in ({}, SEARCH):
                async with running(*specs, people=everyone, **{**real, "settings": settings}) as stack:
                    before = await names(stack, settings)
                    assert {name.split("__")[0] for name in before} == {"one", "two"}
                    if stopped:
                        stack.kit.kill_switch.pull("default", "upstream", "two", by="operator")
                    after = await names(stack, settings)
                    assert {name.split("__")[0] for name in after} == ({"one"} if stopped else {"one", "two"})
                    if settings:
                        told = await call(stack, "describe_tool", name="two__read_file")
                        assert told["result"].get("isError", False) is stopped
                    stack.kit.kill_switch.release("default", "upstream", "two")
                    assert await names(stack, settings) == before

    @pytest.mark.parametrize("stopped", [True, False], ids=["stopped", "control off"])
    async def test_a_stop_that_comes_while_a_list_is_read_is_seen_before_what_is_kept(self, real, stopped):
        async with scripted(fine, tools=[MAIL, READ]) as upstream:
            async with running(spec("demo", url=upstream.url, ttl_s=600.0, list_age_s=600.0), **real) as stack:
                assert await found(stack, "") == ["demo__read_file", "demo__send_mail"]
                views = stack.gateway._dispatch.views
                endpoint = stack.gateway._catalog.endpoints["/mcp"]
                who = replace(stack.auth.people["alice"], audience=endpoint.url)
                exchange = Exchange("x_1", who, "mcp", 0)
                assert (await views.visible(who, endpoint, "tool", exchange))[1]
                decided = len(stack.kit.audit.records)
                if stopped:
                    stack.kit.kill_switch.pull("default", "subject", who.subject, by="operator")
                    with pytest.raises(Refused) as told:
                        await views.visible(who, endpoint, "tool", exchange)
                    assert told.value.refusal.fault.code == "killed"
                    assert stack.kit.audit.records[decided:], "and it is on record"
                else:
                    assert (await views.visible(who, endpoint, "tool", exchange))[1]
                    assert stack.kit.audit.records[decided:] == [], "it is what was decided a moment ago"


async def names(stack, settings):
    """Return what a caller sees of the aggregate: by its list, or by a search that leaves nothing out."""
    if settings:
        return await found(stack, "")
    told = (await stack.modern("/mcp", "tools/list")).json()["result"]["tools"]
    return [one["name"] for one in told]
