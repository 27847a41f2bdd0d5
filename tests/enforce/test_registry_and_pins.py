"""Registry states, pins, and who may move them."""

import pytest

from firewall.core.errors import Conflict, Malformed
from firewall.enforce.pins import Pins
from firewall.enforce.registry import MOVES, Registry, check_name
from firewall.state.memory import MemoryStore
from tests.support.kit import FixedClock, LocalMarks


@pytest.fixture
def registry():
    seen = []
    made = Registry(MemoryStore().collection("registry"), LocalMarks(), FixedClock(), seen.append)
    made.seen = seen
    return made


def test_an_entry_walks_only_along_its_table(registry):
    registry.register("t", "mcp", "files", {"url": "https://x"}, by="op")
    assert registry.state("t", "mcp", "files") == "pending"
    for verb in ("suspend",):
        with pytest.raises(Conflict):
            getattr(registry, verb)("t", "mcp", "files", by="op")
    registry.approve("t", "mcp", "files", by="op")
    assert registry.state("t", "mcp", "files") == "approved"
    registry.suspend("t", "mcp", "files", by="op")
    assert registry.state("t", "mcp", "files") == "suspended"
    registry.revoke("t", "mcp", "files", by="op")
    with pytest.raises(Conflict):
        registry.approve("t", "mcp", "files", by="op")
    assert [r["verb"] for r in registry.seen] == ["register", "approve", "suspend", "revoke"]
    assert set(MOVES.values()) == {"approved", "suspended", "revoked"}


def test_an_unknown_name_or_another_tenants_counts_as_revoked(registry):
    registry.register("t", "mcp", "files", {}, by="op")
    registry.approve("t", "mcp", "files", by="op")
    assert registry.state("other", "mcp", "files") == "revoked"
    assert registry.state("t", "a2a", "files") == "revoked"


def test_a_change_that_cannot_be_recorded_does_not_happen():
    def refuse(_record):
        raise RuntimeError("disk full")

    registry = Registry(MemoryStore().collection("r"), LocalMarks(), FixedClock(), refuse)
    with pytest.raises(RuntimeError):
        registry.register("t", "mcp", "files", {}, by="op")
    assert registry.get("t", "mcp", "files") is None


@pytest.mark.parametrize("name", ["", "A", "a_b", "a--b", "-a", "a-", "1a", "a/b", "a" * 41, "é"])
def test_names_that_could_blend_into_paths_or_scopes_are_refused(name):
    with pytest.raises(Malformed):
        check_name(name)


@pytest.fixture
def pins():
    return Pins(MemoryStore().collection("pins"), LocalMarks(), FixedClock())


def test_first_contact_pins_a_clean_definition_and_never_again(pins):
    assert pins.first_contact("t", "up")
    assert pins.observe("t", "up", "tool", "a", "sha256:1", trust=True) == "approved"
    assert not pins.first_contact("t", "up")
    assert pins.observe("t", "up", "tool", "a", "sha256:2", trust=True) == "changed"
    assert pins.status("t", "up", "tool", "a", "sha256:2") == "changed"
    assert pins.status("t", "up", "tool", "a", "sha256:1") == "approved"
    assert pins.status("other", "up", "tool", "a", "sha256:1") == "new"


def test_a_definition_that_its_review_found_fault_with_is_never_trusted_at_first_sight(pins):
    assert pins.observe("t", "up", "tool", "a", "sha256:1", trust=True, reasons=("review.poison",)) == "new"


def test_a_person_approves_exactly_what_was_shown(pins):
    pins.observe("t", "up", "tool", "a", "sha256:1", trust=True)
    pins.observe("t", "up", "tool", "a", "sha256:2")
    with pytest.raises(Conflict):
        pins.approve("t", "up", "tool", "a", "sha256:3", by="op")
    before = pins.epoch()
    assert pins.approve("t", "up", "tool", "a", "sha256:2", by="op").status == "approved"
    assert pins.epoch() != before, "caches of other workers are told"


def test_two_workers_at_first_contact_agree(pins):
    first = pins.first_contact("t", "up")
    pins.observe("t", "up", "tool", "a", "sha256:1", trust=first)
    late = pins.first_contact("t", "up")
    assert pins.observe("t", "up", "tool", "b", "sha256:2", trust=late) == "new", "noted by the late worker"
    assert pins.observe("t", "up", "tool", "b", "sha256:2", trust=first) == "approved"
    assert pins.observe("t", "up", "tool", "c", "sha256:3", trust=late) == "new"
    assert pins.observe("t", "up", "tool", "c", "sha256:4", trust=first) == "new", (
        "what changed meanwhile is not trusted"
    )


def test_a_late_worker_can_tell_when_a_first_contact_is_over():
    clock = FixedClock()
    pins = Pins(MemoryStore(clock).collection("pins"), LocalMarks(), clock)
    assert not pins.meeting("t", "up")
    assert pins.meet("t", "up")
    assert not pins.meet("t", "up")
    assert pins.meeting("t", "up")
    pins.met("t", "up")
    assert not pins.meeting("t", "up")
    assert pins.meet("t", "other")
    clock.advance(3.1)
    assert not pins.meeting("t", "other"), "a worker that died in between holds nobody up"
