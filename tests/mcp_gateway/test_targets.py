"""Targets, URIs, shelves and content as values: no socket, no clock."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firewall.core.errors import Malformed
from firewall.core.points import INFO, Point
from mcp_gateway import apps, content, lists, uris
from mcp_gateway.bridge import Opened
from mcp_gateway.entries import Catalogue, entry
from mcp_gateway.message import Call
from mcp_gateway.settings import UpstreamSpec
from mcp_gateway.shelf import Address, Index, alone, index_of, merged
from mcp_gateway.targets import CompletionTarget, PromptTarget, ResourceTarget, ToolTarget
from mcp_gateway.versions import LEGACY, METHODS, MODERN

SPEC = UpstreamSpec("demo", url="http://127.0.0.1:1/mcp", network="loopback")
NEW = Opened("2026-07-28", MODERN, {"name": "s", "version": "1"})
OLD = Opened("2025-11-25", LEGACY)


def one(kind, spec=SPEC, **raw):
    raw = {"name": "n", **({"inputSchema": {"type": "object"}} if kind == "tool" else {}), **raw}
    return entry(spec, lists.definition(raw, kind), ())


def call(method, era=MODERN, **params):
    return Call(era, "2026-07-28" if era == MODERN else "2025-11-25", 7, method, params, {})


def facts(made):
    return lambda verdict: made.resource("approved", "approved", verdict)


# -- targets -------------------------------------------------------------------------------------------------


def targets():
    prompt, tool = one("prompt", arguments=[{"name": "who", "required": True}]), one("tool")
    note, rows = one("resource", uri="note://a"), one("template", uriTemplate="row://{id}")
    arguments = {"who": "Bo"}
    return [
        ToolTarget(tool, arguments, facts(tool)),
        PromptTarget(prompt, arguments, facts(prompt)),
        ResourceTarget(Address(note, "note://a"), facts(note)),
        ResourceTarget(Address(rows, "row://1"), facts(rows)),
        CompletionTarget(rows, {"name": "id", "value": "1"}, None, facts(rows)),
        CompletionTarget(prompt, {"name": "who", "value": "1"}, {"who": "x"}, facts(prompt)),
    ]


@pytest.mark.parametrize("target", targets(), ids=lambda t: f"{t.method}-{t.spec.name}")
def test_a_target_stands_at_the_points_of_its_method(target):
    for era in (LEGACY, MODERN):
        assert METHODS[target.method, era, "request"] is target.asked
        assert METHODS[target.method, era, "response"] is target.answered
    assert INFO[target.asked].content
    assert INFO[target.answered].content


@pytest.mark.parametrize("target", targets(), ids=lambda t: f"{t.method}-{t.spec.name}")
def test_the_parameters_are_a_closed_list_and_policy_reads_the_same_objects(target):
    params = target.upstream_params(call(target.method, sneaked=1, requestState="x"))
    assert "sneaked" not in params
    assert "requestState" not in params
    read = target.arguments
    if target.method in ("tools/call", "prompts/get"):
        assert read is params["arguments"]
    elif target.method == "completion/complete":
        assert read["argument"] is params["argument"]
        if "context" in read:
            assert read["context"] is params["context"]["arguments"]
    else:
        assert read["uri"] == params["uri"]


def test_facts_name_a_resource_by_a_digest_and_a_prompt_by_its_name():
    note, prompt = one("resource", uri="https://wiki.example/a?who=alice"), one("prompt")
    made = ResourceTarget(Address(note, note.definition.name), facts(note)).asking()
    assert made.type == "mcp_resource"
    assert "alice" not in made.id
    assert made.properties["host"] == "wiki.example"
    assert (made.properties["effect_class"], made.properties["scope"]) == ("read", "demo:read")
    asked = PromptTarget(prompt, None, facts(prompt)).asking()
    assert (asked.type, asked.id, asked.properties["schema"]) == ("mcp_prompt", "demo/n", "ok")


def test_a_read_of_a_template_has_the_pin_and_the_digest_of_the_template():
    rows = one("template", uriTemplate="row://{id}")
    made = ResourceTarget(Address(rows, "row://1"), facts(rows)).asking()
    assert made.properties["hash"] == rows.definition.digest


def test_arguments_of_rules_are_the_parts_of_the_uri():
    note = one("resource", uri="https://wiki.example/a%20b?q=1")
    read = ResourceTarget(Address(note, note.definition.name), facts(note)).arguments
    assert read == {
        "uri": "https://wiki.example/a%20b?q=1",
        "uri_scheme": "https",
        "uri_host": "wiki.example",
        "path": "/a b?q=1",
    }


@pytest.mark.parametrize("era", [LEGACY, MODERN])
@pytest.mark.parametrize("said", [NEW, OLD])
def test_results_are_told_in_the_era_of_the_client(era, said):
    import mcp_types.methods as official

    version = "2026-07-28" if era == MODERN else "2025-11-25"
    block = {"type": "text", "text": "x", "_meta": {"io.modelcontextprotocol/x": 1}}
    raw = {
        "prompts/get": {"messages": [{"role": "user", "content": block}], "junk": 1},
        "resources/read": {"contents": [{"uri": "note://a", "text": "x"}], "ttlMs": 5, "cacheScope": "public"},
        "completion/complete": {"completion": {"values": ["a"]}},
        "tools/call": {"content": [block]},
    }
    for target in targets():
        message, _ = target.result(call(target.method, era), raw[target.method], said)
        official.validate_server_result(target.method, version, message["result"])
        assert message["id"] == 7
        assert "junk" not in message["result"]
        assert ("resultType" in message["result"]) is (era == MODERN)
        if target.method == "resources/read" and era == MODERN:
            assert message["result"]["ttlMs"] == (5 if said is NEW else 0)
            assert message["result"]["cacheScope"] == "private"


# -- URIs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri",
    ["file:///a/b.txt", "https://a.example/", "https://a.example:8443/x?y=%20z#f", "note:one", "urn:isbn:123", "a+b.c-d://X/Y",
     "http://[::1]:8000/x", "memo://Insights", "row://a%2Fb", "bartizan+one:file:///a", "data:text/plain,hi", "x:?"],
)  # fmt: skip
def test_a_uri_in_its_normal_form_passes(uri):
    uris.check(uri)


@pytest.mark.parametrize(
    "uri",
    ["", "x", ":x", "x:", "1a:x", "A:x", "a b:x", "a:x y", "a:\x00", "a:é", "a:<", "a:%", "a:%0", "a:%0g", "a:%2f", "a:%41", "a:/..",
     "a:/../b", "a:/./b", "a:..", "a://b/..", "a://../b", "a:/%2E", "a:/%252E%252E/x", "a:/%25252E%25252E/x", "a:/..%2Fb", "a:/b%5C..",
     "a:%00", "a:%2500", "a:%7F", "http://u@h/", "a://u:p@h/", "http://H/", "http://h:80/", "http://h:/", "http://h:080/", "http://h:x/",
     "http://h./", "http://h%41/", "https://h:443/", "file:/etc/x", "file:x", "file://localhost/x", "file:////x", "file:///a//b",
     "a:" + "x" * 2048],
)  # fmt: skip
def test_any_other_spelling_is_refused(uri):
    with pytest.raises(Malformed):
        uris.check(uri)


@given(st.text(max_size=40))
def test_no_text_makes_the_check_fail_in_another_way(text):
    for uri in (text, "a:" + text, "http://" + text):
        try:
            parts = uris.check(uri)
        except Malformed:
            continue
        assert ".." not in parts.path.replace("\\", "/").split("/")


@given(st.sampled_from(["a", "b-c"]), st.text(min_size=1, max_size=30))
def test_unwrapping_gives_back_what_was_wrapped(alias, uri):
    assert uris.unwrapped(uris.wrapped(alias, uri)) == (alias, uri)


# -- shelves -------------------------------------------------------------------------------------------------


def catalogue(kind, alias, *names, serial=1):
    spec = UpstreamSpec(alias, url="http://127.0.0.1:1/mcp", network="loopback")
    key = {"resource": "uri", "template": "uriTemplate"}.get(kind, "name")
    entries = {name: one(kind, spec, **{key: name}) for name in names}
    return Catalogue(entries, NEW, 0, serial, kind)


def test_one_upstream_is_shown_as_it_is_and_in_order():
    shelf = alone(catalogue("tool", "one", "b", "a"))
    assert shelf.names == ("a", "b")


def test_the_same_parts_give_the_same_shelf_in_any_order():
    parts = {"two": catalogue("prompt", "two", "b", "a"), "one": catalogue("prompt", "one", "c")}
    shelves = [merged("prompt", dict(order), Index()) for order in (parts.items(), reversed(parts.items()))]
    assert shelves[0].names == shelves[1].names == ("one__c", "two__a", "two__b")


def test_uris_are_routed_by_who_answers_them():
    index = index_of(
        [
            ("one", catalogue("resource", "one", "x://a", "x://both")),
            ("two", catalogue("resource", "two", "x://both", "row://1")),
            ("one", catalogue("template", "one", "row://{id}")),
        ]
    )
    assert index.exposed("one", "x://a") == "x://a"
    assert index.exposed("one", "x://both") == "bartizan+one:x://both"
    assert index.exposed("two", "row://1") == "bartizan+two:row://1"
    assert index.exposed_template("one", "row://{id}") == "row://{id}"
    assert index.find("row://2").entry.definition.name == "row://{id}"
    assert index.find("row://1") is None
    assert index.find("bartizan+one:row://1").entry.kind == "template"
    assert index.find("bartizan+two:row://1").entry.kind == "resource"
    assert index.find("bartizan+one:row://../x") is None
    assert index.find_template("row://{id}").spec.name == "one"
    assert index.find_template("row://{other}") is None


# -- content and apps ------------------------------------------------------------------------------------------


def test_uris_in_content_are_told_as_the_endpoint_tells_them():
    def outward(uri):
        return "w:" + uri

    link = {"type": "resource_link", "uri": "a:b", "name": "n"}
    inner = {"type": "resource", "resource": {"uri": "a:c", "text": "t", "odd": 1}}
    result = {"content": [link, inner, {"type": "text", "text": "a:b"}]}
    told = content.tool_result(1, "modern", result, {}, outward, apps.NONE)["result"]["content"]
    assert [told[0]["uri"], told[1]["resource"], told[2]] == [
        "w:a:b",
        {"uri": "w:a:c", "text": "t"},
        {"type": "text", "text": "a:b"},
    ]


@pytest.mark.parametrize(
    "block", [{"type": "resource_link"}, {"type": "resource"}, {"type": "resource", "resource": {"uri": "a:b"}}]
)
def test_a_block_without_its_members_is_refused(block):
    with pytest.raises(Malformed, match="result_shape"):
        content.tool_result(1, "modern", {"content": [block]}, {}, None, apps.NONE)


@given(st.binary(max_size=64))
def test_a_blob_is_bytes_or_becomes_the_text_that_it_says_it_is(data):
    blob = base64.b64encode(data).decode()
    told = content._blob(blob, "image/png")
    assert told == {"blob": blob}
    try:
        text = data.decode()
    except UnicodeDecodeError:
        with pytest.raises(Malformed):
            content._blob(blob, "text/plain")
    else:
        assert content._blob(blob, "text/plain; charset=utf-8") == {"text": text}


def test_what_an_app_asks_for_is_cut_to_its_rights():
    asked = {"ui": {"resourceUri": "ui://a/b", "csp": {"connectDomains": ["https://x.example"], "odd": 1}, "permissions": {"camera": {}, "odd": {}},
                    "visibility": ["model", "app", "x"], "prefersBorder": True, "domain": "evil.example"}, "com.example/k": 1}  # fmt: skip
    rights = apps.Rights(frozenset({"https://x.example"}), frozenset({"camera", "odd"}))
    assert apps.shown(asked, apps.NONE)["ui"] == {
        "resourceUri": "ui://a/b",
        "csp": {"connectDomains": []},
        "permissions": {},
        "visibility": ["model", "app"],
        "prefersBorder": True,
    }
    told = apps.shown(asked, rights, lambda uri: "w:" + uri)
    assert told["ui"]["permissions"] == {"camera": {}}
    assert told["ui"]["csp"] == {"connectDomains": ["https://x.example"]}
    assert told["ui"]["resourceUri"] == "w:ui://a/b"
    assert told["com.example/k"] == 1
    assert apps.shown({"ui/resourceUri": "ui://a"}, apps.NONE, lambda uri: "w:" + uri) == {"ui/resourceUri": "w:ui://a"}


def test_every_point_of_objects_is_inspected():
    for point in Point:
        if point.value.startswith(("mcp.resource", "mcp.prompt", "mcp.completion")):
            assert INFO[point].content
