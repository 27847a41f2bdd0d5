"""Shared marks: one view for all workers of a node."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest

from firewall.core.errors import ConfigFault, StateUnavailable
from firewall.state.shared import ALL, SharedMarks, discard


def key(n: int) -> bytes:
    return blake2b(n.to_bytes(8, "big"), digest_size=16).digest()


@pytest.fixture(params=["private", "file"])
def marks(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SharedMarks]:
    made = SharedMarks(None if request.param == "private" else tmp_path, slots=64)
    yield made
    made.close()


def test_marks_only_grow(marks: SharedMarks) -> None:
    assert marks.read(key(1)) == 0
    marks.raise_(key(1), 0b01)
    marks.raise_(key(1), 0b10)
    marks.raise_(key(1), 1 << 63)
    marks.raise_(key(1), 0)
    assert marks.read(key(1)) == 0b11 | 1 << 63
    assert marks.read(key(2)) == 0


def test_keys_that_share_a_slot_or_half_a_key_stay_apart(marks: SharedMarks) -> None:
    base = (7).to_bytes(8, "little")
    keys = [base + n.to_bytes(8, "little") for n in range(20)]
    keys += [(7 + 64 * n).to_bytes(8, "little") + bytes(8) for n in range(1, 20)]
    for n, one in enumerate(keys):
        marks.raise_(one, 1 << n)
    assert [marks.read(one) for one in keys] == [1 << n for n in range(len(keys))]
    assert marks.read(bytes(8) + b"12345678") == 0


def test_dropped_keys_leave_the_others_and_room_for_new_ones(marks: SharedMarks) -> None:
    """Against a plain dict: 3,000 steps of raising and dropping in a table that is never more than half full."""
    state, known = 1, {}
    for step in range(3000):
        state = state * 6364136223846793005 + 1442695040888963407 & ALL
        if len(known) < 30 and state >> 60 > 4:
            # Half of the keys begin at one of four places, so that their searches lead over each other.
            at = (state >> 20) % 4 if state >> 40 & 1 else state >> 7
            one = (64 * step + 2 + at & ALL).to_bytes(8, "little") + step.to_bytes(8, "little")
            known[one] = step + 1
            marks.raise_(one, step + 1)
        elif known:
            gone = list(known)[(state >> 33) % len(known)]
            del known[gone]
            marks.drop(gone)
            assert marks.read(gone) == 0
        assert [marks.read(one) for one in known] == list(known.values())
    for one in list(known):
        marks.drop(one)
    assert marks.used() == 0, "nothing is left of dropped keys"


def test_a_worker_drops_only_what_it_raised_itself(tmp_path: Path) -> None:
    one, two = SharedMarks(tmp_path, workers=2, slots=64), SharedMarks(tmp_path, workers=2, slots=64)
    one.raise_(key(1), 1)
    two.raise_(key(1), 2)
    one.drop(key(1))
    one.drop(key(2))
    assert two.read(key(1)) == 2
    one.close()
    one.drop(key(1))
    two.close()


def test_dropped_keys_are_not_carried_into_another_layout(tmp_path: Path) -> None:
    old = SharedMarks(tmp_path, slots=64)
    chain = [(64 * n + 9).to_bytes(8, "little") + bytes(8) for n in range(3)]
    for one in chain:
        old.raise_(one, 7)
    old.drop(chain[0])
    old.close()
    new = SharedMarks(tmp_path, slots=128)
    assert [new.read(one) for one in chain] == [0, 7, 7]
    assert new.read((1).to_bytes(8, "little") + bytes(8)) == 0
    new.close()


def test_a_full_table_refuses_a_new_key_but_takes_known_ones(marks: SharedMarks) -> None:
    for n in range(48):
        marks.raise_(key(n), 1)
    assert marks.used() == 1
    with pytest.raises(StateUnavailable):
        marks.raise_(key(99), 1)
    assert marks.read(key(99)) == 0
    marks.raise_(key(3), 2)
    assert marks.read(key(3)) == 3


def test_a_bump_changes_the_epoch(marks: SharedMarks) -> None:
    before = marks.epoch()
    assert marks.bump() == marks.epoch() == before + 1


def test_unreadable_memory_counts_as_everything(tmp_path: Path) -> None:
    marks = SharedMarks(tmp_path, slots=8)
    marks._words[0] = 1
    assert marks.read(key(1)) == ALL
    with pytest.raises(StateUnavailable):
        marks.epoch()
    marks.close()
    assert marks.read(key(1)) == ALL
    for call in (marks.epoch, marks.bump, lambda: marks.raise_(key(1), 1)):
        with pytest.raises(StateUnavailable):
            call()


def test_a_key_whose_marks_have_not_arrived_counts_as_everything(marks: SharedMarks) -> None:
    marks.raise_(key(1), 1)
    at = next(i for i in range(512 + 8, len(marks._words), 3) if marks._words[i])
    marks._words[at + 2] = 0
    assert marks.read(key(1)) == ALL


def test_a_writer_that_died_before_publishing_leaves_no_stale_marks(tmp_path: Path) -> None:
    marks = SharedMarks(tmp_path, slots=8)
    one = (3).to_bytes(8, "little") + bytes(8)
    at = 512 + 8 + 3 * 3
    marks._words[at + 2] = 0xFF  # marks written, key not
    assert marks.read(one) == 0
    marks.close()
    again = SharedMarks(tmp_path, slots=8)
    again.raise_(one, 1)
    assert again.read(one) == 1
    again.close()


def test_each_worker_gets_its_own_column_and_none_is_left_over(tmp_path: Path) -> None:
    a, b = SharedMarks(tmp_path, workers=2, slots=64), SharedMarks(tmp_path, workers=2, slots=64)
    assert {a.worker, b.worker} == {0, 1}
    with pytest.raises(StateUnavailable):
        SharedMarks(tmp_path, workers=2, slots=64)
    a.raise_(key(1), 1)
    b.raise_(key(1), 2)
    assert a.read(key(1)) == b.read(key(1)) == 3
    epoch = a.epoch()
    b.bump()
    assert a.epoch() == epoch + 1
    a.close()
    b.close()


def test_a_new_layout_keeps_old_marks_and_waits_for_old_workers(tmp_path: Path) -> None:
    a = SharedMarks(tmp_path, workers=1, slots=64)
    for n in range(20):
        a.raise_(key(n), n + 1)
    with pytest.raises(ConfigFault) as caught:
        SharedMarks(tmp_path, workers=4, slots=128)
    assert caught.value.code == "marks_layout"
    a.close()
    b = SharedMarks(tmp_path, workers=4, slots=128)
    assert [b.read(key(n)) for n in range(20)] == [n + 1 for n in range(20)]
    b.close()


def test_marks_are_discarded_only_when_nobody_uses_them(tmp_path: Path) -> None:
    marks = SharedMarks(tmp_path, slots=8)
    marks.raise_(key(1), 1)
    with pytest.raises(ConfigFault):
        discard(tmp_path)
    marks.close()
    assert discard(tmp_path) is True
    assert discard(tmp_path) is False
    fresh = SharedMarks(tmp_path, slots=8)
    assert fresh.read(key(1)) == 0
    fresh.close()


def test_the_file_is_private_and_an_open_one_is_refused(tmp_path: Path) -> None:
    SharedMarks(tmp_path, slots=8).close()
    assert (tmp_path / "marks").stat().st_mode & 0o777 == 0o600
    (tmp_path / "marks").chmod(0o644)
    with pytest.raises(ConfigFault):
        SharedMarks(tmp_path, slots=8)


def _worker(path: str, workers: int, orders: Any, answers: Any) -> None:
    marks = SharedMarks(path, workers=workers, slots=1024)
    answers.put(marks.worker)
    while True:
        order = orders.get()
        if order[0] == "raise":
            marks.raise_(key(order[1]), order[2])
            answers.put("raised")
        elif order[0] == "read":
            answers.put(marks.read(key(order[1])))
        elif order[0] == "bump":
            answers.put(marks.bump())
        elif order[0] == "epoch":
            answers.put(marks.epoch())
        else:
            return


@pytest.mark.parametrize("count", [1, 4])
def test_a_raise_that_returned_is_seen_by_every_worker_even_after_a_crash(tmp_path: Path, count: int) -> None:
    context = multiprocessing.get_context("spawn")
    lines = [(context.Queue(), context.Queue()) for _ in range(count)]
    workers = [context.Process(target=_worker, args=(str(tmp_path), count, *line)) for line in lines]
    for worker in workers:
        worker.start()
    columns = [line[1].get(timeout=30) for line in lines]
    assert sorted(columns) == list(range(count))

    def ask(n: int, *order: Any) -> Any:
        lines[n][0].put(order)
        return lines[n][1].get(timeout=30)

    for n in range(count):
        assert ask(n, "raise", 5, 1 << n) == "raised"
        assert ask(n, "raise", 100 + n, 7) == "raised"
        assert {ask(m, "read", 5) for m in range(count)} == {(1 << n + 1) - 1}
        assert {ask(m, "read", 100 + n) for m in range(count)} == {7}
        bumped = ask(n, "bump")
        assert {ask(m, "epoch") for m in range(count)} == {bumped}

    assert workers[0].pid is not None
    os.kill(workers[0].pid, signal.SIGKILL)
    workers[0].join(10)
    heir = SharedMarks(tmp_path, workers=count, slots=1024)
    assert heir.worker == columns[0]
    assert heir.read(key(5)) == (1 << count) - 1
    heir.raise_(key(5), 1 << 40)
    for n in range(1, count):
        assert ask(n, "read", 5) == (1 << count) - 1 | 1 << 40
        lines[n][0].put(("stop",))
    for worker in workers:
        worker.join(10)
    heir.close()
