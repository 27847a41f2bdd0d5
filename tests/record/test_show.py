"""Reading the log: filters, the index as a cache, the story of one exchange."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

import pytest

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.net.runtime import FakeClock
from firewall.record.face import face
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


def test_a_bundle_that_is_full_and_not_yet_renamed_is_read_once_and_under_its_own_number(
    make: Make, tmp_path: Path
) -> None:
    writer = make()
    index = Index(tmp_path / "audit")
    index.refresh()
    written = 1
    while written <= 2 * 256:
        uid = writer.append(decision(written)).uid
        written += 1
        if written % 256 < 2:
            assert [index.refresh() for _ in range(3)][1:] == [0, 0], written
            with pytest.raises(Malformed):
                index.record(writer.log_id, written)
            assert [r["uid"] for r in index.find(newest_first=True, limit=1)] == [uid]
    assert len(list(index.find(limit=5000))) == written
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
    assert "before it was sent" not in text, "a record of its own told it, after the end"


def test_an_outcome_that_the_answers_record_told_says_that_it_is_no_receipt(make: Make, tmp_path: Path) -> None:
    writer = make()
    writer.append(decision(1))
    answered = {"result": "ok", "error": "", "duration_us": 900, "bytes_in": 1, "bytes_out": 1, "intent": "i"}
    writer.append(decision(1, phase="outcome", point="mcp.tool.result", outcome=answered))
    story = explain(tmp_path / "audit", "x_1")
    assert story["outcome_from"] == "answer"
    assert "before it was sent" in explain_text(story)
    left = {**outcome(1), "outcome": {**answered, "result": "aborted", "error": "client_left"}}
    writer.append(left)
    later = explain(tmp_path / "audit", "x_1")
    assert later["outcome_from"] == "end", "another end, recorded afterwards, wins"
    assert "Outcome: aborted (client_left)" in explain_text(later)
    assert "before it was sent" not in explain_text(later)


def test_what_opened_a_call_is_told_the_scope_and_the_oauth_grant(make: Make, tmp_path: Path) -> None:
    writer = make()
    writer.append(decision(1, scope="git:read", gid="g_1"))
    writer.append(decision(2))
    writer.close()
    text = explain_text(explain(tmp_path / "audit", "d_1"))
    assert "scope that opens it: git:read" in text
    assert "By OAuth grant g_1" in text
    plain = explain_text(explain(tmp_path / "audit", "d_2"))
    assert "scope that opens it" not in plain
    assert "OAuth grant" not in plain


def test_an_unknown_id_is_said_to_be_unknown(audit: Path) -> None:
    for some_id in ("", "x_12345", "log_x.1", "' OR 1=1 --"):
        with pytest.raises(Malformed) as caught:
            explain(audit, some_id)
        assert caught.value.code == "record_unknown"


EVENTS: tuple[dict[str, object], ...] = (
    {"event": "identity.login", "tenant": "acme", "sub": "u_1", "acr": "urn:x:password"},
    {
        "event": "identity.token.issued",
        "tenant": "acme",
        "sub": "u_1",
        "client_id": "tool",
        "resource": "https://fw.example/mcp/git",
        "gid": "g_1",
        "grant_type": "authorization_code",
    },
    {"event": "identity.token.refused", "error": "invalid_grant", "code": "code_used", "client_id": "tool"},
    {"event": "identity.grant.revoked", "tenant": "acme", "sub": "u_1", "gid": "g_1", "reason": "refresh_reused"},
    {"event": "admin.signed_in", "tenant": "acme", "by": "root"},
)


@pytest.fixture
def events(make: Make, tmp_path: Path) -> Path:
    writer = make()
    for event in EVENTS:
        writer.append({"v": 1, "kind": "auth", **event})
    writer.append(decision(1, subject="u_1", client="tool", fault="denied"))
    writer.close()
    return tmp_path / "audit"


def names(found: Iterable[JSONObject]) -> list[object]:
    return [r.get("event", r["kind"]) for r in found]


def test_a_persons_sign_ins_tokens_and_calls_are_found_by_one_subject(events: Path) -> None:
    assert names(show(events, subject="u_1")) == [
        "identity.login",
        "identity.token.issued",
        "identity.grant.revoked",
        "decision",
    ]
    assert names(show(events, client="tool")) == ["identity.token.issued", "identity.token.refused", "decision"]
    assert names(show(events, client="tool", kind="auth", fault="code_used")) == ["identity.token.refused"]
    assert names(show(events, fault="denied")) == ["decision"]
    assert names(show(events, event="identity.login")) == ["identity.login"]
    assert names(show(events, phase="refused")) == ["identity.token.refused"]
    assert names(show(events, resource="https://fw.example/mcp/git")) == ["identity.token.issued"]
    assert names(show(events, subject="root")) == []  # an operator acts, and is nobody's subject


def test_an_index_that_an_older_release_made_is_made_again(events: Path) -> None:
    old = sqlite3.connect(events / "index.sqlite", isolation_level=None)
    old.executescript("CREATE TABLE records (log, seq, subject, PRIMARY KEY (log, seq)); PRAGMA user_version = 2;")
    old.close()
    assert len(list(show(events, subject="u_1"))) == 4


def test_each_kind_of_record_has_a_line_that_says_who_and_how(events: Path) -> None:
    faces = [face(record) for record in show(events) if record["kind"] in ("auth", "decision")]
    assert [(f.what, f.how, f.who, f.client) for f in faces] == [
        ("identity.login", "urn:x:password", "u_1", ""),
        ("identity.token.issued", "authorization_code", "u_1", "tool"),
        ("identity.token.refused", "invalid_grant code_used", "client tool", "tool"),
        ("identity.grant.revoked", "refresh_reused", "u_1", ""),
        ("admin.signed_in", "", "root", ""),
        ("git/status", "allow", "u_1", "tool"),
    ]


@pytest.mark.parametrize("wrong", [None, 7, ["x"], {"a": "b"}])
def test_a_member_of_another_type_is_absent_and_no_traceback(wrong: JSON) -> None:
    made = face({"kind": "auth", "event": wrong, "sub": wrong, "client_id": wrong, "action": wrong, "decision": wrong})
    assert (made.what, made.who, made.client, made.time_us) == ("", "", "", 0)


def test_an_event_of_the_front_door_is_explained_by_its_records_id(events: Path) -> None:
    (refused,) = show(events, event="identity.token.refused")
    text = explain_text(explain(events, str(refused["uid"])))
    assert text.startswith("identity.token.refused of tenant (none)")
    assert "Who: client tool" in text
    assert "  error: invalid_grant" in text
    assert "  code: code_used" in text
    assert f"record {refused['uid']}" in text
    (issued,) = show(events, event="identity.token.issued")
    assert "Who: u_1 with client tool" in explain_text(explain(events, str(issued["uid"])))
