"""Flow labels follow the caller, in shared memory and in the store (DESIGN §6b-1, §6b-2, §6b-13)."""

import pytest

from firewall.core.errors import StateUnavailable
from firewall.core.label import MOST_RESTRICTIVE, label_of
from firewall.core.run import make_run, run_ends_s
from firewall.enforce.labels import AFTER_RUN_S, FlowLabels, shared_key
from firewall.net.runtime import FakeClock, RandomIds
from firewall.state.memory import MemoryStore
from firewall.state.shared import SharedMarks
from tests.support.kit import LocalMarks, principal

UNTRUSTED = label_of(["untrusted"])
SECRET = label_of(["secret"])


@pytest.fixture
def kept():
    return MemoryStore().collection("labels")


def test_labels_join_and_never_fall(kept):
    labels = FlowLabels(LocalMarks(), kept)
    labels.raise_(principal(), UNTRUSTED)
    labels.raise_(principal(), SECRET)
    assert labels.current(principal()) == UNTRUSTED | SECRET


def test_another_audience_client_session_or_key_of_the_same_caller_changes_nothing(kept):
    labels = FlowLabels(LocalMarks(), kept)
    labels.raise_(principal(), UNTRUSTED)
    assert labels.current(principal(audience="http://127.0.0.1:8700/v1", token_id="other", grant_id="g2")) == UNTRUSTED
    assert labels.current(principal(client_id="https://other.example/c.json")) == 0


def test_parts_of_a_key_cannot_blend():
    assert shared_key(b"label", "a", "bc") != shared_key(b"label", "ab", "c")
    assert shared_key(b"label", "a") != shared_key(b"kill", "a")


def test_labels_of_every_tenant_come_back_when_shared_memory_was_made_anew(kept):
    before = FlowLabels(LocalMarks(), kept)
    before.raise_(principal(), UNTRUSTED)
    before.raise_(principal(tenant="other"), SECRET)
    after = FlowLabels(LocalMarks(), kept)
    assert after.current(principal()) == 0, "the twin: nothing is known before it is restored"
    assert after.restore() == 2
    assert after.current(principal()) == UNTRUSTED
    assert after.current(principal(tenant="other")) == SECRET


def test_a_label_that_cannot_be_kept_is_not_raised_silently(kept):
    class Full(LocalMarks):
        def raise_(self, key, marks):
            raise StateUnavailable("full")

    labels = FlowLabels(Full(), kept)
    with pytest.raises(StateUnavailable):
        labels.raise_(principal(), UNTRUSTED)


def test_what_cannot_be_read_counts_as_everything(kept):
    class Lost(LocalMarks):
        def read(self, key):
            raise StateUnavailable("gone")

    assert FlowLabels(Lost(), kept).current(principal()) == MOST_RESTRICTIVE


# -- runs (docs/adr/0026) ------------------------------------------------------------------------------


def run_of(clock, *, lasts_s=3600):
    return make_run(RandomIds().new("run"), clock.now_us() // 1_000_000 + lasts_s)


def test_a_run_begins_clean_and_leaves_what_was_there_as_it_is(kept):
    clock = FakeClock()
    labels = FlowLabels(LocalMarks(), kept, clock)
    labels.raise_(principal(), UNTRUSTED)
    run = run_of(clock)
    assert labels.current(principal(run=run)) == 0
    assert labels.current(principal()) == UNTRUSTED


def test_what_a_run_learned_is_not_forgotten_by_leaving_it(kept):
    clock = FakeClock()
    labels = FlowLabels(LocalMarks(), kept, clock)
    one, other = run_of(clock), run_of(clock)
    labels.raise_(principal(run=one), SECRET)
    assert labels.current(principal(run=one)) == SECRET
    assert labels.current(principal()) == SECRET, "the plain context takes the join"
    assert labels.current(principal(run=other)) == 0, "another run is as clean as it was"
    labels.raise_(principal(run=other), UNTRUSTED)
    assert labels.current(principal()) == SECRET | UNTRUSTED


def test_a_run_is_one_callers_own(kept):
    clock = FakeClock()
    labels = FlowLabels(LocalMarks(), kept, clock)
    run = run_of(clock)
    labels.raise_(principal(run=run), SECRET)
    for other in ({"tenant": "other"}, {"subject": "u_bob"}, {"client_id": "https://other.example/c.json"}):
        assert labels.current(principal(run=run, **other)) == 0
    assert labels.current(principal(run=run, audience="http://127.0.0.1:8700/v1", token_id="2")) == SECRET


def test_a_runs_label_comes_back_after_a_restart_and_is_given_back_after_its_end():
    clock = FakeClock()
    store = MemoryStore(clock).collection("labels")
    run = run_of(clock)
    FlowLabels(LocalMarks(), store, clock).raise_(principal(run=run), UNTRUSTED)
    marks = LocalMarks()
    after = FlowLabels(marks, store, clock)
    assert after.restore() == 2
    assert after.current(principal(run=run)) == UNTRUSTED
    clock.advance(3600 + AFTER_RUN_S + 1)
    after.raise_(principal(run=run_of(clock)), UNTRUSTED)
    assert len(marks.marks) == 2, "the plain context and the new run: the old run's slot is free"
    assert after.current(principal()) == UNTRUSTED, "the plain context is not given back"


def test_thousands_of_runs_do_not_fill_shared_memory():
    clock = FakeClock()
    marks = SharedMarks(None, slots=64)
    labels = FlowLabels(marks, MemoryStore(clock).collection("labels"), clock)
    for _ in range(2000):
        labels.raise_(principal(run=run_of(clock, lasts_s=60)), UNTRUSTED)
        clock.advance(600)
    assert marks.used() < 0.5
    forgetful = FlowLabels(SharedMarks(None, slots=64), MemoryStore(clock).collection("labels"))
    for _ in range(47):
        forgetful.raise_(principal(run=run_of(clock)), UNTRUSTED)
    with pytest.raises(StateUnavailable):  # the twin: slots that are not given back
        forgetful.raise_(principal(run=run_of(clock)), UNTRUSTED)


@pytest.mark.parametrize(
    "text", ["", "run", "run_x.1", "run_" + "A" * 26, "run_" + "A" * 26 + ".", "run_" + "a" * 26 + ".1790000000",
             "run_" + "A" * 26 + ".-1", "run_" + "A" * 26 + ".01", "run_" + "A" * 26 + "." + "9" * 13,
             "run_" + "A" * 26 + ".\u0661"],
)  # fmt: skip
def test_what_is_no_runs_name_ended_long_ago(text):
    assert run_ends_s(text) == 0
    assert run_ends_s(make_run("run_" + "A" * 26, 1_790_000_000)) == 1_790_000_000
