"""Refusals before anybody is known: each of the first has an id, and nobody can make a flood of records."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from firewall.core.errors import FAULTS, AuditUnavailable
from firewall.core.jsonvalue import JSONObject
from firewall.identity.throttle import network_of
from firewall.net.runtime import FakeClock, RandomIds
from firewall.record import refused as room
from firewall.record.face import face
from firewall.record.record import validate_record
from firewall.record.refused import PER_MINUTE, PER_NETWORK, RefusalLog
from firewall.record.show import explain, explain_text, show

from .conftest import Make


@dataclass
class Kept:
    """An audit log in a list."""

    records: list[JSONObject] = field(default_factory=list)
    full: bool = False

    def append(self, record: JSONObject) -> None:
        if self.full:
            raise AuditUnavailable("audit_write")
        validate_record({"v": 1, **record})
        self.records.append(record)


@dataclass
class Room:
    audit: Kept = field(default_factory=Kept)
    clock: FakeClock = field(default_factory=FakeClock)

    def __post_init__(self) -> None:
        self.log = RefusalLog(self.audit, self.clock, RandomIds(), network_of)  # type: ignore[arg-type]

    def flood(self, count: int, *, networks: int = 1, fault: str = "origin_foreign") -> list[str]:
        return [self.log.note(fault, f"10.0.{n % networks // 250}.{n % networks % 250}", {}) for n in range(count)]


def test_a_refusal_has_an_id_of_its_own_that_leads_to_its_record() -> None:
    room = Room()
    one, other = room.log.note("host_foreign", "192.0.2.7", {"host": "evil.example"}), room.flood(1)[0]
    assert one.startswith("d_")
    assert one != other
    assert room.audit.records[0] == {
        "kind": "edge",
        "phase": "refused",
        "decision_id": one,
        "fault": "host_foreign",
        "host": "evil.example",
    }
    assert "192.0.2.7" not in repr(room.audit.records)


def test_one_network_and_all_together_have_a_bound_and_the_rest_is_counted() -> None:
    room = Room()
    told = room.flood(500)
    assert [bool(one) for one in told] == [True] * PER_NETWORK + [False] * (500 - PER_NETWORK)
    told = room.flood(500, networks=400, fault="http_desync")
    assert sum(map(bool, told)) == PER_MINUTE - PER_NETWORK
    assert len(room.audit.records) == PER_MINUTE
    room.clock.advance(60)
    assert room.flood(1)[0]
    beyond = {"origin_foreign": 500 - PER_NETWORK, "http_desync": 500 - (PER_MINUTE - PER_NETWORK)}
    assert room.audit.records[-2:][0] == {"kind": "edge", "phase": "note", "counts": beyond}
    room.log.settle()
    assert len(room.audit.records) == PER_MINUTE + 2  # nothing is counted that was recorded


def test_twin_without_its_bounds_a_flood_is_a_flood_of_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "PER_NETWORK", 10**9)
    monkeypatch.setattr(room, "PER_MINUTE", 10**9)
    unbound = Room()
    unbound.flood(500)
    assert len(unbound.audit.records) == 500


def test_addresses_of_one_ipv6_network_are_one() -> None:
    room = Room()
    told = [room.log.note("http_desync", f"2001:db8::{n:x}", {}) for n in range(40)]
    assert sum(map(bool, told)) == PER_NETWORK


def test_a_full_log_refuses_no_less_and_tells_no_id() -> None:
    room = Room(Kept(full=True))
    assert room.flood(30) == [""] * 30
    room.log.settle()
    room.audit.full = False
    assert all(room.flood(3))


def test_it_is_shown_and_explained_by_its_id(make: Make, tmp_path: Path) -> None:
    writer = make()
    log = RefusalLog(writer, FakeClock(), RandomIds(), network_of)
    told = log.note(
        "token_invalid", "192.0.2.7", {"resource": "https://fw.example/mcp/git", "detail": "jwt_claims exp"}
    )
    writer.close()
    (kept,) = show(tmp_path / "audit", kind="edge", fault="token_invalid")
    assert kept["decision_id"] == told
    text = explain_text(explain(tmp_path / "audit", told))
    assert face(kept).how == "token_invalid jwt_claims exp"
    for word in (FAULTS["token_invalid"].text, "jwt_claims exp", "https://fw.example/mcp/git", str(kept["uid"])):
        assert word in text
