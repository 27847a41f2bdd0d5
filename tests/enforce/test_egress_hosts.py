"""A local program names the hosts that it was given and no other, whatever class of address they have."""

import pytest

from firewall.decide.bundle import load
from firewall.decide.regorus import RegorusEngine
from firewall.enforce.egress import EgressGate
from tests.support.kit import kit

GIVEN = frozenset({("api.example.com", 443), ("any.example.com", 0)})


@pytest.fixture(scope="module")
def engine() -> RegorusEngine:
    return RegorusEngine(load(), "interpreter")


@pytest.mark.parametrize(
    ("host", "port", "permitted"),
    [
        ("api.example.com", 443, True),
        ("API.Example.COM.", 443, True),
        ("api.example.com", 80, False),
        ("any.example.com", 80, True),
        ("any.example.com", 22, False),  # policy's ports hold as well
        ("evil.example.com", 443, False),
        ("api.example.com.evil.com", 443, False),
        ("", 443, False),
    ],
)
async def test_only_given_hosts_are_permitted(engine: RegorusEngine, host: str, port: int, permitted: bool) -> None:
    made = kit(engine=engine)
    gate = EgressGate(made.guard, made.clock, "default", {"child": "public"}, {"child": GIVEN})
    assert await gate.permits("child", host, port, "public") is permitted
    (record,) = [r for r in made.audit.records if r["kind"] == "decision"]
    assert record["decision"]["effect"] == ("allow" if permitted else "deny")
    # The twin: an upstream that was given no list may name what policy allows.
    free = EgressGate(made.guard, made.clock, "default", {"child": "public"})
    assert await free.permits("child", host, port, "public") is (port in (80, 443))
    assert not await gate.permits("stranger", "api.example.com", 443, "public")
