"""Completion: of a listed prompt's arguments and a listed template's variables, and of nothing else."""

import pytest

from firewall.decide.bundle import load
from firewall.decide.regorus import RegorusEngine
from firewall.detect.scan import PatternScanner
from firewall.detect.tool_review import review
from tests.conformance.everything_server import build
from tests.mcp_gateway.scripted import fine, scripted
from tests.support.mcp import running, served, spec
from tests.support.patterns import PATTERNS

pytestmark = pytest.mark.flow

PROMPT = {"name": "greet", "arguments": [{"name": "who"}, {"name": "how"}]}
ROWS = {"uriTemplate": "row://{table}/{id}", "name": "rows"}
TO_PROMPT = {"type": "ref/prompt", "name": "greet"}
TO_ROWS = {"type": "ref/resource", "uri": "row://{table}/{id}"}


@pytest.fixture(scope="module")
def real():
    bundle = load(state_dir=PATTERNS)
    return {"engine": RegorusEngine(bundle), "scanner": PatternScanner(cache=PATTERNS), "review": review}


def answers(complete=None):
    told = {"completion": {"values": ["Bo", "Bea"], "total": 2, "hasMore": False, "extra": 1}}
    return {
        "prompts/list": {"prompts": [PROMPT]},
        "resources/list": {"resources": []},
        "resources/templates/list": {"resourceTemplates": [ROWS]},
        "completion/complete": complete if complete is not None else told,
    }


async def complete(stack, ref, name="who", value="B", path="/mcp/demo", **more):
    params = {"ref": ref, "argument": {"name": name, "value": value}, **more}
    return (await stack.modern(path, "completion/complete", params)).json()


@pytest.mark.parametrize("behind", ["modern", "legacy"])
@pytest.mark.parametrize("front", ["auto", "legacy"])
async def test_each_era_in_front_completes_with_each_era_behind(front, behind):
    from mcp_types import PromptReference, ResourceTemplateReference

    async with served(build().streamable_http_app()) as origin:
        async with running(spec("every", url=f"{origin}/mcp", era=behind)) as stack:
            async with stack.client("/mcp/every", mode=front) as client:
                prompt = PromptReference(type="ref/prompt", name="test_prompt_with_arguments")
                told = await client.complete(prompt, {"name": "arg1", "value": "a"})
                assert (told.completion.values, told.completion.total) == ([], 0)
                template = ResourceTemplateReference(type="ref/resource", uri="test://template/{id}/data")
                assert (await client.complete(template, {"name": "id", "value": "1"})).completion.values == []
            assert stack.kit.faults == []


async def test_what_is_typed_travels_and_nothing_else(real):
    async with scripted(fine, answers=answers()) as upstream, running(spec("demo", url=upstream.url), **real) as stack:
        context = {"arguments": {"how": "loud"}, "other": 1}
        told = await complete(stack, {**TO_PROMPT, "title": "x"}, context=context, sneaked=1)
        assert told["result"]["completion"] == {"values": ["Bo", "Bea"], "total": 2, "hasMore": False}
        assert "result" in await complete(stack, TO_ROWS, "table")
        first, second = upstream.asked("completion/complete")
        assert {k: v for k, v in first.items() if k != "_meta"} == {
            "ref": TO_PROMPT,
            "argument": {"name": "who", "value": "B"},
            "context": {"arguments": {"how": "loud"}},
        }
        assert second["ref"] == TO_ROWS


@pytest.mark.parametrize(
    ("ref", "name", "more"),
    [
        ({"type": "ref/prompt", "name": "other"}, "who", {}), ({"type": "ref/resource", "uri": "row://{x}"}, "x", {}),
        ({"type": "ref/resource", "uri": "row://t/1"}, "id", {}), ({"type": "ref/tool", "name": "greet"}, "who", {}),
        ({"type": "ref/prompt"}, "who", {}), (None, "who", {}), (TO_PROMPT, 5, {}), (TO_PROMPT, "nobody", {}), (TO_ROWS, "who", {}),
        (TO_PROMPT, "who", {"context": 1}), (TO_PROMPT, "who", {"context": {"arguments": {"how": 1}}}),
        (TO_PROMPT, "who", {"context": {"arguments": []}}), (TO_PROMPT, "who", {"context": {"arguments": {"nobody": "x"}}}),
    ],
)  # fmt: skip
async def test_what_is_not_declared_is_not_completed(ref, name, more, real):
    async with scripted(fine, answers=answers()) as upstream, running(spec("demo", url=upstream.url), **real) as stack:
        assert (await complete(stack, ref, name, **more))["error"]["code"] in (-32602, -31403)
        assert upstream.asked("completion/complete") == []


@pytest.mark.parametrize(
    "result",
    [
        {"x": 1}, {"completion": []}, {"completion": {}}, {"completion": {"values": "Bo"}}, {"completion": {"values": [1]}},
        {"completion": {"values": ["x"] * 101}},
    ],
)  # fmt: skip
async def test_a_result_without_a_known_shape_is_the_upstreams_fault(result):
    async with scripted(fine, answers=answers(result)) as upstream, running(spec("demo", url=upstream.url)) as stack:
        assert (await complete(stack, TO_PROMPT))["error"]["code"] == -31502


async def test_both_ways_are_inspected(real):
    key = "AKIAZ7VRSQWX2FBN4TKD"
    leaking = {"completion": {"values": [f"key {key} ok"]}}
    async with (
        scripted(fine, answers=answers(leaking)) as upstream,
        running(spec("demo", url=upstream.url), **real) as stack,
    ):
        assert (await complete(stack, TO_PROMPT, value=f"key {key} ok"))["error"]["code"] == -31403
        assert upstream.asked("completion/complete") == []
        told = await complete(stack, TO_PROMPT)
        assert key not in str(told)
        assert "[redacted" in str(told)
