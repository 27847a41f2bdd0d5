"""The aggregate: names, URIs, pages, order, partial failure, and what each caller sees."""

import asyncio
import time

import pytest

from firewall.core.policy_input import document_of
from firewall.decide.bundle import load
from firewall.decide.regorus import RegorusEngine
from firewall.detect.scan import PatternScanner
from firewall.detect.tool_review import review
from tests.conformance.everything_server import build
from tests.mcp_gateway.scripted import as_json, fine, result, scripted
from tests.support.mcp import person, running, served, spec
from tests.support.patterns import PATTERNS

pytestmark = pytest.mark.flow


@pytest.fixture(scope="module")
def bundle():
    return load(state_dir=PATTERNS)


@pytest.fixture
def real(bundle):
    return {"engine": RegorusEngine(bundle), "scanner": PatternScanner(cache=PATTERNS), "review": review}


def tool(name, **more):
    return {"name": name, "inputSchema": {"type": "object"}, **more}


def answers(*resources, templates=(), prompts=("greet",)):
    return {
        "prompts/list": {"prompts": [{"name": name} for name in prompts]},
        "prompts/get": lambda p: {"messages": [{"role": "user", "content": {"type": "text", "text": p["name"]}}]},
        "completion/complete": lambda p: {"completion": {"values": [str(p["ref"])]}},
        "resources/list": {"resources": [{"uri": uri, "name": "r"} for uri in resources]},
        "resources/templates/list": {"resourceTemplates": [{"uriTemplate": t, "name": "t"} for t in templates]},
        "resources/read": lambda p: {"contents": [{"uri": p["uri"], "text": "of " + p["uri"]}]},
    }


async def listed(stack, kind, token="alice", path="/mcp", **params):
    method, member, key = {
        "tool": ("tools/list", "tools", "name"),
        "prompt": ("prompts/list", "prompts", "name"),
        "resource": ("resources/list", "resources", "uri"),
        "template": ("resources/templates/list", "resourceTemplates", "uriTemplate"),
    }[kind]
    answer = await stack.modern(path, method, params, token=token)
    assert "result" in answer.json(), answer.text
    told = answer.json()["result"]
    return [one[key] for one in told[member]], told


async def read(stack, uri):
    return (await stack.modern("/mcp", "resources/read", {"uri": uri})).json()


async def test_names_of_prompts_are_told_and_routed_by_their_upstream(real):
    async with scripted(fine, answers=answers()) as one, scripted(fine, answers=answers()) as two:
        async with running(spec("one", url=one.url), spec("two", url=two.url), **real) as stack:
            names, _ = await listed(stack, "prompt")
            assert names == ["one__greet", "two__greet"]
            got = (await stack.modern("/mcp", "prompts/get", {"name": "two__greet"})).json()
            assert got["result"]["messages"][0]["content"]["text"] == "greet"
            assert (len(one.asked("prompts/get")), len(two.asked("prompts/get"))) == (0, 1)
            asked = {"ref": {"type": "ref/prompt", "name": "one__greet"}, "argument": {"name": "x", "value": ""}}
            refused = (await stack.modern("/mcp", "completion/complete", asked)).json()
            assert refused["error"]["code"] == -31403  # it declares no arguments
            for name in ("greet", "three__greet", "one__", "one__other"):
                assert (await stack.modern("/mcp", "prompts/get", {"name": name})).json()["error"]["code"] == -32602


async def test_completion_names_its_prompt_and_template_as_the_lists_do():
    prompts = {"prompts": [{"name": "greet", "arguments": [{"name": "who"}]}]}
    mine = answers(templates=["row://{id}"]) | {"prompts/list": prompts}
    async with scripted(fine, answers=mine) as one, scripted(fine, answers=mine) as two:
        async with running(spec("one", url=one.url), spec("two", url=two.url)) as stack:
            names, _ = await listed(stack, "template")
            assert names == ["bartizan+one:row://{id}", "bartizan+two:row://{id}"]
            for ref, name in (
                ({"type": "ref/prompt", "name": "two__greet"}, "who"),
                ({"type": "ref/resource", "uri": "bartizan+two:row://{id}"}, "id"),
            ):
                asked = {"ref": ref, "argument": {"name": name, "value": ""}}
                assert "result" in (await stack.modern("/mcp", "completion/complete", asked)).json()
            refs = [params["ref"] for params in two.asked("completion/complete")]
            assert refs == [{"type": "ref/prompt", "name": "greet"}, {"type": "ref/resource", "uri": "row://{id}"}]
            assert one.asked("completion/complete") == []


async def test_a_uri_stays_as_it_is_while_one_upstream_answers_it(real):
    async with scripted(fine, answers=answers("a://only", "x://both")) as one:
        async with scripted(fine, answers=answers("b://only", "x://both")) as two:
            async with running(spec("one", url=one.url), spec("two", url=two.url), **real) as stack:
                names, _ = await listed(stack, "resource")
                assert names == ["a://only", "b://only", "bartizan+one:x://both", "bartizan+two:x://both"]
                for uri in names:
                    told = (await read(stack, uri))["result"]["contents"][0]
                    assert told["uri"] == uri
                    assert told["text"] == "of " + uri.removeprefix("bartizan+one:").removeprefix("bartizan+two:")
                assert [p["uri"] for p in one.asked("resources/read")] == ["a://only", "x://both"]
                for uri in (
                    "x://both",
                    "bartizan+three:x://both",
                    "bartizan+one:b://only",
                    "bartizan+one:",
                    "bartizan+one",
                ):
                    assert (await read(stack, uri))["error"]["code"] == -32602
                # A name of its upstream is right in any case.
                assert "result" in await read(stack, "bartizan+one:a://only")


async def test_listing_the_uri_of_another_upstream_gains_no_request_of_it(real):
    """The twin is the first read: the same URI, while nobody else claims it."""
    for claim in (answers("row://7"), answers(templates=["row://{any}"])):
        async with scripted(fine, answers=answers(templates=["row://{id}"])) as victim:
            async with scripted(fine, answers=answers()) as thief:
                specs = (spec("victim", url=victim.url, ttl_s=0.0), spec("thief", url=thief.url, ttl_s=0.0))
                async with running(*specs, **real) as stack:
                    assert "result" in await read(stack, "row://7")
                    thief.answers |= claim
                    assert (await read(stack, "row://7"))["error"]["code"] == -32602
                    assert "result" in await read(stack, "bartizan+victim:row://7")
                    assert thief.asked("resources/read") == []


async def test_a_uri_that_looks_wrapped_is_wrapped_again():
    async with scripted(fine, answers=answers("bartizan+two:x://a")) as one:
        async with scripted(fine, answers=answers("x://a")) as two:
            async with running(spec("one", url=one.url), spec("two", url=two.url)) as stack:
                names, _ = await listed(stack, "resource")
                assert names == ["bartizan+one:bartizan+two:x://a", "x://a"]
                assert "result" in await read(stack, "bartizan+one:bartizan+two:x://a")
                assert len(one.asked("resources/read")) == 1
                assert "result" in await read(stack, "bartizan+two:x://a")
                assert len(two.asked("resources/read")) == 1


async def test_links_embedded_resources_and_apps_name_the_same_uris_as_the_lists():
    link = {"type": "resource_link", "uri": "ui://both", "name": "l"}
    block = {"type": "resource", "resource": {"uri": "a://only", "text": "t"}}

    async def call(asked, send):
        await send(as_json(result(asked, content=[link, block, {**link, "uri": "z://unlisted"}])))

    ui = {"_meta": {"ui": {"resourceUri": "ui://both"}}}
    async with scripted(call, answers=answers("a://only", "ui://both"), tools=[tool("t", **ui)]) as one:
        async with scripted(fine, answers=answers("ui://both")) as two:
            async with running(spec("one", url=one.url), spec("two", url=two.url)) as stack:
                unknown = ["bartizan+one:ui://both", "bartizan+one:a://only", "bartizan+one:z://unlisted"]
                # Before anybody listed resources nobody knows that a URI is unique: naming its upstream is right too.
                for expected in (unknown, ["bartizan+one:ui://both", "a://only", "bartizan+one:z://unlisted"]):
                    told = (await stack.modern("/mcp", "tools/call", {"name": "one__t", "arguments": {}})).json()
                    found = told["result"]["content"]
                    uris = [found[0]["uri"], found[1]["resource"]["uri"], found[2]["uri"]]
                    assert uris == expected
                    _, tools = await listed(stack, "tool")
                    shown = {one["name"]: one for one in tools["tools"]}
                    assert shown["one__t"]["_meta"]["ui"]["resourceUri"] == "bartizan+one:ui://both"
                    await listed(stack, "resource")
                alone = (await stack.modern("/mcp/one", "tools/call", {"name": "t", "arguments": {}})).json()
                assert alone["result"]["content"][0]["uri"] == "ui://both"  # the twin: alone, nothing is translated


@pytest.mark.parametrize("front", ["auto", "legacy"])
async def test_the_official_client_uses_the_whole_aggregate(front):
    async with served(build().streamable_http_app()) as origin:
        specs = (spec("old", url=f"{origin}/mcp", era="legacy"), spec("new", url=f"{origin}/mcp", era="modern"))
        async with running(*specs) as stack, stack.client("/mcp", mode=front) as client:
            assert client.server_capabilities.prompts is not None
            names = [prompt.name for prompt in (await client.list_prompts()).prompts]
            assert "old__test_simple_prompt" in names and "new__test_simple_prompt" in names  # noqa: PT018
            assert (await client.get_prompt("old__test_simple_prompt")).messages
            uris = [str(one.uri) for one in (await client.list_resources()).resources]
            assert "bartizan+old:test://static-text" in uris
            for uri in uris:
                contents = (await client.read_resource(uri)).contents
                assert [str(content.uri) for content in contents] == [uri]
            templates = [one.uri_template for one in (await client.list_resource_templates()).resource_templates]
            assert templates == ["bartizan+new:test://template/{id}/data", "bartizan+old:test://template/{id}/data"]
            expanded = templates[0].replace("{id}", "9")
            assert '"id": "9"' in (await client.read_resource(expanded)).contents[0].text


async def test_a_broken_upstream_leaves_the_others(real):
    async with scripted(fine, answers=answers("a://only")) as good:
        async with running(spec("good", url=good.url), spec("gone", url="http://127.0.0.1:9/mcp"), **real) as stack:
            for kind, names in (
                ("tool", ["good__echo", "good__other"]),
                ("prompt", ["good__greet"]),
                ("resource", ["a://only"]),
            ):
                assert (await listed(stack, kind))[0] == names
            assert "result" in await read(stack, "a://only")
            told = (await stack.modern("/mcp", "server/discover")).json()["result"]["capabilities"]
            assert set(told) == {"tools", "prompts", "resources", "completions"}


async def test_an_upstream_that_is_down_keeps_its_uris(real):
    async with scripted(fine, answers=answers("x://a")) as thief:
        async with scripted(fine, answers=answers("x://a")) as victim:
            specs = (spec("victim", url=victim.url, ttl_s=0.0), spec("thief", url=thief.url, ttl_s=0.0))
            async with running(*specs, **real) as stack:
                assert (await listed(stack, "resource"))[0] == ["bartizan+thief:x://a", "bartizan+victim:x://a"]
                victim.answers["resources/list"] = {"error": {"code": -32603, "message": "down"}}
                assert (await listed(stack, "resource"))[0] == ["bartizan+thief:x://a"]
                assert (await read(stack, "x://a"))["error"]["code"] == -32602
                assert thief.asked("resources/read") == []
        async with running(spec("thief", url=thief.url), **real) as stack:  # the twin: nobody else ever listed it
            assert "result" in await read(stack, "x://a")


async def test_a_silent_upstream_is_waited_for_once_and_then_left_out_for_a_while(real, monkeypatch):
    monkeypatch.setattr("mcp_gateway.catalog.WAIT_S", 0.3)

    over = asyncio.Event()

    async def silent(reader, writer):
        await over.wait()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp"
    async with scripted(fine, answers=answers("a://only")) as good:
        async with running(spec("good", url=good.url), spec("mute", url=url), **real) as stack:
            started = time.monotonic()
            assert (await listed(stack, "prompt"))[0] == ["good__greet"]
            assert time.monotonic() - started >= 0.3
            started = time.monotonic()
            for _ in range(3):
                assert (await listed(stack, "prompt"))[0] == ["good__greet"]
            assert time.monotonic() - started < 0.3
    over.set()
    server.close()
    await asyncio.sleep(0)


async def test_pages_hold_all_entries_once_and_their_cursors_are_bound(real):
    names = sorted(f"p{i:03}" for i in range(25))
    people = {"alice": person("one:read", "two:read"), "bob": person("one:read", "two:read", subject="u_bob")}
    async with (
        scripted(fine, answers=answers(prompts=names)) as one,
        scripted(fine, answers=answers(prompts=names)) as two,
    ):
        specs = (spec("one", url=one.url), spec("two", url=two.url))
        async with running(*specs, people=people, settings={"page": 10}, **real) as stack:
            found, cursor = [], None
            while True:
                part, told = await listed(stack, "prompt", **({"cursor": cursor} if cursor else {}))
                found += part
                last, cursor = cursor, told.get("nextCursor")
                if cursor is None:
                    break
            assert found == [f"{alias}__{name}" for alias in ("one", "two") for name in names]
            stolen = {"prompts/list": "bob", "resources/list": "alice", "tools/list": "alice"}
            for method, token in stolen.items():
                answer = await stack.modern("/mcp", method, {"cursor": last}, token=token)
                assert answer.json()["error"]["code"] == -32602
            for bad in ("", "x", last[:-2], 5, {}):
                answer = await stack.modern("/mcp", "prompts/list", {"cursor": bad})
                assert answer.json()["error"]["code"] == -32602
            assert (await listed(stack, "prompt", cursor=last))[0] == found[-10:] or len(found) % 10


async def test_a_list_stands_as_long_as_its_shortest_part_says(real):
    async with scripted(fine, answers=answers()) as one, scripted(fine, answers=answers()) as two:
        one.answers["tools/list"] = {"tools": [tool("t")], "ttlMs": 60_000}
        two.answers["tools/list"] = {"tools": [tool("t")], "ttlMs": 9_000}
        async with running(spec("one", url=one.url), spec("two", url=two.url), **real) as stack:
            _, told = await listed(stack, "tool")
            assert told["cacheScope"] == "private"
            assert 8_000 < told["ttlMs"] <= 9_000
            await listed(stack, "tool")
            assert one.methods().count("tools/list") == 1  # it stands, by its upstream's word
            two.answers["tools/list"] = {"tools": [tool("t")]}
            stack.gateway.inventory.spoil("default", "two", "static")
            assert (await listed(stack, "tool"))[1]["ttlMs"] == 0
            await listed(stack, "tool")
            assert two.methods().count("tools/list") == 3  # the twin: without ttlMs it is asked each time


async def test_callers_see_what_their_scopes_reach_and_share_no_view(real):
    people = {
        "both": person("one:read", "two:read"),
        "one": person("one:read", subject="u_2"),
        "writer": person("one:write", subject="u_3"),
    }
    reads = {"effects": {"echo": "read", "other": "write"}}
    async with scripted(fine) as one, scripted(fine) as two:
        async with running(
            spec("one", url=one.url, **reads), spec("two", url=two.url, **reads), people=people, **real
        ) as stack:
            for _ in range(2):
                assert (await listed(stack, "tool", "both"))[0] == ["one__echo", "two__echo"]
                assert (await listed(stack, "tool", "one"))[0] == ["one__echo"]
                assert (await listed(stack, "tool", "writer"))[0] == ["one__echo", "one__other"]


async def test_a_uri_of_an_upstream_without_any_scope_held_is_not_read(real):
    people = {"alice": person("one:read"), "both": person("one:read", "two:read", subject="u_2")}
    async with scripted(fine, answers=answers("a://x")) as one, scripted(fine, answers=answers("b://x")) as two:
        async with running(spec("one", url=one.url), spec("two", url=two.url), people=people, **real) as stack:
            for uri in ("b://x", "bartizan+two:b://x"):
                mine = await stack.modern("/mcp", "resources/read", {"uri": uri})
                assert mine.status_code in (400, 403)
                assert "result" not in mine.json()
                assert two.asked("resources/read") == []
            assert "result" in (await stack.modern("/mcp", "resources/read", {"uri": "b://x"}, token="both")).json()


async def test_what_was_hidden_is_left_out_at_once_and_what_is_shown_is_decided_each_time(real):
    reads = {"effects": {"echo": "read", "other": "write"}}
    people = {"alice": person("demo:read")}
    async with scripted(fine) as upstream:
        async with running(spec("demo", url=upstream.url, **reads), people=people, **real) as stack:
            asked = []
            decide = stack.kit.guard._engine.decide

            def spy(point, question):
                if point == "mcp.tool.listed":
                    asked.append(document_of(question).count(b'"effect_class"'))
                return decide(point, question)

            stack.kit.guard._engine.decide = spy
            for _ in range(3):
                assert (await listed(stack, "tool"))[0] == ["demo__echo"]
            assert asked == [2, 1, 1]


async def test_an_approval_is_seen_at_once_although_views_are_kept(real):
    from mcp_gateway.lists import definition

    async with scripted(fine, tools=[tool("a"), tool("b")]) as upstream:
        async with running(spec("demo", url=upstream.url, pins="strict"), **real) as stack:
            assert (await listed(stack, "tool"))[0] == []
            digest = definition(tool("a")).digest
            stack.pins.approve("default", "demo", "tool", "a", digest, by="operator")
            assert (await listed(stack, "tool"))[0] == ["demo__a"]


async def test_lists_grow_in_proportion_to_their_tools(real):
    """CPU time of all pages with 100 and with 1000 tools: ten times as many cost at most about ten times as much."""
    spent = {}
    for count in (10, 100, 1000):
        tools = [tool(f"t{i:04}", description="Does its work.") for i in range(count)]
        async with scripted(fine, tools=tools) as upstream:
            async with running(spec("demo", url=upstream.url, list_age_s=60.0), **real) as stack:
                best = float("inf")
                for _ in range(4):
                    started, cursor, found = time.process_time(), None, 0
                    while True:
                        part, told = await listed(stack, "tool", **({"cursor": cursor} if cursor else {}))
                        found += len(part)
                        cursor = told.get("nextCursor")
                        if cursor is None:
                            break
                    best = min(best, time.process_time() - started)
                assert found == count
                spent[count] = best
        await asyncio.sleep(0)
    assert spent[1000] < 20 * spent[100]
    assert spent[1000] < 1.0
