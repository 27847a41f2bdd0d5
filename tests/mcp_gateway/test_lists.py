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
    assert new["icons"] == [{"src": "https://x.example/i.png"}]
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
