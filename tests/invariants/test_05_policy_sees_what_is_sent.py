"""Invariant 5: policy input is never cut or substituted; beyond a bound means deny; forms that mean two things are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from firewall.core.bounds import POLICY_ARRAY_ITEMS, POLICY_STRING_CHARS
from firewall.core.policy_input import document_of
from firewall.decide import contract
from tests.invariants.conftest import House
from tests.support.composed import Composed

pytestmark = pytest.mark.flow
ANY = {"name": "any", "description": "Takes anything.", "inputSchema": {"type": "object"}}


def watch(wall: Composed, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Keep every policy input from here on."""
    asked: list[dict[str, Any]] = []
    engine = wall.worker.guard._engine
    decide = engine.decide

    def kept(point, question):  # type: ignore[no-untyped-def]
        asked.append(json.loads(document_of(question)))
        return decide(point, question)

    monkeypatch.setattr(engine, "decide", kept)
    return asked


@pytest.mark.parametrize(
    "arguments",
    [
        {"text": "plain"},
        {"text": "Größe 東京 \U0001f469\u200d\U0001f467", "n": -0.5, "big": 2**53 - 1, "none": None},
        {"deep": [[[{"a": [True, False, {"b": "c/~d"}]}]]], "": "empty name"},
        {"long": "x" * 1_000, "many": list(range(200))},
    ],
)
async def test_the_arguments_that_policy_judged_are_those_that_were_sent(
    house: House, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any]
) -> None:
    async with house() as (wall, upstreams):
        wall.register("free", upstreams.add_mcp("free", tools=[ANY]), trust="trusted", tools={"any": "read"})
        asked = watch(wall, monkeypatch)
        answer = await wall.call("free", "any", arguments, token=wall.mint("/mcp/free", "free:read"))
        assert answer.json["result"]["content"], answer.text
        judged = [a for a in asked if a["point"] == "mcp.tool.call"][-1]["action"]["properties"]["arguments"]
        assert judged == arguments
        assert upstreams.calls("mcp", "free")[-1].body["params"]["arguments"] == arguments


BEYOND = [
    ("a string", {"text": "x" * (POLICY_STRING_CHARS + 1)}, {"text": "x" * POLICY_STRING_CHARS}),
    ("a list", {"a": [1] * (POLICY_ARRAY_ITEMS + 1)}, {"a": [1] * POLICY_ARRAY_ITEMS}),
    ("the whole", {str(n): "y" * 60_000 for n in range(6)}, {str(n): "y" * 60_000 for n in range(3)}),
]


@pytest.mark.parametrize(("what", "beyond", "within"), BEYOND, ids=[b[0] for b in BEYOND])
async def test_beyond_a_bound_means_deny_and_at_the_bound_it_passes(
    house: House, what: str, beyond: dict[str, Any], within: dict[str, Any]
) -> None:
    async with house() as (wall, upstreams):
        wall.register("free", upstreams.add_mcp("free", tools=[ANY]), trust="trusted", tools={"any": "read"})
        token = wall.mint("/mcp/free", "free:read")
        assert (await wall.call("free", "any", within, token=token)).json["result"].get("isError") is None
        answer = await wall.call("free", "any", beyond, token=token)
        assert answer.json["result"]["isError"] is True
        assert len(upstreams.calls("mcp", "free")) == 1
        assert ("internal", "PolicyFault") in wall.faults


async def test_without_the_bound_it_would_be_sent(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract.bounds, "POLICY_STRING_CHARS", 10 * POLICY_STRING_CHARS)
    async with house() as (wall, upstreams):
        wall.register("free", upstreams.add_mcp("free", tools=[ANY]), trust="trusted", tools={"any": "read"})
        answer = await wall.call("free", "any", BEYOND[0][1], token=wall.mint("/mcp/free", "free:read"))
        assert answer.json["result"].get("isError") is None
        assert len(upstreams.calls("mcp", "free")) == 1


NORMAL = [
    ("path", "/srv/a/../../etc/passwd", "/srv/a/notes.txt"),
    ("url", "https://exa%6dple.com/", "https://example.com/b"),
    ("url", "https://EXAMPLE.com\\@evil.example/", "https://example.com/"),
]


@pytest.mark.parametrize(("name", "odd", "normal"), NORMAL)
async def test_a_form_that_means_two_things_is_refused(house: House, name: str, odd: str, normal: str) -> None:
    async with house() as (wall, upstreams):
        wall.register("free", upstreams.add_mcp("free", tools=[ANY]), trust="trusted", tools={"any": "read"})
        token = wall.mint("/mcp/free", "free:read")
        assert (await wall.call("free", "any", {name: normal}, token=token)).json["result"].get("isError") is None
        assert (await wall.call("free", "any", {name: odd}, token=token)).json["result"]["isError"] is True
        assert len(upstreams.calls("mcp", "free")) == 1
