"""Definitions, names, order and pages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firewall.core.errors import Malformed
from mcp_gateway import lists
from mcp_gateway.kinds import KINDS
from mcp_gateway.versions import LEGACY, MODERN

FULL = {
    "name": "t", "title": "T", "description": "d", "inputSchema": {"type": "object"}, "outputSchema": {"type": "object"},
    "annotations": {"readOnlyHint": True}, "execution": {"taskSupport": "optional"},
    "icons": [{"src": "https://x.example/i.png"}, {"src": "javascript:alert(1)"}, {"src": "data:image/svg+xml,<svg/>"}],
    "_meta": {"com.example/k": 1, "io.modelcontextprotocol/x": 2}, "unknown": 1,
}  # fmt: skip


def test_a_definition_keeps_exactly_the_pinned_members():
    tool = lists.definition(FULL)
    assert set(tool.value) == set(KINDS["tool"].pinned)
    assert tool.digest.startswith("sha256:")


def test_the_digest_depends_on_content_and_not_on_order():
    assert lists.definition(FULL).digest == lists.definition(dict(reversed(FULL.items()))).digest
    assert lists.definition({**FULL, "description": "e"}).digest != lists.definition(FULL).digest
    assert lists.definition({**FULL, "unknown": 2}).digest == lists.definition(FULL).digest


@pytest.mark.parametrize(
    "raw",
    [
        None, [], {}, {**FULL, "name": ""}, {**FULL, "name": 5}, {**FULL, "name": "x" * 513}, {**FULL, "name": "a\nb"},
        {**FULL, "name": "a\u200bb"}, {**FULL, "inputSchema": None}, {**FULL, "inputSchema": {"type": "array"}},
        {**FULL, "description": ["d"]},
    ],
)  # fmt: skip
def test_a_tool_without_a_usable_shape_is_dropped(raw):
    with pytest.raises(Malformed, match="tool_shape"):
        lists.definition(raw)


def test_what_is_shown_fits_the_era():
    tool = lists.definition({**FULL, "outputSchema": {"type": "array"}})
    new, old = lists.shown(tool, MODERN, "a__t"), lists.shown(tool, LEGACY, "a__t")
    assert new["name"] == old["name"] == "a__t"
    assert "execution" not in new
    assert "execution" not in old
    assert "outputSchema" in new
    assert "outputSchema" not in old
    assert "icons" not in new, "of another host, of a program's kind, or with a program in it"
    assert new["_meta"] == {"com.example/k": 1}


def test_exposed_names_split_at_their_alias_only():
    aliases = ["git", "time"]
    assert lists.split_name("git__log", aliases) == ("git", "log")
    assert lists.split_name("git__a__b", aliases) == ("git", "a__b")
    for name in ("log", "__log", "git__", "nobody__log", "GIT__log"):
        assert lists.split_name(name, aliases) is None


@given(st.lists(st.text(min_size=1, max_size=5), max_size=40, unique=True), st.integers(1, 7))
def test_pages_together_are_the_whole_list_once(names, size):
    names = sorted(names)
    found, after = [], ""
    for _ in range(100):
        part, after = lists.page(names, after, size)
        found += part
        if not after:
            break
    assert found == names


def test_a_page_after_a_name_that_is_gone_starts_at_the_next_one():
    assert lists.page(["a", "c"], "b", 5) == (["c"], "")


@pytest.mark.parametrize(("a", "b"), [("send_mail", "send-mail"), ("List", "list"), ("tool1", "tooll"), ("a.b", "a_b")])
def test_confusable_names_share_a_skeleton(a, b):
    assert lists.skeleton(a) == lists.skeleton(b)


PROMPT = {"name": "p", "arguments": [{"name": "a", "required": True}, {"name": "b"}]}


@pytest.mark.parametrize(
    "raw",
    [
        {}, {"name": ""}, {"name": "a\nb"}, {"name": "p", "arguments": {}}, {"name": "p", "arguments": [1]}, {"name": "p", "arguments": [{}]},
        {"name": "p", "arguments": [{"name": "a"}, {"name": "a"}]}, {"name": "p", "arguments": [{"name": "a", "required": 1}]},
        {"name": "p", "arguments": [{"name": str(i)} for i in range(65)]}, {"name": "p", "description": 1},
    ],
)  # fmt: skip
def test_a_prompt_without_a_usable_shape_is_dropped(raw):
    lists.definition(PROMPT, "prompt")
    with pytest.raises(Malformed, match="prompt_shape"):
        lists.definition(raw, "prompt")


@pytest.mark.parametrize(
    "raw", [{}, {"uri": "a:b"}, {"uri": 1, "name": "n"}, {"uri": "a b", "name": "n"}, {"uri": "A:b", "name": "n"}]
)
def test_a_resource_without_a_name_and_a_uri_in_normal_form_is_dropped(raw):
    lists.definition({"uri": "a:b", "name": "n"}, "resource")
    with pytest.raises(Malformed):
        lists.definition(raw, "resource")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_pinned_member_changes_the_digest_and_no_other_does(kind):
    base = {"name": "n", "inputSchema": {"type": "object"}, "uri": "a:b", "uriTemplate": "a:{b}"}
    digest = lists.definition(base, kind).digest
    for member in KINDS[kind].pinned:
        value = {
            "arguments": [],
            "inputSchema": {"type": "object", "title": "x"},
            "uri": "a:c",
            "uriTemplate": "a:{c}",
        }.get(member, "x")
        value = {"a.b/c": 1} if member == "_meta" else value
        assert lists.definition({**base, member: value}, kind).digest != digest, member
    assert lists.definition({**base, "size": 5, "other": 1}, kind).digest == digest


def test_the_set_has_another_digest_when_one_definition_goes():
    one, two = lists.definition(PROMPT, "prompt"), lists.definition({"name": "q"}, "prompt")
    assert lists.set_digest({"p": one, "q": two}) == lists.set_digest({"q": two, "p": one})
    assert lists.set_digest({"p": one}) != lists.set_digest({"p": one, "q": two})


def test_a_page_ends_early_when_its_names_are_long_and_loses_none():
    names = [f"{i:03}" + "x" * 2000 for i in range(100)]
    found, after = [], ""
    while True:
        part, after = lists.page(names, after, 200)
        assert sum(map(len, part)) <= lists.PAGE_CHARS
        found += part
        if not after:
            break
    assert found == names
    assert len(lists.page(["x" * 100_000], "", 1)[0]) == 1
