"""What a change means: block, ask, warn; and a lock that alone says what is approved."""

from __future__ import annotations

from typing import get_args

import pytest

from firewall.core.errors import Conflict
from firewall.core.jsonvalue import JSONObject
from firewall.enforce.lock import Lock, Locked
from firewall.enforce.pins import OF_A_SERVER, OF_AN_AGENT, Kind, OnChange, PinRules, Pins
from firewall.state.memory import MemoryStore
from tests.support.kit import FixedClock, LocalMarks

A, B, C = ("sha256:" + c * 64 for c in "abc")


def book(rules: PinRules = PinRules(), told: list[JSONObject] | None = None) -> Pins:  # noqa: B008  frozen
    record = told.append if told is not None else lambda _r: None
    return Pins(MemoryStore().collection("pins"), LocalMarks(), FixedClock(), rules, record)


def locked(**digests: str) -> PinRules:
    return PinRules(lock=Lock({("up", "tool", name): Locked(digest) for name, digest in digests.items()}))


def test_every_kind_belongs_to_a_server_or_to_an_agent() -> None:
    assert {*OF_A_SERVER, *OF_AN_AGENT} == set(get_args(Kind))


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_change_of_any_kind_is_seen_and_waits_for_a_person(kind: Kind) -> None:
    pins = book()
    assert pins.observe("t", "up", kind, "x", A, trust=True) == "approved"
    assert pins.observe("t", "up", kind, "x", B) == "changed"
    assert pins.status("t", "up", kind, "x", B) == "changed"
    assert pins.approve("t", "up", kind, "x", B, by="ann").status == "approved"
    assert pins.status("t", "up", kind, "x", B) == "approved"
    assert pins.status("t", "up", kind, "x", A) == "changed"


@pytest.mark.parametrize(
    ("mode", "status", "verb"),
    [("block", "changed", "changed"), ("ask", "changed", "asks"), ("warn", "warned", "warned")],
)
def test_the_mode_says_what_a_change_means_and_the_record_what_was_seen(mode: OnChange, status: str, verb: str) -> None:
    told: list[JSONObject] = []
    pins = book(PinRules({"up": mode}), told)
    pins.observe("t", "up", "tool", "x\u202e", A, trust=True)
    assert told == []
    assert pins.observe("t", "up", "tool", "x\u202e", B) == status
    assert pins.observe("t", "up", "tool", "x\u202e", B) == status
    assert pins.status("t", "up", "tool", "x\u202e", B) == status
    assert told == [
        {
            "kind": "pins",
            "tenant": "t",
            "by": "gateway",
            "verb": verb,
            "object": "up/tool/x?",
            "from": A,
            "to": B,
            "reasons": [],
        }
    ]
    assert next(pins.list("t")).asks is (mode == "ask")
    pins.approve("t", "up", "tool", "x\u202e", B, by="ann")
    assert next(pins.list("t")).asks is False


def test_warn_lets_no_new_definition_and_no_poisoned_change_through() -> None:
    pins = book(PinRules({"up": "warn"}))
    assert pins.observe("t", "up", "tool", "late", A) == "new"
    pins.observe("t", "up", "tool", "x", A, trust=True)
    assert pins.observe("t", "up", "tool", "x", B, reasons=("review.poison",)) == "changed"
    assert pins.status("t", "up", "tool", "x", B) == "changed"
    assert pins.observe("t", "up", "tool", "x", C) == "warned"
    assert pins.status("t", "up", "tool", "x", B) == "changed", "its review is no longer known"


def test_the_mode_of_one_upstream_says_nothing_about_another() -> None:
    pins = book(PinRules({"up": "warn"}))
    pins.observe("t", "other", "tool", "x", A, trust=True)
    assert pins.observe("t", "other", "tool", "x", B) == "changed"


def test_with_a_lock_a_first_contact_approves_nothing() -> None:
    pins = book(locked(x=A))
    assert pins.observe("t", "up", "tool", "y", B, trust=True) == "new"
    assert pins.status("t", "up", "tool", "y", B) == "new"
    assert pins.status("t", "up", "tool", "never-seen", B) == "new"
    assert book().observe("t", "up", "tool", "y", B, trust=True) == "approved"  # the twin: without a lock


def test_with_a_lock_only_its_digest_is_approved() -> None:
    told: list[JSONObject] = []
    rules = locked(x=A)
    pins = book(rules, told)
    assert pins.status("t", "up", "tool", "x", A) == "approved", "before it was ever seen"
    assert pins.status("t", "up", "tool", "x", B) == "changed"
    assert pins.observe("t", "up", "tool", "x", A) == "approved"
    assert pins.observe("t", "up", "tool", "x", B) == "changed"
    assert [(r["from"], r["to"]) for r in told] == [(A, B)]


def test_an_approval_under_a_lock_is_kept_for_the_next_export_and_opens_nothing() -> None:
    pins = book(locked(x=A))
    pins.observe("t", "up", "tool", "x", B)
    pin = pins.approve("t", "up", "tool", "x", B, by="ann")
    assert (pin.approved, pin.status) == (B, "changed")
    assert pins.status("t", "up", "tool", "x", B) == "changed"
    assert next(pins.list("t")).locked == A


def test_an_approval_names_the_digest_that_was_shown() -> None:
    pins = book()
    pins.observe("t", "up", "template", "file:///{p}", A)
    pins.observe("t", "up", "template", "file:///{p}", B)
    with pytest.raises(Conflict):
        pins.approve("t", "up", "template", "file:///{p}", A, by="ann")


def test_a_revoked_server_loses_the_pins_of_every_kind() -> None:
    pins = book()
    for kind in get_args(Kind):
        pins.observe("t", "up", kind, "x", A, trust=True)
    assert pins.forget("t", "up", OF_A_SERVER) == len(OF_A_SERVER)
    assert [p.kind for p in pins.list("t", "up")] == ["card"]
