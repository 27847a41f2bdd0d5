"""Which grants open a point: read from the policy that decided."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firewall.core.points import Point
from firewall.decide.bundle import Bundle, read
from firewall.decide.openings import openings


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return read()


def test_nearly_every_point_is_opened_by_one_grant_of_each_package(bundle: Bundle) -> None:
    assert openings(bundle, Point.MCP_TOOL_CALL) == (("identity.scope",), ("tools.call",))
    assert openings(bundle, Point.LLM_REQUEST) == (("identity.scope",), ("tools.model",))
    reply = openings(bundle, Point.MCP_TOOL_RESULT)
    assert reply == (("identity.reply", "identity.reply_scope"), ("tools.result",))
    for point in Point:
        assert len(openings(bundle, point)) == 2, point
        assert all(names for names in openings(bundle, point)), point


def test_every_grant_of_the_policy_opens_some_point(bundle: Bundle) -> None:
    named = {name for point in Point for names in openings(bundle, point) for name in names}
    written = {
        line.partition('"')[2].partition('"')[0]
        for source in bundle.modules.values()
        for line in source.splitlines()
        if line.startswith("grant contains")
    }
    assert named == written


def test_a_grant_whose_name_is_computed_is_told_by_nobody(bundle: Bundle) -> None:
    modules = {
        path: source.replace('grant contains "tools.call" if {', 'grant contains sprintf("tools.%s", ["call"]) if {')
        for path, source in bundle.modules.items()
    }
    assert modules != bundle.modules
    assert openings(replace(bundle, modules=modules), Point.MCP_TOOL_CALL) == ()
    assert openings(replace(bundle, modules=modules), Point.LLM_REQUEST) != ()
