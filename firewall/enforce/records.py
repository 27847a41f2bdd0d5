"""Builds the audit record of a decision (operations reference §1.5). Pure.

A record holds ids, rules, pointers and keyed digests; never a value of the message.
"""

from __future__ import annotations

from collections.abc import Sequence

from firewall.core.action import Action
from firewall.core.decision import EFFECT_NAMES, Decision
from firewall.core.exchange import Exchange
from firewall.core.finding import Finding
from firewall.core.jsonvalue import JSON, JSONObject, parse_pointer, pointer
from firewall.core.label import Label, names_of
from firewall.core.permit import Permit
from firewall.core.points import INFO
from firewall.core.record_form import Filled, Form
from firewall.enforce.token_rules import needed_scope

MAX_FINDINGS = 40
FORMS = 4096
_FORM_ITEMS = 4  # a decision that says more is seldom the one of the next call
_GOES_ON: JSONObject = {"bytes_in": "", "bytes_out": "", "duration_us": "", "intent": ""}  # a form without an outcome
KEY_DETECTOR = "pattern.key"  # what was found stands in the name of a member, so its pointer holds the value


def decision_record(
    action: Action,
    exchange: Exchange,
    *,
    phase: str,
    decision_id: str,
    decision: Decision | None,
    fault: str,
    findings: Sequence[Finding],
    label: Label,
    digest: str,
    size: int,
    eval_us: int = 0,
    settles: JSONObject | None = None,
    because: JSONObject | None = None,
) -> JSONObject:
    """Return the record of one decision; ``decision`` is None when none could be taken.

    settles: the outcome of the exchange, when this answer ends it (`outcome_of`). because: which of our own rules
    refused before policy was asked, and what fell short of it (`token_rules.Unmet`).
    """
    principal = action.principal
    record: JSONObject = {
        "v": 1,
        "kind": "decision",
        "phase": phase,
        "point": str(action.point),
        "tenant": principal.tenant,
        "exchange": exchange.id,
        "decision_id": decision_id,
        "subject": principal.subject,
        "client": principal.client_id,
        "chain": [{"sub": a.sub, "type": a.type} for a in principal.chain],
        "upstream": action.resource.upstream,
        "action": {
            "proto": action.protocol.name,
            "version": action.protocol.version,
            "method": action.verb,
            "resource": action.resource.id,
            "side_effect": action.side_effect,
        },
        "args": {"hmac": digest, "bytes": size},
        "fault": fault,
    }
    if scope := needed_scope(action):
        record["scope"] = scope
    if because is not None:
        record["because"] = because
    if settles is not None:
        record["outcome"] = settles
    if principal.grant_id:
        record["gid"] = principal.grant_id
    if exchange.trace_id:
        record["trace"] = exchange.trace_id
    if decision is not None:
        record["decision"] = {
            "effect": EFFECT_NAMES[decision.effect],
            "risk": decision.risk,
            "rules": [r.rule for r in decision.reasons],
            "owasp": list[JSON](sorted({o for r in decision.reasons for o in r.owasp})) if decision.reasons else [],
            "obligations": [o.type for o in decision.obligations],
            "shadow": [r.rule for r in decision.shadow],
            "policy": decision.revision,
            "engine": decision.engine,
            "eval_us": eval_us,
        }
    if findings:
        secret_keys = {parse_pointer(f.pointer)[-1] for f in findings if f.detector == KEY_DETECTOR and f.pointer}
        record["findings"] = [
            {"rule": f.rule, "severity": f.severity, "pointer": _told(f.pointer, secret_keys), "value": f.value_hmac}
            for f in findings[:MAX_FINDINGS]
        ]
    if label:
        record["labels"] = list(names_of(label))
    return record


class PermitRecords:
    """The records of permits; one in which nothing was found is filled into the form of an earlier one.

    A form is kept by all that such a record says beside its places: by the frame of what was asked, which holds what is
    said of the caller, the object and the message, and by the decision, an object for each answer (`parse_decision`).
    The entry keeps the decision alive, so that no address in use can come to mean another one.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[object, ...], tuple[Form, Decision]] = {}

    def record(
        self, permit: Permit, exchange: Exchange, digest: str, settles: JSONObject | None
    ) -> JSONObject | Filled:
        """Return the record of a permit. digest: of its payload. settles: as of `decision_record`."""
        action, decision, frame = permit.action, permit.decision, permit.frame
        gid, trace = action.principal.grant_id, exchange.trace_id
        slot: tuple[object, ...] = ()
        if frame and not permit.findings and (not gid or (gid.isascii() and gid.isidentifier()) or _is_plain(gid)):
            # What is asked names an upstream by what it holds, a record by itself.
            upstream = action.resource.upstream
            how = settles and (settles["result"], settles["error"])
            slot = (frame, id(decision), upstream, permit.label, gid != "", trace != "", how)
            kept = self._kept.get(slot)
            if kept is not None:
                of = settles or _GOES_ON
                ended = of["bytes_in"], of["bytes_out"], of["duration_us"], of["intent"]
                ours = len(permit.payload), digest, permit.eval_us, permit.decision_id, exchange.id, gid
                return Filled((kept[0], (*ours, *ended, trace)))
        record = decision_record(
            action,
            exchange,
            phase="intent" if INFO[action.point].direction == "request" else "outcome",
            decision_id=permit.decision_id,
            decision=decision,
            fault="",
            findings=permit.findings,
            label=permit.label,
            digest=digest,
            size=len(permit.payload),
            eval_us=permit.eval_us,
            settles=settles,
        )
        if slot and len(decision.reasons) + len(decision.obligations) + len(decision.shadow) <= _FORM_ITEMS:
            self._keep(slot, record, decision)
        return record

    def _keep(self, slot: tuple[object, ...], record: JSONObject, decision: Decision) -> None:
        try:
            form = Form(record)
        except ValueError:
            return  # a NUL stands in it: each such record is encoded by itself
        if len(self._kept) >= FORMS:
            self._kept.clear()
        self._kept[slot] = (form, decision)


def _is_plain(gid: str) -> bool:
    """Return whether a grant's id may be filled in as it is; one that another issuer made may hold anything."""
    return not gid or (gid.isascii() and gid.replace("_", "a").replace("-", "a").isalnum())


def outcome_record(exchange: Exchange, *, outcome: str, error: str, duration_us: int) -> JSONObject:
    """Return the record that closes an exchange."""
    return {
        "v": 1,
        "kind": "outcome",
        "phase": "outcome",
        "tenant": exchange.principal.tenant,
        "exchange": exchange.id,
        "subject": exchange.principal.subject,
        "client": exchange.principal.client_id,
        "upstream": exchange.upstream,
        "outcome": outcome_of(exchange, outcome=outcome, error=error, duration_us=duration_us),
    }


def outcome_of(exchange: Exchange, *, outcome: str, error: str, duration_us: int) -> JSONObject:
    """Return how an exchange ended, and which intent that answers."""
    return {
        "result": outcome,
        "error": error,
        "duration_us": duration_us,
        "bytes_in": exchange.bytes_in,
        "bytes_out": exchange.bytes_out,
        "intent": exchange.intent_uid,
    }


def _told(where: str, secret_keys: set[str]) -> str:
    """Return a pointer for the record: ``*`` stands for a name that is itself a finding; at most 200 characters."""
    if not secret_keys:
        return where[:200]
    return pointer(tuple("*" if token in secret_keys else token for token in parse_pointer(where)))[:200]
