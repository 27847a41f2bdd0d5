"""Reading the log for people: records by filter, and the story of one exchange.

What a record says is shown; what was sent never stood in it. Text of records reaches a terminal, so
control characters are removed here (a client's own name is attacker-chosen).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from firewall.core.errors import FAULTS, Malformed
from firewall.core.jsonvalue import JSONObject
from firewall.record.face import client_of, face, fault_of, subject_of
from firewall.record.index import Index, parse_uid
from firewall.record.note import Checkpoint
from firewall.record.record import ADMIN, DECISION, EDGE, OUTCOME

ADMIN_POINT: Final = "admin.act"

# What the writer adds to every record, and what `_event_lines` says in its first two lines.
OF_THE_LOG = frozenset("v kind uid seq log node ver time_us event tenant subject sub client client_id by".split())


def show(
    directory: str | os.PathLike[str],
    *,
    since_us: int = 0,
    until_us: int = 2**62,
    rule: str = "",
    newest_first: bool = False,
    limit: int = 1000,
    **equals: str,
) -> Iterator[JSONObject]:
    """Yield records by time; filters as `index.Index.find`. Raises Malformed("filter_unknown", "bundle_torn")."""
    index = Index(directory)
    try:
        index.refresh()
        yield from index.find(
            since_us=since_us, until_us=until_us, rule=rule, newest_first=newest_first, limit=limit, **equals
        )
    finally:
        index.close()


def explain(directory: str | os.PathLike[str], some_id: str) -> JSONObject:
    """Return everything recorded about one exchange.

    some_id: an exchange id, a decision id or a record uid; a uid also of an event of the front door and of an
    operator's act, which belong to no exchange (exchange "").
    Returns exchange, tenant, grant (of the caller's token, by OAuth), who{subject,client,chain}, asked[], decisions[],
    outcome (None when there is none), outcome_from ("end": a record of its own; "answer": the record of the answer,
    which is written before its bytes are sent; "": none), signed (every record stands under a checkpoint) and records[].
    Raises Malformed("record_unknown").
    """
    index = Index(directory)
    try:
        index.refresh()
        exchange = index.exchange_of(some_id)
        records = list(index.find(exchange=exchange)) if exchange else [_alone(index, some_id)]
    finally:
        index.close()
    decisions = [r for r in records if r.get("kind") == DECISION]
    # An answer's record says how the exchange ended; one of its own, written later, knows better.
    told = [r for r in records if "outcome" in r]
    teller: dict[str, Any] = min(told, key=lambda r: r.get("kind") != OUTCOME, default={})
    first: dict[str, Any] = decisions[0] if decisions else records[0]
    return {
        "id": some_id,
        "exchange": exchange,
        "tenant": first.get("tenant", ""),
        "time_us": first.get("time_us", 0),
        "grant": first.get("gid", ""),
        "who": {"subject": subject_of(first), "client": client_of(first), "chain": first.get("chain")},
        "asked": [_asked(r) for r in decisions],
        "decisions": [_decision(r) for r in decisions],
        "outcome": teller.get("outcome"),
        "outcome_from": "answer" if teller.get("kind") == DECISION else "end" if teller else "",
        "signed": all(_is_signed(Path(directory), str(r.get("uid", ""))) for r in records),
        "records": list(records),
    }


def explain_text(story: JSONObject) -> str:
    """Return the story of `explain` in plain words, one fact a line."""
    if not story["exchange"]:
        return "\n".join(_clean(line) for line in _event_lines(story))
    who: Any = story["who"]
    lines = [f"Exchange {story['exchange']} of tenant {story['tenant']}, {_when(story['time_us'])}"]
    lines.append(f"Who: {who['subject']} with client {who['client']}")
    if story["grant"]:
        lines.append(f"By OAuth grant {story['grant']} (bartizan doctor trace {story['grant']})")
    chain = " -> ".join(f"{a['sub']} ({a['type']})" for a in who["chain"] or ())
    if chain:
        lines.append(f"On behalf of: {chain}")
    decisions: Any = story["decisions"]
    asked: Any = story["asked"]
    for question, decision in zip(asked, decisions, strict=True):
        lines.append("")
        lines.append(f"{decision['point']}: {question['method']} {question['resource']}".rstrip())
        lines.append(f"  decision {decision['decision_id']}: {_verdict(decision)}")
        if question["scope"]:
            lines.append(f"  scope that opens it: {question['scope']}")
        if decision.get("grants"):  # whoever has the policy at hand adds them
            lines.append(f"  granted by: {'; and '.join(map(_one_of, decision['grants']))}")
        if decision["rules"]:
            lines.append(f"  rules: {', '.join(decision['rules'])}")
        if decision["lacks"]:
            lines.append(f"  what falls short: {'; '.join(decision['lacks'])}")
        if decision["owasp"]:
            lines.append(f"  OWASP: {', '.join(decision['owasp'])}")
        lines += [
            f"  found: {f['rule']} at {f['pointer'] or '/'} (severity {f['severity']})" for f in decision["findings"]
        ]
        if decision["labels"]:
            lines.append(f"  labels of the caller: {', '.join(decision['labels'])}")
        if decision["obligations"]:
            lines.append(f"  obligations: {', '.join(decision['obligations'])}")
        if decision["policy"]:
            lines.append(f"  policy {decision['policy']} on {decision['engine']}, {decision['eval_us']} us")
        lines.append(f"  record {decision['uid']}")
    outcome: Any = story["outcome"]
    lines.append("")
    records: Any = story["records"]
    lines += [_done(r) for r in records if r.get("kind") == ADMIN]
    if outcome:
        error = f" ({outcome['error']})" if outcome.get("error") else ""
        lines.append(f"Outcome: {outcome['result']}{error} after {outcome['duration_us']} us")
        if story["outcome_from"] == "answer":
            lines.append("  recorded with the answer, before it was sent; nothing contradicted it afterwards")
    elif any(d["phase"] == "intent" for d in decisions):
        lines.append("Outcome: none recorded; the exchange goes on, or the process ended before it did")
    elif decisions and decisions[0]["point"] == ADMIN_POINT:
        lines.append("Outcome: nothing was done")
    else:
        lines.append("Outcome: nothing was forwarded")
    lines.append("Proof: under a signed checkpoint" if story["signed"] else "Proof: not under a signed checkpoint yet")
    return "\n".join(_clean(line) for line in lines)


def _alone(index: Index, uid: str) -> JSONObject:
    """Return a record that belongs to no exchange, by its uid or decision id; one that does was found by it."""
    try:
        found = next(index.find(decision_id=uid, limit=1), None) if uid else None
        return found or index.record(*parse_uid(uid))
    except Malformed:
        raise Malformed("record_unknown", "no record of this log has this id") from None


def _one_of(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"one or more of {', '.join(names)}"


def _event_lines(story: JSONObject) -> list[str]:
    records: Any = story["records"]
    (record,) = records
    seen = face(record)
    lines = [f"{seen.what or seen.kind} of tenant {story['tenant'] or '(none)'}, {_when(story['time_us'])}"]
    if seen.who:
        lines.append(f"Who: {seen.who}" + (f" with client {seen.client}" if seen.client not in seen.who else ""))
    lines += [
        f"  {name}: {', '.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in record.items()
        if name not in OF_THE_LOG and value not in ("", None)
    ]
    if fault_of(record) in FAULTS and record.get("kind") == EDGE:
        lines.append(f"  the caller was told: {FAULTS[fault_of(record)].text}")
    lines.append(f"  record {seen.uid}")
    lines.append("Proof: under a signed checkpoint" if story["signed"] else "Proof: not under a signed checkpoint yet")
    return lines


def _done(record: dict[str, Any]) -> str:
    """Return what a person did in the course of an act: asked, agreed, and the deed itself."""
    second = f", and {record['second']} agreed" if record.get("second") else ""
    about = f" ({record['approval']})" if record.get("approval") else ""
    return f"{record.get('verb', '')} {record.get('object', '')} by {record.get('by', '')}{second}{about}"


def _asked(record: dict[str, Any]) -> JSONObject:
    action = record.get("action") or {}
    return {
        "point": record.get("point", ""),
        "method": action.get("method", ""),
        "resource": action.get("resource", ""),
        "protocol": f"{action.get('proto', '')} {action.get('version', '')}".strip(),
        "scope": record.get("scope", ""),
        "bytes": (record.get("args") or {}).get("bytes", 0),
        "hmac": (record.get("args") or {}).get("hmac", ""),
    }


def _decision(record: dict[str, Any]) -> JSONObject:
    made, because = record.get("decision") or {}, record.get("because") or {}
    return {
        "decision_id": record.get("decision_id", ""),
        "uid": record.get("uid", ""),
        "point": record.get("point", ""),
        "phase": record.get("phase", ""),
        "effect": made.get("effect", ""),
        "risk": made.get("risk", 0),
        "rules": made.get("rules", [because["rule"]] if because else []),
        "lacks": because.get("lacks", []),
        "owasp": made.get("owasp", []),
        "obligations": made.get("obligations", []),
        "shadow": made.get("shadow", []),
        "policy": made.get("policy", ""),
        "engine": made.get("engine", ""),
        "eval_us": made.get("eval_us", 0),
        "findings": record.get("findings", []),
        "labels": record.get("labels", []),
        "fault": record.get("fault", ""),
    }


def _verdict(decision: dict[str, Any]) -> str:
    effect = decision["effect"] or "no decision, so refused"
    told = f", the caller was told {decision['fault']!r}" if decision["fault"] else ""
    return f"{effect}{told}"


def _is_signed(directory: Path, uid: str) -> bool:
    try:
        log, index = parse_uid(uid)
        note = (directory / log / "checkpoint").read_text()
        return index < Checkpoint.parse(note[: note.rfind("\n\n") + 1]).size
    except (Malformed, OSError, ValueError):
        return False


def _when(time_us: object) -> str:
    moment = datetime.fromtimestamp(int(str(time_us)) / 1e6, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _clean(line: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in line)
