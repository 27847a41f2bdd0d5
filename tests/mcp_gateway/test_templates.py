"""URI templates: what is an expansion and what is not, for every operator of RFC 6570; in time that nobody can stretch."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.uri_template import InvalidUriTemplate, UriTemplate

from firewall.core.errors import Malformed
from mcp_gateway.templates import template
from tests.mcp_gateway.scripted import fine, scripted
from tests.support.mcp import running, spec

GITHUB = "repo://{owner}/{repo}/contents{/path*}"
DOM = "dom://{page}{?selector,depth}"
CASES = [
    # level 1 and 2
    ("a://{x}", "a://1", True), ("a://{x}", "a://", False), ("a://{x}", "a://1/2", False), ("a://{x}", "a://1%2F2", True),
    ("a://{x}", "b://1", False), ("a://{x}/{y}", "a://1/2", True), ("a://{x}/{y}", "a://1/2/3", False),
    ("a://{x}-{y}", "a://1-2-3", True), ("a://{x}.{y}", "a://1", False), ("a://{+p}", "a://1/2/3", True),
    ("a://{+p}/end", "a://1/2/end", True), ("a://{+p}/end", "a://1/2", False), ("a://x", "a://x", True), ("a://x", "a://xy", False),
    ("a://{x}y", "a://yyy", True), ("a://{x}{y}", "a://1", False), ("a://{x}{y}", "a://12", True), ("a://{x}", "a://1?q", False),
    ("a://{x}#f", "a://1#f", True), ("a://{a.b}/{c_d}", "a://1/2", True), ("a://{x}/data", "a://x%2F/data", True),
    ("a://{x}", "a://%E4%BD%A0", True), ("a://{user-id}", "a://1", True),
    # several values
    ("a://{x,y}", "a://1,2", True), ("a://{x,y}", "a://1", True), ("a://{x,y}", "a://1,2,3", False), ("a://{x,y}", "a://1,", False),
    ("a://{x,y}", "a://,1", False), ("a://{x,y}", "a://", False), ("a://{+x,y}", "a://1,/2", True),
    # fragments
    ("a://b{#x}", "a://b#c/d", True), ("a://b{#x}", "a://b", True), ("a://b{#x}", "a://b#", False), ("a://b{#x,y}", "a://b#1,2", True),
    # labels and paths
    ("a://b{.x}", "a://b.c", True), ("a://b{.x}", "a://b", True), ("a://b{.x}", "a://b.", False), ("a://b{.x}", "a://bc", False),
    ("a://b{/x}", "a://b/c", True), ("a://b{/x}", "a://b", True), ("a://b{/x}", "a://b/", False), ("a://b{/x}", "a://b/c/d", False),
    ("a://b{/x,y}", "a://b/c/d", True), ("a://b{/x,y}", "a://b/c/d/e", False), ("a://b{/x*}", "a://b/c/d/e", True),
    ("a://b{/x*}", "a://b//c", False), ("a://b{/x*}", "a://b/c/", False), ("a://b{/x*}", "a://b/c?d", False), ("a://b{/x*}/e", "a://b/c/d/e", True),
    ("a://b{/x*}/e", "a://b/c/d", False), (GITHUB, "repo://o/r/contents", True), (GITHUB, "repo://o/r/contents/src/a.py", True),
    (GITHUB, "repo://o/r/other/src", False), (GITHUB, "repo://o/contents/src", False),
    # queries and parameters
    (DOM, "dom://1", True), (DOM, "dom://1?selector=body", True), (DOM, "dom://1?depth=2", True), (DOM, "dom://1?selector=b&depth=2", True),
    (DOM, "dom://1?depth=2&selector=b", False), (DOM, "dom://1?selector=b&selector=c", False), (DOM, "dom://1?selector=", False),
    (DOM, "dom://1?other=2", False), (DOM, "dom://1?", False), (DOM, "dom://1?selector=b&", False), (DOM, "dom://1?selector=b&other=1", False),
    (DOM, "dom://1?selector=b%26depth%3D2", True), (DOM, "dom://1?selectors=b", False), (DOM, "dom://1&selector=b", False),
    ("a://b?c=1{&x}", "a://b?c=1&x=2", True), ("a://b?c=1{&x}", "a://b?c=1", True), ("a://b?c=1{&x}", "a://b?c=1&y=2", False),
    ("a://b{?x*}", "a://b?x=1&x=2&x=3", True), ("a://b{?x*}", "a://b?x=1&y=2", False), ("a://b{?x*,y}", "a://b?x=1&x=2&y=3", True),
    ("a://b{;x,y}", "a://b;x=1;y=2", True), ("a://b{;x,y}", "a://b;y=2", True), ("a://b{;x,y}", "a://b;x", False), ("a://b{;x*}", "a://b;x=1;x=2", True),
    # lists as paths (FastMCP, mcp-nest), and prefixes
    ("a://{x*}", "a://b/c/d", True), ("a://{x*}", "a://b,c", True), ("a://{x*}", "a://b//c", False), ("a://{x*}", "a://b/", False),
    ("a://{x*}", "a:///b", False), ("a://{x*}/end", "a://b/c/end", True),
    ("a://{x:3}", "a://abc", True), ("a://{x:3}", "a://abcd", False), ("a://{x:2}", "a://%C3%A9b", True), ("a://{x:1}", "a://%C3%A9b", False),
    ("a://{x:3}/{x}", "a://abc/abcdef", True), ("a://{+x:3}", "a://a/b", True), ("a://{+x:3}", "a://a/bc", False),
]  # fmt: skip


@pytest.mark.parametrize(("text", "uri", "fits"), CASES)
def test_a_template_matches_its_expansions(text, uri, fits):
    assert template(text).matches(uri) is fits


@pytest.mark.parametrize(
    "text",
    ["", "x", "{x}", "{s}://x", "a{x}://y", "a://{", "a://}", "a://{}", "a://{x", "a://x}", "a://{?}", "a://{+}", "a://{=x}", "a://{!x}",
     "a://{@x}", "a://{|x}", "a://{x,}", "a://{,x}", "a://{x,,y}", "a://{x:}", "a://{x:0}", "a://{x:03}", "a://{x:10000}", "a://{x:1a}",
     "a://{x:3*}", "a://{x**}", "a://{*}", "a://{.p}" + "é", "a://{ x}", "A://{x}", "a:// {x}", "a://%2f{x}", "a://" + "{x}" * 17,
     "a://{" + ",".join("abcdefghijklmnopq") + "}", "a://{{x}}", "a://{x:²}"],
)  # fmt: skip
def test_a_template_that_no_level_knows_is_refused(text):
    with pytest.raises(Malformed, match="uri_template"):
        template(text)


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("a://" + "{x}a" * 15, "a://" + "a" * 2000 + "!"),
        ("a://" + "{x,y}a" * 8, "a://" + "a," * 1000 + "!"),
        ("a://" + "{/x*}" * 16, "a://" + "/a" * 1000 + "!"),
        ("a://" + "{?x*,x*}" * 8, "a://?x=1" + "&x=1" * 500 + "!"),
        ("a://" + "{x:999}" * 16, "a://" + "%C3%A9" * 340 + "!"),
        ("a://" + "{x*}" * 16, "a://" + "a/" * 1000 + "!"),
        ("a://" + "{+x}" * 16, "a://" + "a/" * 1000 + "^"),
    ],
)
def test_matching_takes_no_more_than_the_product_of_the_lengths(text, uri):
    parsed = template(text)
    started = time.process_time()
    assert not parsed.matches(uri)
    assert time.process_time() - started < 2.0


VALUES = st.text(min_size=1, max_size=6)
TEXTS = ["a://x/{v}/y", "a://x/{+v}", "a://x{/v}", "a://x{.v}", "a://x{?v}", "a://x{;v}", "a://x{#v}", "a://x?k=1{&v}"]


@given(st.sampled_from(TEXTS), VALUES)
def test_what_the_official_sdk_expands_matches(text, value):
    try:
        value.encode()
        uri = UriTemplate.parse(text).expand({"v": value})
    except (UnicodeEncodeError, InvalidUriTemplate):
        return
    assert template(text).matches(uri)


@given(st.sampled_from(["a://x{/v*}", "a://x{;v*}", "a://x{.v*}"]), st.lists(VALUES, min_size=1, max_size=4))
def test_a_list_that_the_official_sdk_expands_matches(text, values):
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        return
    assert template(text).matches(UriTemplate.parse(text).expand({"v": values}))


READ = {
    "resources/list": {"resources": []},
    "resources/templates/list": {
        "resourceTemplates": [{"uriTemplate": text, "name": f"t{n}"} for n, text in enumerate((GITHUB, DOM))]
    },
    "resources/read": lambda params: {"contents": [{"uri": params["uri"], "text": "of " + params["uri"]}]},
}


@pytest.mark.flow
@pytest.mark.parametrize("path", ["/mcp/demo", "/mcp"])
async def test_expansions_are_read_and_nothing_else_of_that_server_is(path):
    async with scripted(fine, answers=READ) as upstream, running(spec("demo", url=upstream.url)) as stack:
        listed = (await stack.modern(path, "resources/templates/list")).json()["result"]["resourceTemplates"]
        assert {one["uriTemplate"] for one in listed} == {GITHUB, DOM}
        for uri, fits in (
            ("repo://o/r/contents/src/main.py", True), ("repo://o/r/contents", True), ("dom://1?selector=body", True),
            ("repo://o/r/contents/../../x", False), ("repo://o/r/contents/%2E%2E/x", False), ("repo://o/r/secrets/x", False),
            ("dom://1?selector=body&token=1", False), ("repo://o/r/contents/a?ref=x", False),
        ):  # fmt: skip
            answer = (await stack.modern(path, "resources/read", {"uri": uri})).json()
            assert ("result" in answer) is fits, answer
        assert len(upstream.asked("resources/read")) == 3
