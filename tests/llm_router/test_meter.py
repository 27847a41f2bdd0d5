"""Reserve and settle: integers, all or nothing, never past the ceiling, never free."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firewall.core.errors import Malformed, StateUnavailable
from firewall.state.memory import MemoryStore
from firewall.state.sqlite import SQLiteStore
from llm_router.answer import Usage
from llm_router.meter import Budget, BudgetExceeded, Meter, Price, Tally, prompt_tokens, tokens_of
from tests.support.kit import FixedClock, principal

PRICE = Price.of_usd(2.0, 8.0)
WHO = principal()


def meter(tokens=1_000, micro_usd=10_000, clock=None):
    clock = clock or FixedClock()
    return Meter(MemoryStore(clock).collection("spend"), clock, Budget(tokens, micro_usd))


def test_prices_are_integers_and_costs_are_rounded_up():
    assert Price(2_000_000, 8_000_000) == PRICE
    assert PRICE.cost(7, 5) == 54
    assert Price(1, 1).cost(1, 0) == 1
    assert Price.of_usd(0.1, 0.2).cost(10, 10) == 3


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 10**9), st.integers(1, 10**9))
def test_a_cost_is_never_below_the_exact_one(given_, made, a, b):
    exact = given_ * a + made * b
    assert exact <= Price(a, b).cost(given_, made) * 1_000_000 < exact + 1_000_000


@pytest.mark.parametrize("price", [None, Price(0, 0), Price(5, 0), Price(0, 5)])
def test_an_unknown_price_is_refused(price):
    with pytest.raises(Malformed) as caught:
        meter().reserve(WHO, price, input_tokens=1, output_tokens=1)
    assert caught.value.code == "model_unpriced"


def test_what_is_said_to_be_free_costs_tokens_only():
    m = meter(micro_usd=0)
    m.settle(m.reserve(WHO, Price(0, 0, free=True), input_tokens=5, output_tokens=5), Usage(3, 4))
    assert m.spent(WHO) == (7, 0)


def test_a_reservation_holds_the_most_and_settling_gives_the_rest_back():
    m = meter()
    held = m.reserve(WHO, PRICE, input_tokens=100, output_tokens=100)
    assert m.spent(WHO) == (200, 1_000)
    assert m.settle(held, Usage(7, 5)) == 54
    assert m.spent(WHO) == (12, 54)


def test_settling_twice_charges_once():
    m = meter()
    held = m.reserve(WHO, PRICE, input_tokens=10, output_tokens=10)
    m.settle(held, Usage(7, 5))
    m.settle(held, Usage(100, 100))
    assert m.spent(WHO) == (12, 54)


def test_more_than_was_reserved_is_charged_above_the_ceiling_and_stops_the_next():
    m = meter(tokens=100)
    m.settle(m.reserve(WHO, PRICE, input_tokens=50, output_tokens=50), Usage(60, 90))
    assert m.spent(WHO)[0] == 150
    with pytest.raises(BudgetExceeded):
        m.reserve(WHO, PRICE, input_tokens=1, output_tokens=0)


@pytest.mark.parametrize(("tokens", "micro_usd"), [(199, 10_000), (1_000, 999), (0, 10_000), (1_000, 0)])
def test_a_reservation_is_all_or_nothing(tokens, micro_usd):
    m = meter(tokens, micro_usd)
    with pytest.raises(BudgetExceeded) as caught:
        m.reserve(WHO, PRICE, input_tokens=100, output_tokens=100)
    assert 1 <= caught.value.retry_after_s <= 86_400
    assert m.spent(WHO) == (0, 0)


def test_the_ceiling_is_inclusive():
    m = meter(200, 1_000)
    m.reserve(WHO, PRICE, input_tokens=100, output_tokens=100)
    assert m.spent(WHO) == (200, 1_000)


def test_what_crashed_stays_spent_until_its_day_ends():
    clock = FixedClock()
    m = meter(200, 10_000, clock)
    m.reserve(WHO, PRICE, input_tokens=100, output_tokens=100)
    clock.advance(3600)
    with pytest.raises(BudgetExceeded):
        m.reserve(WHO, PRICE, input_tokens=1, output_tokens=0)
    clock.advance(86_400)
    m.reserve(WHO, PRICE, input_tokens=100, output_tokens=100)


def test_a_call_that_ends_after_midnight_is_settled_on_its_own_day():
    clock = FixedClock()
    m = meter(clock=clock)
    held = m.reserve(WHO, PRICE, input_tokens=100, output_tokens=100)
    clock.advance(86_400)
    m.settle(held, Usage(1, 1))
    assert m.spent(WHO) == (0, 0)


@pytest.mark.parametrize("change", [{"tenant": "acme"}, {"subject": "u_bob"}, {"client_id": "other"}])
def test_callers_do_not_spend_each_others_budget(change):
    m = meter(200, 1_000)
    m.reserve(WHO, PRICE, input_tokens=100, output_tokens=100)
    m.reserve(principal(**change), PRICE, input_tokens=100, output_tokens=100)


def test_a_subject_cannot_be_written_so_that_two_callers_share_a_key():
    m = meter(200, 1_000)
    m.reserve(principal(subject="a/b", client_id="c"), PRICE, input_tokens=100, output_tokens=100)
    m.reserve(principal(subject="a", client_id="b/c"), PRICE, input_tokens=100, output_tokens=100)


class Broken:
    """A collection that answers ``left`` times, then no more."""

    def __init__(self, inner, left):
        self.inner, self.left = inner, left

    def add(self, *args, **kwargs):
        if self.left == 0:
            raise StateUnavailable
        self.left -= 1
        return self.inner.add(*args, **kwargs)


@pytest.mark.parametrize("left", [0, 1])
def test_when_the_store_does_not_answer_nothing_is_reserved(left):
    clock = FixedClock()
    m = Meter(Broken(MemoryStore(clock).collection("s"), left), clock, Budget())
    with pytest.raises(StateUnavailable):
        m.reserve(WHO, PRICE, input_tokens=1, output_tokens=1)


def test_when_the_store_does_not_answer_the_reservation_stays_spent():
    clock = FixedClock()
    inner = MemoryStore(clock).collection("s")
    m = Meter(Broken(inner, 2), clock, Budget())
    held = m.reserve(WHO, PRICE, input_tokens=100, output_tokens=100)
    assert m.settle(held, Usage(1, 1)) == 10
    assert Meter(inner, clock, Budget()).spent(WHO) == (200, 1_000)


@pytest.mark.parametrize("workers", [1, 4])
def test_workers_together_never_pass_the_ceiling(tmp_path, workers):
    """Each worker has its own connection to the node's store, as processes have."""
    clock, ceiling = FixedClock(), 1_000
    passed, over = [], []

    def work() -> None:
        store = SQLiteStore(tmp_path / "state.db", clock=clock)
        m = Meter(store.collection("spend"), clock, Budget(ceiling, 10**9))
        for _ in range(40):
            try:
                held = m.reserve(WHO, PRICE, input_tokens=30, output_tokens=20)
            except BudgetExceeded:
                continue
            passed.append(held)
            if m.spent(WHO)[0] > ceiling:
                over.append(held)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert over == []
    # A refused reservation gives its part back, so a race may refuse early but never grant more.
    assert ceiling // 50 - workers < len(passed) <= ceiling // 50


def test_a_tally_charges_what_is_known_and_estimates_upwards():
    assert Tally(10, 9).actual() == Usage(0, 0)
    assert Tally(10, 9, reached=True).actual() == Usage(10, 5)
    assert Tally(10, 9, Usage(1, 2), reached=True).actual() == Usage(1, 2)
    assert tokens_of(3) == 2
    assert prompt_tokens(1_000, 2, 800) == 100 + 3_200
