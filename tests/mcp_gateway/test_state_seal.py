"""requestState: bound to caller, place and request, of use once, and silent about why it failed (DESIGN §6b-4)."""

from dataclasses import replace

import pytest

from firewall.core.errors import Malformed, StateUnavailable
from firewall.net.runtime import FakeClock
from firewall.state.memory import MemoryStore
from firewall.state.vault import Sealer
from mcp_gateway import state_seal
from mcp_gateway.message import Call
from mcp_gateway.state_seal import Sealed, StateSeal
from mcp_gateway.versions import MODERN
from tests.support.kit import principal

ALICE = principal()
HERE = "https://gate.example/mcp/demo"
CALL = Call(MODERN, "2026-07-28", 1, "tools/call", {"name": "echo", "arguments": {"a": 1}}, {}, name="echo")
STATE = Sealed("demo", {"q1": ["roots", None, False]}, "theirs", rounds=2)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def burnt(clock):
    return MemoryStore(clock).collection("burnt")


@pytest.fixture
def seal(clock, burnt) -> StateSeal:
    return StateSeal(Sealer(b"k" * 32, clock), burnt, clock)


def retry(token, **changes) -> Call:
    answers = {"inputResponses": {"q1": {"roots": []}}, "requestState": token}
    return replace(CALL, id=2, params={**CALL.params, **answers, **changes})


def test_a_state_comes_back_as_it_was_sealed(seal):
    token = seal.seal(ALICE, HERE, CALL, STATE)
    assert "theirs" not in token
    assert seal.open(ALICE, HERE, retry(token), "demo") == STATE


def test_a_state_is_of_use_once(seal):
    token = seal.seal(ALICE, HERE, CALL, STATE)
    seal.open(ALICE, HERE, retry(token), "demo")
    with pytest.raises(Malformed, match="request_state"):
        seal.open(ALICE, HERE, retry(token), "demo")


def test_a_state_is_of_use_once_in_all_workers_together(clock, burnt):
    one, other = (StateSeal(Sealer(b"k" * 32, clock), burnt, clock) for _ in range(2))
    token = one.seal(ALICE, HERE, CALL, STATE)
    other.open(ALICE, HERE, retry(token), "demo")
    with pytest.raises(Malformed, match="request_state"):
        one.open(ALICE, HERE, retry(token), "demo")


def test_workers_without_a_common_store_would_take_it_twice(clock):
    """The negative twin of the test above."""
    one, other = (StateSeal(Sealer(b"k" * 32, clock), MemoryStore(clock).collection("b"), clock) for _ in range(2))
    token = one.seal(ALICE, HERE, CALL, STATE)
    assert other.open(ALICE, HERE, retry(token), "demo") == one.open(ALICE, HERE, retry(token), "demo")


# (what, who, where, what the retry changes, for which upstream)
FOREIGN = [
    ("another subject", replace(ALICE, subject="u_bob"), HERE, {}, "demo"),
    ("another client", replace(ALICE, client_id="https://other.example/c.json"), HERE, {}, "demo"),
    ("another tenant", replace(ALICE, tenant="acme"), HERE, {}, "demo"),
    ("another issuer", replace(ALICE, issuer="https://other.example"), HERE, {}, "demo"),
    ("another endpoint", ALICE, "https://gate.example/mcp", {}, "demo"),
    ("another upstream", ALICE, HERE, {}, "second"),
    ("other arguments", ALICE, HERE, {"arguments": {"a": 2}}, "demo"),
    ("another tool", ALICE, HERE, {"name": "other"}, "demo"),
    ("one more parameter", ALICE, HERE, {"more": 1}, "demo"),
]


@pytest.mark.parametrize(("what", "who", "where", "changes", "upstream"), FOREIGN, ids=[f[0] for f in FOREIGN])
def test_a_state_is_worth_nothing_to_anyone_else_and_for_anything_else(what, who, where, changes, upstream, seal):
    token = seal.seal(ALICE, HERE, CALL, STATE)
    with pytest.raises(Malformed, match="request_state"):
        seal.open(who, where, retry(token, **changes), upstream)


def test_a_state_of_another_method_is_refused(seal):
    token = seal.seal(ALICE, HERE, CALL, STATE)
    with pytest.raises(Malformed, match="request_state"):
        seal.open(ALICE, HERE, replace(retry(token), method="prompts/get"), "demo")


def test_a_failed_try_has_spent_the_state_too(seal):
    """The nonce burns first: whoever probes with a stolen state leaves nothing to probe again."""
    token = seal.seal(ALICE, HERE, CALL, STATE)
    with pytest.raises(Malformed):
        seal.open(ALICE, HERE, retry(token, name="other"), "demo")
    with pytest.raises(Malformed, match="request_state"):
        seal.open(ALICE, HERE, retry(token), "demo")


def test_a_stranger_cannot_spend_it(seal):
    token = seal.seal(ALICE, HERE, CALL, STATE)
    with pytest.raises(Malformed):
        seal.open(replace(ALICE, subject="u_bob"), HERE, retry(token), "demo")
    assert seal.open(ALICE, HERE, retry(token), "demo") == STATE


def test_an_expired_state_is_refused(seal, clock):
    token = seal.seal(ALICE, HERE, CALL, STATE)
    clock.advance(state_seal.TTL_S - 1)
    assert seal.worker(ALICE, HERE, token) is None
    clock.advance(1)
    with pytest.raises(Malformed, match="request_state"):
        seal.open(ALICE, HERE, retry(token), "demo")


def test_every_changed_character_is_noticed(seal):
    token = seal.seal(ALICE, HERE, CALL, STATE)
    for at in range(0, len(token), 7):
        other = "A" if token[at] != "A" else "B"
        with pytest.raises(Malformed, match="request_state"):
            seal.open(ALICE, HERE, retry(token[:at] + other + token[at + 1 :]), "demo")
    assert seal.open(ALICE, HERE, retry(token), "demo") == STATE


@pytest.mark.parametrize("token", [None, 7, "", "x", "A" * 100_000, [], {"a": 1}, "é" * 40, True])
def test_what_is_no_state_is_refused(token, seal):
    with pytest.raises(Malformed, match="request_state"):
        seal.open(ALICE, HERE, retry(token), "demo")


def test_a_token_of_another_purpose_is_no_state(seal, clock):
    other = Sealer(b"k" * 32, clock).seal("mcp.cursor", ALICE.tenant, ["x"] * 9, ttl_s=60)
    with pytest.raises(Malformed, match="request_state"):
        seal.open(ALICE, HERE, retry(other), "demo")


def test_a_servers_state_is_bounded(seal):
    with pytest.raises(Malformed, match="handle_too_large"):
        seal.seal(ALICE, HERE, CALL, replace(STATE, state="x" * (state_seal.UPSTREAM_STATE_CHARS + 1)))
    with pytest.raises(Malformed, match="handle_too_large"):
        seal.seal(ALICE, HERE, CALL, replace(STATE, questions={"q": "x" * 64_000}))


def test_a_caller_burns_a_bounded_number_of_states(seal, monkeypatch):
    monkeypatch.setattr(state_seal, "BURNT_PER_CALLER", 2)
    for _ in range(2):
        seal.open(ALICE, HERE, retry(seal.seal(ALICE, HERE, CALL, STATE)), "demo")
    with pytest.raises(Malformed, match="request_state"):
        seal.open(ALICE, HERE, retry(seal.seal(ALICE, HERE, CALL, STATE)), "demo")


def test_a_store_that_does_not_answer_is_a_refusal(clock):
    class Gone:
        def add(self, *_args, **_more):
            raise StateUnavailable("down")

    seal = StateSeal(Sealer(b"k" * 32, clock), Gone(), clock)  # type: ignore[arg-type]
    with pytest.raises(StateUnavailable):
        seal.open(ALICE, HERE, retry(seal.seal(ALICE, HERE, CALL, STATE)), "demo")


def test_a_parked_state_names_its_worker_without_being_spent(seal):
    token = seal.seal(ALICE, HERE, CALL, Sealed("demo", {}, None, "c_1", 3))
    assert seal.worker(ALICE, HERE, token) == 3
    assert seal.worker(replace(ALICE, subject="u_bob"), HERE, token) is None
    assert seal.open(ALICE, HERE, retry(token), "demo").parked == "c_1"
