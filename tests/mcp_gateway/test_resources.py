"""Resources and templates: in every cell of the two eras; what may be read at all, and what comes back."""

import base64

import pytest

from firewall.core.errors import RPC_DENIED, Malformed
from firewall.decide.bundle import load
from firewall.decide.regorus import RegorusEngine
from firewall.detect.scan import PatternScanner
from firewall.detect.tool_review import review
from mcp_gateway import apps, uris
from mcp_gateway.apps import Rights
from mcp_gateway.lists import definition
from tests.conformance.everything_server import build
from tests.mcp_gateway.scripted import fine, scripted
from tests.support.mcp import running, served, spec
from tests.support.patterns import PATTERNS

pytestmark = pytest.mark.flow

NOTE = {"uri": "note://one", "name": "one", "mimeType": "text/plain"}
PAGE = {"uri": "https://wiki.example/a", "name": "page"}
ROWS = {"uriTemplate": "row://{table}/{id}", "name": "rows"}
LEGACY_HEADERS = {"mcp-protocol-version": "2025-11-25"}


@pytest.fixture(scope="module")
def real():
    bundle = load(state_dir=PATTERNS)
    return {"engine": RegorusEngine(bundle), "scanner": PatternScanner(cache=PATTERNS), "review": review}


def said(uri="note://one", **content):
    return {"contents": [{"uri": uri, "mimeType": "text/plain", **(content or {"text": "fine"})}]}


def answers(*resources, templates=(ROWS,), read=None):
    return {
        "resources/list": {"resources": list(resources or (NOTE, PAGE))},
        "resources/templates/list": {"resourceTemplates": list(templates)},
        "resources/read": read if read is not None else (lambda params: said(params["uri"])),
    }


async def listed(stack, path="/mcp/demo"):
    answer = await stack.modern(path, "resources/list")
    assert "result" in answer.json(), answer.text
    return [one["uri"] for one in answer.json()["result"]["resources"]]


async def read(stack, uri, path="/mcp/demo"):
    return (await stack.modern(path, "resources/read", {"uri": uri})).json()


@pytest.mark.parametrize("behind", ["modern", "legacy"])
@pytest.mark.parametrize("front", ["auto", "legacy"])
async def test_each_era_in_front_reads_the_resources_of_each_era_behind(front, behind):
    async with served(build().streamable_http_app()) as origin:
        async with running(spec("every", url=f"{origin}/mcp", era=behind)) as stack:
            async with stack.client("/mcp/every", mode=front) as client:
                uris = [str(one.uri) for one in (await client.list_resources()).resources]
                assert {"test://static-binary", "test://static-text"} <= set(uris)
                assert uris == sorted(uris)
                (template,) = (await client.list_resource_templates()).resource_templates
                assert template.uri_template == "test://template/{id}/data"
                text = await client.read_resource("test://static-text")
                assert text.contents[0].text == "This is the content of the static text resource."
                assert (await client.read_resource("test://static-binary")).contents[0].blob.startswith("iVBOR")
                expanded = await client.read_resource("test://template/123/data")
                assert '"id": "123"' in expanded.contents[0].text
                assert client.server_capabilities.resources is not None
                assert client.server_capabilities.completions is not None
            assert stack.kit.faults == []


async def test_capabilities_are_those_of_the_upstream_and_no_more():
    async with scripted(fine, answers=answers()) as upstream, running(spec("demo", url=upstream.url)) as stack:
        told = (await stack.modern("/mcp/demo", "server/discover")).json()["result"]["capabilities"]
        assert told == {"tools": {}, "resources": {}}


async def test_the_uri_is_mirrored_upstream_and_only_known_members_travel():
    async with scripted(fine, answers=answers()) as upstream, running(spec("demo", url=upstream.url)) as stack:
        answer = await stack.modern("/mcp/demo", "resources/read", {"uri": "note://one", "sneaked": 1})
        assert answer.json()["result"]["contents"][0]["text"] == "fine"
        headers, body = next((h, b) for h, b in upstream.seen if b.get("method") == "resources/read")
        assert headers["mcp-name"] == "note://one"
        assert set(body["params"]) == {"uri", "_meta"}


@pytest.mark.parametrize("uri", ["note://one", "https://wiki.example/a", "row://t/1", "row://t/a%20b"])
async def test_what_is_listed_or_matches_a_template_is_read(uri, real):
    async with scripted(fine, answers=answers()) as upstream, running(spec("demo", url=upstream.url), **real) as stack:
        assert "result" in await read(stack, uri)
        assert [params["uri"] for params in upstream.asked("resources/read")] == [uri]


@pytest.mark.parametrize(
    "uri",
    [
        "note://two", "note://one/", "note://one?x", "note://one#x", "NOTE://one", "file:///etc/passwd", "row://t", "row://t/",
        "row://t/1/2", "row://t/..", "row://t/%2E%2E", "row://t/%2e%2e", "row://t/..%2F..%2Fetc", "row://../1", "row://t/%252E%252E",
        "row://t/a%5C..%5Cb", "row://t/a b", "row://t/a\tb", "row://t/ä", "row://t/%00", "row://t/%0A", "row://t/%zz", "row://t/%4",
        "row://t/%41", "row://u@t/1", "http://wiki.example/a", "https://wiki.example:443/a", "https://WIKI.example/a",
        "https://wiki.example/a/../a", "https://wiki.example/%61", "x", "note:", "://one", "note://one\n",
    ],
)  # fmt: skip
async def test_what_no_list_shows_or_has_another_spelling_reaches_nobody(uri, real):
    async with scripted(fine, answers=answers()) as upstream, running(spec("demo", url=upstream.url), **real) as stack:
        headers = {} if uri.isascii() and uri.isprintable() else {"mcp-name": _encoded(uri)}
        told = (await stack.modern("/mcp/demo", "resources/read", {"uri": uri}, **headers)).json()
        assert told["error"]["code"] == -32602, told
        # A URI in its normal form is told back to who sent it (SEP-2164); other text of a stranger is not.
        assert told["error"]["data"].get("uri") == (uri if _normal(uri) else None)
        assert upstream.asked("resources/read") == []


@pytest.mark.parametrize(
    "uri", ["file:///etc/shadow", "file:///proc/self/environ", "file:///proc%2Fself/environ", "fs:/root/x"]
)
async def test_a_template_opens_no_protected_path(uri, real):
    listed = answers(
        templates=({"uriTemplate": "file:///{+path}", "name": "a"}, {"uriTemplate": "fs:{+path}", "name": "b"})
    )
    async with scripted(fine, answers=listed) as upstream, running(spec("demo", url=upstream.url), **real) as stack:
        assert (await read(stack, uri))["error"]["code"] == RPC_DENIED
        assert upstream.asked("resources/read") == []
        assert "result" in await read(stack, "file:///srv/proc/x")  # the twin: a place of that name elsewhere


def _normal(uri):
    try:
        uris.check(uri)
    except Malformed:
        return False
    return True


def _encoded(text):
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="


async def test_an_unknown_resource_has_the_code_of_its_era():
    async with served(build().streamable_http_app()) as origin, running(spec("every", url=f"{origin}/mcp")) as stack:
        for mode, code in (("auto", -32602), ("legacy", -32002)):
            async with stack.client("/mcp/every", mode=mode) as client:
                with pytest.raises(Exception) as caught:  # noqa: PT011  the SDK's own, of either era
                    await client.read_resource("test://nobody")
                assert caught.value.error.code == code


async def test_a_changed_resource_and_a_changed_template_are_quarantined_until_approved(real):
    async with (
        scripted(fine, answers=answers()) as upstream,
        running(spec("demo", url=upstream.url, ttl_s=0.0), **real) as stack,
    ):
        assert "result" in await read(stack, "note://one")
        note, rows = {**NOTE, "description": "new"}, {**ROWS, "description": "new"}
        upstream.answers |= answers(note, PAGE, templates=[rows])
        assert await listed(stack) == ["https://wiki.example/a"]
        for uri in ("note://one", "row://t/1"):
            assert (await read(stack, uri))["error"]["code"] == -31403
        assert "result" in await read(stack, "https://wiki.example/a")  # the twin
        for kind, raw in (("resource", note), ("template", rows)):
            one = definition(raw, kind)
            stack.pins.approve("default", "demo", kind, one.name, one.digest, by="operator")
        for uri in ("note://one", "row://t/1"):
            assert "result" in await read(stack, uri)


async def test_size_and_time_of_the_last_change_are_not_pinned_but_shown(real):
    async with (
        scripted(fine, answers=answers(NOTE)) as upstream,
        running(spec("demo", url=upstream.url), **real) as stack,
    ):
        assert await listed(stack) == ["note://one"]
        upstream.answers |= answers({**NOTE, "size": 5, "annotations": {"lastModified": "2026-11-23T05:00:00Z"}})
        (shown,) = (await stack.modern("/mcp/demo", "resources/list")).json()["result"]["resources"]
        assert (shown["size"], shown["annotations"]) == (5, {"lastModified": "2026-11-23T05:00:00Z"})
        upstream.answers |= answers({**NOTE, "annotations": {"priority": 1}})
        assert await listed(stack) == []  # the twin: any other member counts


async def test_a_size_of_another_type_is_dropped():
    ill = {**NOTE, "size": "IGNORE", "annotations": {"lastModified": "IGNORE ALL", "priority": 1}}
    async with scripted(fine, answers=answers(ill)) as upstream, running(spec("demo", url=upstream.url)) as stack:
        assert "IGNORE" not in (await stack.modern("/mcp/demo", "resources/list")).text


async def test_a_server_that_never_heard_of_templates_has_none():
    unknown = {"error": {"code": -32601, "message": "?"}}
    async with scripted(fine, answers=answers() | {"resources/templates/list": unknown}) as upstream:
        async with running(spec("demo", url=upstream.url)) as stack:
            told = (await stack.modern("/mcp/demo", "resources/templates/list")).json()["result"]
            assert told["resourceTemplates"] == []
            assert "result" in await read(stack, "note://one")


@pytest.mark.parametrize(
    "pages", [{"nextCursor": "same"}, {"nextCursor": 5}, {"resources": {}}, {"resultType": "task"}]
)
async def test_a_list_that_does_not_end_or_is_none_is_the_upstreams_fault(pages):
    ill = {"resources/list": {"resources": [NOTE], **pages}}
    async with scripted(fine, answers=answers() | ill) as upstream, running(spec("demo", url=upstream.url)) as stack:
        told = (await stack.modern("/mcp/demo", "resources/list")).json()
        assert told["error"]["code"] == -31502
        assert upstream.methods().count("resources/list") <= 3
        assert "result" in (await stack.modern("/mcp/demo", "tools/list")).json()


@pytest.mark.parametrize(
    "result",
    [
        {}, {"contents": {}}, {"contents": [1]}, {"contents": [{"uri": "note://one"}]}, {"contents": [{"text": "x"}]},
        {"contents": [{"uri": "note://one", "text": "x", "blob": ""}]}, {"contents": [{"uri": "note://one", "text": 1}]},
        {"contents": [{"uri": "note://one", "blob": "not base64!"}]}, {"contents": [{"uri": "note://one", "text": "x", "mimeType": 1}]},
        {"contents": [{"uri": "note://one", "mimeType": "text/plain", "blob": "//79"}]}, {"contents": [], "resultType": "other"},
    ],
)  # fmt: skip
async def test_a_result_without_a_known_shape_is_the_upstreams_fault(result):
    async with (
        scripted(fine, answers=answers(read=result)) as upstream,
        running(spec("demo", url=upstream.url)) as stack,
    ):
        assert (await read(stack, "note://one"))["error"]["code"] == -31502


SECRET = "key AKIAZ7VRSQWX2FBN4TKD ok"


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "image/svg+xml", "TEXT/HTML; charset=utf-8"])
async def test_text_is_inspected_in_a_blob_as_well(kind, real):
    hidden = {"contents": [{"uri": "note://one", "mimeType": kind, "blob": base64.b64encode(SECRET.encode()).decode()}]}
    plain = {"contents": [{"uri": "note://one", "mimeType": kind, "text": SECRET}]}
    for result in (plain, hidden):
        async with scripted(fine, answers=answers(read=result)) as upstream:
            async with running(spec("demo", url=upstream.url), **real) as stack:
                (content,) = (await read(stack, "note://one"))["result"]["contents"]
                assert "[redacted" in content["text"]
                assert "blob" not in content


async def test_a_picture_stays_a_blob_and_unknown_members_go():
    result = {
        "contents": [
            {"uri": "note://one", "mimeType": "image/png", "blob": "iVBORw0K", "extra": "x", "_meta": {"a.b/c": 1}}
        ]
    }
    async with (
        scripted(fine, answers=answers(read=result)) as upstream,
        running(spec("demo", url=upstream.url)) as stack,
    ):
        told = (await read(stack, "note://one"))["result"]
        assert told["contents"] == [
            {"uri": "note://one", "mimeType": "image/png", "blob": "iVBORw0K", "_meta": {"a.b/c": 1}}
        ]
        assert (told["cacheScope"], told["ttlMs"], told["resultType"]) == ("private", 0, "complete")


APP = {"uri": "ui://app/main", "name": "app", "mimeType": "text/html;profile=mcp-app"}
WISHES = {
    "csp": {"connectDomains": ["https://api.example", "https://evil.example"], "resourceDomains": ["*"]},
    "permissions": {"camera": {}, "microphone": {}},
}


def app(params):
    return {
        "contents": [{"uri": params["uri"], "mimeType": APP["mimeType"], "text": "<p>hi</p>", "_meta": {"ui": WISHES}}]
    }


async def test_an_app_gets_the_rights_that_its_operator_wrote_down_and_no_others():
    rights = Rights(frozenset({"https://api.example"}), frozenset({"camera"}))
    cases = [
        ({}, {"csp": {"connectDomains": [], "resourceDomains": []}, "permissions": {}}),
        (
            {"apps": rights},
            {"csp": {"connectDomains": ["https://api.example"], "resourceDomains": []}, "permissions": {"camera": {}}},
        ),
    ]
    for given, expected in cases:
        async with scripted(fine, answers=answers({**APP, "_meta": {"ui": WISHES}}, read=app)) as upstream:
            async with running(spec("demo", url=upstream.url, **given)) as stack:
                (content,) = (await read(stack, "ui://app/main"))["result"]["contents"]
                assert content["_meta"]["ui"] == expected
                (one,) = (await stack.modern("/mcp/demo", "resources/list")).json()["result"]["resources"]
                assert one["_meta"]["ui"] == expected


def test_the_rights_hold_in_the_words_of_every_host():
    rights = Rights(frozenset({"https://api.example"}))
    wished = {
        "connect_domains": ["https://api.example", "https://evil.example"],
        "resource_domains": "*",
        "other": ["*"],
    }
    told = apps.shown({"openai/widgetCSP": wished, "a.b/c": 1}, rights)
    assert told == {
        "openai/widgetCSP": {"connect_domains": ["https://api.example"], "resource_domains": []},
        "a.b/c": 1,
    }


@pytest.mark.parametrize("name", ["ui/resourceUri", "openai/outputTemplate"])
def test_an_app_is_a_resource_of_its_own_scheme(name):
    for uri, stays in (("ui://app/main", True), ("https://evil.example/app", False), ("javascript:alert(1)", False)):
        told = apps.shown({name: uri, "ui": {"resourceUri": uri}}, Rights(), lambda own: f"bartizan+demo:{own}")
        outward = f"bartizan+demo:{uri}"
        assert told == ({name: outward, "ui": {"resourceUri": outward}} if stays else {})


UI = "io.modelcontextprotocol/ui"


async def test_an_extension_is_offered_only_where_both_sides_have_it():
    settings = {"mimeTypes": ["text/html;profile=mcp-app"], "other": 1}
    said = {"capabilities": {"extensions": {UI: settings, "com.example/x": {}}}}
    mine = {"io.modelcontextprotocol/clientCapabilities": {"extensions": {UI: {}, "com.example/x": {}}}}
    for upstream_has, client_has in ((True, True), (True, False), (False, True)):
        async with scripted(fine, answers=answers() | (said if upstream_has else {})) as upstream:
            async with running(spec("demo", url=upstream.url)) as stack:
                answer = await stack.modern("/mcp/demo", "server/discover", {"_meta": mine} if client_has else {})
                offered = answer.json()["result"]["capabilities"].get("extensions")
                kept = {UI: {"mimeTypes": ["text/html;profile=mcp-app"]}}
                assert offered == (kept if upstream_has and client_has else None)


@pytest.mark.parametrize(("theirs", "mine", "told"), [(True, True, True), (True, False, False), (False, True, False)])
async def test_an_extension_is_declared_upstream_only_where_both_sides_have_it(theirs, mine, told):
    settings = {"mimeTypes": ["text/html;profile=mcp-app"], "other": 1}
    said = {"capabilities": {"extensions": {UI: {}, "com.example/x": {}}}} if theirs else {}
    client = {"extensions": {"com.example/x": {}, **({UI: settings} if mine else {})}}
    async with scripted(fine, answers=answers() | said) as upstream, running(spec("demo", url=upstream.url)) as stack:
        meta = {"io.modelcontextprotocol/clientCapabilities": client}
        for method, params in (("resources/read", {"uri": "note://one"}), ("tools/call", {"name": "echo"})):
            await stack.modern("/mcp/demo", method, {**params, "_meta": meta})
            (asked,) = upstream.asked(method)
            declared = asked["_meta"]["io.modelcontextprotocol/clientCapabilities"].get("extensions")
            assert declared == ({UI: {"mimeTypes": ["text/html;profile=mcp-app"]}} if told else None)
