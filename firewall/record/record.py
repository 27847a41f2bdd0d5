"""The audit record, version 1: what stands in a log, field by field (operations reference §1.5).

A record is one JSON object with sorted ASCII keys and no floats, so its bytes equal its RFC 8785
form. It names rules, ids, pointers and keyed digests; never a value of a message.

    v 1 · kind · phase intent|outcome|refused|note            what kind of entry this is
    uid, seq, log, time_us, node, ver                          set by the writer; order is ``seq``'s, not the clock's
    tenant, subject, client, chain[{sub,type}]                 who, on whose behalf (chain[0])
    exchange, decision_id, trace, gid                          what belongs together; gid: the OAuth grant of the token
    point, action{proto,version,method,resource,side_effect}   what was asked
    scope                                                      what opens it: the OAuth scope that the operation needs
    upstream, args{hmac,bytes}                                 of whom, and a keyed digest of what was sent
    decision{effect,risk,rules,owasp,obligations,shadow,policy,engine,eval_us}
    findings[{rule,severity,pointer,value}], labels[]
    because{rule,lacks[]}                                      a rule of our own that refused before policy was asked
    fault                                                      the code that the caller was told, "" if none
    host, detail, resource (edge) · counts{fault: n} (edge)    whose name was asked for, why a token is not good, where
    object, begun_us, silent_s (run.ended)                     whose run, since when, how long it stood still
    event (auth) · verb, object, state, by (admin, registry)   what was done, by whom
    outcome{result,error,duration_us,bytes_in,bytes_out,intent}
"""

from __future__ import annotations

from typing import Final

from firewall.core.bounds import JSON_INTEGER
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject

DECISION: Final = "decision"
OUTCOME: Final = "outcome"
ADMIN: Final = "admin"  # what an operator changed: pins, registry, policy, kill switch, approvals
AUTH: Final = "auth"  # tokens issued and refused, clients, sign-ins
REGISTRY: Final = "registry"
PINS: Final = "pins"  # a definition that changed, as it was seen: verb is changed, asks or warned
EDGE: Final = (
    "edge"  # refused before anybody was known: a foreign host or origin, bad framing, a token that is not good
)
LOG_OPEN: Final = "log.open"
LOG_CHECKPOINT: Final = "log.checkpoint"
LOG_CLOSE: Final = "log.close"
LOG_SEALED: Final = "log.sealed"  # a segment is whole, and another log goes on where it ended
LOG_RETIRED: Final = "log.retired"  # a segment's records were let go of; its checkpoint stays
LOG_RECOVERED: Final = "log.recovered"
LOG_UNSIGNED: Final = "log.unsigned"  # of the anchor log: entries that no checkpoint covered excuse nothing
LOG_DAMAGED: Final = "log.damaged"
LOG_CLOCK: Final = "log.clock"
RUN_ENDED: Final = "run.ended"  # a `bartizan run` that did not stop by itself: stuck, or killed
LOG_READ: Final = "log.read"  # somebody read or exported records
KINDS: Final = frozenset(
    {
        DECISION,
        OUTCOME,
        ADMIN,
        AUTH,
        REGISTRY,
        PINS,
        EDGE,
        LOG_OPEN,
        LOG_CHECKPOINT,
        LOG_CLOSE,
        LOG_SEALED,
        LOG_RETIRED,
        LOG_RECOVERED,
        LOG_UNSIGNED,
        LOG_DAMAGED,
        LOG_CLOCK,
        LOG_READ,
        RUN_ENDED,
    }
)
PHASES: Final = frozenset({"intent", "outcome", "refused", "note"})

_TEXTS: Final = frozenset(
    "uid log node ver tenant subject client exchange decision_id trace point upstream fault by verb object state event code text gid scope".split()
)
_MEMBERS: Final[dict[str, dict[str, type | tuple[type, ...]]]] = {
    "action": {"proto": str, "version": str, "method": str, "resource": str, "side_effect": bool},
    "args": {"hmac": str, "bytes": int},
    "decision": {
        "effect": str,
        "risk": int,
        "rules": list,
        "owasp": list,
        "obligations": list,
        "shadow": list,
        "policy": str,
        "engine": str,
        "eval_us": int,
    },
    "because": {"rule": str, "lacks": list},
    "outcome": {
        "result": str,
        "error": str,
        "duration_us": int,
        "bytes_in": int,
        "bytes_out": int,
        "intent": str,
    },
}
_REQUIRED: Final[dict[str, tuple[str, ...]]] = {
    DECISION: ("phase", "point", "tenant", "exchange", "decision_id", "subject", "client", "action"),
    OUTCOME: ("tenant", "exchange", "outcome"),
    ADMIN: ("tenant", "by", "verb", "object"),
    AUTH: ("event",),
    REGISTRY: ("tenant", "by", "verb", "object", "state"),
    PINS: ("tenant", "by", "verb", "object", "from", "to"),
    RUN_ENDED: ("tenant", "object", "fault", "silent_s", "begun_us"),
    EDGE: ("phase",),
}


def validate_record(record: JSONObject) -> None:
    """Check a record's shape, before or after the writer has completed it. For tests and tools.

    Raises Malformed("record_invalid") with the offending member as detail. The writer does not
    call it: a record of a decision must never be lost to a rule about its form.
    """
    kind = record.get("kind")
    if record.get("v") != 1 or not isinstance(kind, str) or kind not in KINDS:
        raise _invalid("kind")
    if "phase" in record and record["phase"] not in PHASES:
        raise _invalid("phase")
    for name in _REQUIRED.get(kind, ()):
        if name not in record:
            raise _invalid(name)
    for name, value in record.items():
        _check_keys(name, value)
        if name in _TEXTS and not isinstance(value, str):
            raise _invalid(name)
        members = _MEMBERS.get(name)
        if members is not None:
            if not isinstance(value, dict):
                raise _invalid(name)
            for inner, content in value.items():
                expected = members.get(inner)
                if expected is None or not isinstance(content, expected) or (expected is int and content is True):
                    raise _invalid(f"{name}.{inner}")
    for name, inner_keys in (("findings", {"rule", "severity", "pointer", "value"}), ("chain", {"sub", "type"})):
        rows = record.get(name, [])
        if not isinstance(rows, list) or not all(isinstance(r, dict) and set(r) <= inner_keys for r in rows):
            raise _invalid(name)
    labels = record.get("labels", [])
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise _invalid("labels")


def _check_keys(name: str, value: JSON) -> None:
    stack: list[JSON] = [{name: value}]
    while stack:
        item = stack.pop()
        if isinstance(item, float):
            raise _invalid(f"{name}: float")
        if isinstance(item, int) and abs(item) > JSON_INTEGER:
            raise _invalid(f"{name}: integer")
        if isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict):
            for key, inner in item.items():
                if not key.isascii() or not key.replace(".", "_").replace("-", "_").isidentifier():
                    raise _invalid(f"{name}: key")
                stack.append(inner)


def _invalid(detail: str) -> Malformed:
    return Malformed("record_invalid", detail)
