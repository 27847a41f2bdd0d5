"""Bounds of sessions as they stand in bartizan.yaml: read, checked against each other, and kept by the gateway."""

import pytest

from firewall import config
from firewall.config import rooms
from firewall.core.errors import ConfigFault
from mcp_gateway.settings import Bounds
from tests.mcp_gateway.legacy import opened
from tests.mcp_gateway.scripted import fine, scripted
from tests.support.mcp import running, spec


def bounds(**given: object) -> Bounds:
    made = config.build({"mcp_sessions": given} if given else {})
    return rooms.mcp_settings(made, (), scratch="", egress_socket="").sessions


def test_without_a_word_they_are_those_of_the_documentation():
    assert bounds() == Bounds(ttl_s=8 * 3600, idle_s=1800, sessions=10_000, per_caller=256, streams=64)


def test_every_one_can_be_set():
    given = {"ttl_s": 600, "idle_s": 60, "most": 50, "per_caller": 5, "streams_per_caller": 2}
    assert bounds(**given) == Bounds(600, 60, 50, 5, 2)


def test_a_default_follows_the_bound_above_it():
    assert bounds(ttl_s=600).idle_s == 600
    assert bounds(most=10).per_caller == 10


@pytest.mark.parametrize(
    "given",
    [{"ttl_s": 10}, {"idle_s": 0}, {"ttl_s": 600, "idle_s": 601}, {"most": 0}, {"most": 10, "per_caller": 11}, {"per_caller": 0},
     {"streams_per_caller": 0}, {"streams_per_caller": 5_000}, {"ttl_s": "x"}, {"sessions": 5}, {"ttl_s": 10**9}],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused(given):
    with pytest.raises(ConfigFault):
        bounds(**given)


@pytest.mark.flow
@pytest.mark.parametrize(("per_caller", "alive"), [(2, False), (3, True)], ids=["bounded", "control off"])
async def test_a_caller_keeps_as_many_sessions_as_are_written_down(per_caller, alive):
    few = {"sessions": Bounds(per_caller=per_caller)}
    async with scripted(fine) as upstream, running(spec("demo", url=upstream.url), settings=few) as stack:
        first, *_ = [await opened(stack) for _ in range(3)]
        answer = await first.request("ping")
        assert (answer.status_code == 200) is alive
        assert alive or answer.status_code == 404
