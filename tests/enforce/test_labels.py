"""Flow labels follow the caller, in shared memory and in the store (DESIGN §6b-1, §6b-2, §6b-13)."""

import pytest

from firewall.core.errors import StateUnavailable
from firewall.core.label import MOST_RESTRICTIVE, label_of
from firewall.enforce.labels import FlowLabels, shared_key
from firewall.state.memory import MemoryStore
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
