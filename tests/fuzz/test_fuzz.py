"""A short turn of the fuzzers with every test run; `make fuzz` gives them longer."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.mutate import mutated
from tests.fuzz.targets import TARGETS, Target, attempt
from tests.fuzz.whole import fuzz_whole

pytestmark = [pytest.mark.fuzz, pytest.mark.timeout(120)]
ALL = pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))


@ALL
def test_the_corpus_is_accepted(target: Target) -> None:
    """Damage to what is refused anyway would test little."""
    assert "ok" in {attempt(target, good) for good in target.corpus}


@ALL
@given(data=st.binary(max_size=512))
def test_noise_is_refused_in_our_own_words(target: Target, data: bytes) -> None:
    attempt(target, data)


@ALL
@given(seed=st.integers(0, 2**32))
def test_damaged_input_is_read_or_refused_in_our_own_words(target: Target, seed: int) -> None:
    attempt(target, mutated(target.corpus, random.Random(seed)))


async def test_the_whole_firewall_survives_and_forwards_nothing_undecided(tmp_path: Path) -> None:
    seen = await fuzz_whole(tmp_path / "state", seconds=6, seed=random.randrange(2**32), most=400)
    assert seen.findings == []
    assert seen.statuses[200] > 0, "nothing went through: the fuzzer misses the road"
    assert seen.statuses[400] > 0
