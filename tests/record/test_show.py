"""Reading the log: filters, the index as a cache, the story of one exchange."""

from __future__ import annotations

from pathlib import Path

import pytest

from firewall.core.errors import Malformed
from firewall.net.runtime import FakeClock
from firewall.record.index import Index
from firewall.record.show import explain, explain_text, show

from .conftest import Make, decision, outcome

DENIED = {
    "effect": "deny",
    "risk": 90,
    "rules": ["tools.pin_mismatch", "tools.other"],
    "owasp": ["ASI04", "ASI02"],
    "obligations": [],
    "shadow": [],
    "policy": "git:1",
    "engine": "regorus/0.13.0",
    "eval_us": 20,
}


@pytest.fixture
def audit(make: Make, tmp_path: Path) -> Path:
    clock = FakeClock(1_000_000)
    writer = make(clock=clock)
    for n in range(400):
        clock._now_us += 1_000
        clock._monotonic_ns += 1_000_000
        writer.append(decision(n))
        writer.append(outcome(n))
    clock._now_us += 1_000
    clock._monotonic_ns += 1_000_000
    writer.append(
        decision(
            900,
            phase="refused",
            tenant="globex",
            subject="user:\x1b[31mbob",
            decision=DENIED,
            fault="denied",
            findings=[{"rule": "secret.aws", "severity": 90, "pointer": "/params/arguments/key", "value": "h:1"}],
            labels=["untrusted"],
        )
    )
    writer.close()
    return tmp_path / "audit"


def test_records_come_by_time_and_by_filter(audit: Path) -> None:
    assert len(list(show(audit, kind="decision", limit=10_000))) == 401
    assert [r["exchange"] for r in show(audit, kind="outcome", limit=2)] == ["x_0", "x_1"]
    assert next(iter(show(audit, tenant="globex")))["exchange"] == "x_900"
    assert [r["decision_id"] for r in show(audit, rule="tools.pin_mismatch")] == ["d_900"]
    assert list(show(audit, rule="tools.pin")) == []
    assert [r["kind"] for r in show(audit, newest_first=True, limit=1, effect="deny")] == ["decision"]
    assert len(list(show(audit, since_us=1_001_000, until_us=1_003_000))) == 4
    with pytest.raises(Malformed):
        list(show(audit, nonsense="1"))


def test_the_index_is_a_cache_that_can_be_lost(audit: Path) -> None:
    before = list(show(audit, limit=5000))
    assert (audit / "index.sqlite").stat().st_mode & 0o077 == 0
    index = Index(audit)
    assert index.refresh() == 0
    index.close()
    (audit / "index.sqlite").write_bytes(b"rubbish")
    assert list(show(audit, limit=5000)) == before
    (audit / "index.sqlite").unlink()
    assert list(show(audit, limit=5000)) == before
    in_memory = Index(audit, memory=True)
    assert in_memory.refresh() == len(before)
    in_memory.close()


def test_the_index_follows_a_growing_log(make: Make, tmp_path: Path) -> None:
    writer = make()
    index = Index(tmp_path / "audit")
    total = index.refresh()
    for n in range(600):
        writer.append(decision(n))
        if n % 100 == 99:
            assert index.refresh() == 100
    assert total == 1
    index.close()


@pytest.mark.parametrize("which", ["x_900", "d_900", "uid"])
def test_a_denied_exchange_is_explained_from_any_of_its_ids(audit: Path, which: str) -> None:
    if which == "uid":
        which = str(next(iter(show(audit, tenant="globex")))["uid"])
    story = explain(audit, which)
    assert story["exchange"] == "x_900"
    assert story["outcome"] is None
    assert story["signed"] is True
    text = explain_text(story)
    for word in (
        "tools.pin_mismatch",
        "ASI04",
        "secret.aws",
        "/params/arguments/key",
        "untrusted",
        "deny",
        "git/status",
        "nothing was forwarded",
    ):
        assert word in text
    assert "\x1b" not in text


def test_an_allowed_exchange_is_explained_with_its_outcome(audit: Path) -> None:
    text = explain_text(explain(audit, "x_3"))
    assert "decision d_3: allow" in text
    assert "Outcome: ok after 900 us" in text
    assert "user:alice" in text


def test_an_unknown_id_is_said_to_be_unknown(audit: Path) -> None:
    for some_id in ("", "x_12345", "log_x.1", "' OR 1=1 --"):
        with pytest.raises(Malformed) as caught:
            explain(audit, some_id)
        assert caught.value.code == "record_unknown"
