"""The decision contract: what every engine is asked, and what it may answer.

The input is AuthZEN-shaped (Authorization API 1.0: subject, action, resource, context) plus
``contract`` and ``point``; `question` makes it. Rules this file keeps:

- Resource properties are a closed list: a misspelled fact would silently un-fire a deny rule, so
  an unknown name or value is ``input_invalid`` as well.
- The answer is checked as if a stranger wrote it: closed effects, codes and obligations, and an
  effect that is exactly the join of its reasons.

Source: policy reference §10.1, §10.2, §10.5; OpenID AuthZEN Authorization API 1.0 §5.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import orjson

from firewall.core import bounds
from firewall.core.decision import CONTRACT, EFFECTS, OBLIGATIONS, Decision, Effect, Obligation, Reason
from firewall.core.errors import PolicyFault
from firewall.core.jsonvalue import JSON, parse_pointer
from firewall.core.label import MARKS

RESOURCE_TYPES: Final = frozenset(
    {
        "mcp_server",
        "mcp_tool",
        "mcp_resource",
        "mcp_prompt",
        "a2a_agent",
        "a2a_card",
        "llm_model",
        "llm_provider",
        "host",
        "admin_act",
    }
)

# Property name → the values it may have: a closed set of words, or a type.
RESOURCE_PROPERTIES: Final[dict[str, frozenset[str] | type]] = {
    "server": str,
    "trust": frozenset({"trusted", "untrusted"}),
    "network": frozenset({"public", "private", "loopback"}),
    "state": frozenset({"approved", "pending", "suspended", "revoked"}),
    "tenants": list,
    "effect_class": frozenset({"read", "write", "destroy", "send", "pay", "exec", "admin"}),
    # warned: changed, at an upstream whose operator wrote `on_change: warn`.
    "pin": frozenset({"approved", "new", "changed", "warned", "none"}),
    "hash": str,
    "scope": str,
    "schema": frozenset({"ok", "mismatch", "none"}),
    "asks": list,  # what its server may ask of a client: sampling, elicitation, roots
    "provider": str,
    "model": str,
    "priced": bool,
    "signed": frozenset({"verified", "none", "failed"}),
    "host": str,
    "port": int,
    "address_class": frozenset({"public", "private", "loopback", "link_local", "metadata", "reserved", "invalid"}),
    "second": frozenset({"asked", "free"}),  # whether configuration asks for a second person
    "approvers": int,  # how many accounts could be one
}

# Every member that a rule may name; None means that what is below is free or a list.
Shape: TypeAlias = "dict[str, Shape] | None"
INPUT_SHAPE: Final[dict[str, Shape]] = {
    "contract": None,
    "point": None,
    "subject": {
        "type": None,
        "id": None,
        "properties": {
            **dict.fromkeys(("tenant", "client", "scopes", "roles", "kind")),
            "auth": dict.fromkeys(("method", "acr", "auth_time", "cimd_verified", "dpop")),
        },
    },
    "action": {"name": None, "properties": {"arguments": None, "side_effect": None}},
    "resource": {"type": None, "id": None, "properties": dict.fromkeys(RESOURCE_PROPERTIES)},
    "context": {
        **dict.fromkeys(("time_us", "request_id", "labels", "findings", "limits", "actor_chain", "audience")),
        "protocol": dict.fromkeys(("name", "version", "transport", "direction")),
        "approval": dict.fromkeys(("id", "rules")),
        "policy": {"revision": None},
    },
}

# Facts that a resource has by its type when its gateway says nothing; rules can then ask for every
# fact positively, and a fact that gets lost denies. A tenant's ``"*"`` means every tenant.
RESOURCE_DEFAULTS: Final[dict[str, dict[str, JSON]]] = {
    "mcp_server": {"trust": "untrusted"},
    "mcp_tool": {"trust": "untrusted", "schema": "none"},
    "mcp_resource": {"trust": "untrusted"},
    "mcp_prompt": {"trust": "untrusted"},
    "a2a_agent": {"trust": "untrusted", "signed": "none"},
    "a2a_card": {"trust": "untrusted", "signed": "none"},
    "llm_model": {"tenants": ["*"], "scope": "llm:invoke", "state": "approved"},
    "llm_provider": {"tenants": ["*"], "scope": "llm:invoke", "state": "approved"},
    "host": {"tenants": ["*"], "network": "public"},
    "admin_act": {"second": "asked", "approvers": 0},
}

# What differs in every input; which answers depend on none of it is `memo`'s to know.
VOLATILE: Final = frozenset({"request_id", "time_us"})

# Codes that only our own code may put in a record; Rego that claims one is invalid (policy §10.5).
RESERVED_CODES: Final = frozenset(
    {
        "engine_error",
        "decision_invalid",
        "input_invalid",
        "policy_unavailable",
        "data_stale",
        "engine_failover",
        "obligation_failed",
        "audit_unavailable",
        "state_unavailable",
        "killed",
        "over_limit",
        "internal",
    }
)
DECISION_BYTES: Final = 1 * bounds.MIB
DECISION_ITEMS: Final = 4 * bounds.LIST_CHUNK

_CHANGES_BODY: Final = frozenset({"redact", "clean", "replace", "drop_item"})
_KEYS: Final = frozenset({"contract", "decision", "effect", "risk", "reasons", "obligations", "shadow", "lifted"})
_REASON_KEYS: Final = frozenset({"rule", "effect", "code", "owasp", "severity"})

# Answers that were checked, whole: the ordinary one is always the same few lines.
_decisions: dict[tuple[bytes, str, str], Decision] = {}
_KNOWN: Final = 256
_KNOWN_BYTES: Final = 1024


def parse_decision(answer: bytes, *, revision: str, engine: str) -> Decision:
    """Return the Decision in an engine's answer, or raise PolicyFault("decision_invalid").

    An ordinary answer that comes again is the same object: whoever keeps something of a decision finds it by that.

    answer: the decision document as JSON, at most 1 MiB: exactly the members ``contract`` ("1"),
        ``decision``, ``effect``, ``risk`` (0–100), ``reasons``, ``obligations``, ``shadow``,
        ``lifted``; ``shadow`` and ``lifted`` may be absent.
    The effect must be the join of the reasons' effects and ``decision`` its AuthZEN boolean;
    obligations that change the body need an effect of at least transform, and a transform needs one.
    """
    slot = (answer, revision, engine)
    known = _decisions.get(slot) if len(answer) <= _KNOWN_BYTES else None
    if known is None:
        known = _checked(answer, revision, engine)
        if len(answer) <= _KNOWN_BYTES:
            if len(_decisions) >= _KNOWN:
                _decisions.clear()
            _decisions[slot] = known
    return known


def _checked(answer: bytes, revision: str, engine: str) -> Decision:
    if len(answer) > DECISION_BYTES:
        raise PolicyFault("decision_invalid", "the decision is too large")
    try:
        raw = orjson.loads(answer)
    except orjson.JSONDecodeError:
        raise PolicyFault("decision_invalid", "the decision is not JSON") from None
    if type(raw) is not dict or not raw.keys() <= _KEYS or raw.get("contract") != CONTRACT:
        raise PolicyFault("decision_invalid", "not a decision of this contract")
    effect = EFFECTS.get(raw["effect"]) if type(raw.get("effect")) is str else None
    if effect is None:
        raise PolicyFault("decision_invalid", "unknown effect")
    if raw.get("decision") is not (effect <= Effect.TRANSFORM):
        raise PolicyFault("decision_invalid", "effect and boolean disagree")
    risk = raw.get("risk")
    if type(risk) is not int or not 0 <= risk <= 100:
        raise PolicyFault("decision_invalid", "risk is not 0 to 100")
    reasons = _reasons(raw.get("reasons"))
    if max((r.effect for r in reasons), default=Effect.ALLOW) is not effect:
        raise PolicyFault("decision_invalid", "the effect is not the join of its reasons")
    obligations = _obligations(raw.get("obligations"))
    changes = any(o.type in _CHANGES_BODY for o in obligations)
    if (effect is Effect.TRANSFORM and not changes) or (effect is Effect.ALLOW and changes):
        raise PolicyFault("decision_invalid", "obligations do not fit the effect")
    if effect is not Effect.DENY and any(o.type == "step_up" for o in obligations):
        raise PolicyFault("decision_invalid", "a step-up that is not a deny")
    shadow = _reasons(raw.get("shadow", []))
    _reasons(raw.get("lifted", []))
    return Decision(effect, risk, reasons, obligations, shadow, revision, engine, raw)


def _reasons(value: object) -> tuple[Reason, ...]:
    if value == []:
        return ()
    if type(value) is not list or len(value) > DECISION_ITEMS:
        raise PolicyFault("decision_invalid", "reasons are not a list")
    return tuple(_reason(item) for item in value)


def _reason(item: object) -> Reason:
    if type(item) is not dict or item.keys() != _REASON_KEYS:
        raise PolicyFault("decision_invalid", "a reason has other members than its contract")
    rule, code, severity, owasp = item["rule"], item["code"], item["severity"], item["owasp"]
    effect = EFFECTS.get(item["effect"]) if type(item["effect"]) is str else None
    if effect is None or not _is_rule(rule) or not _is_word(code) or code in RESERVED_CODES:
        raise PolicyFault("decision_invalid", "a reason has an unknown effect, rule or code")
    if type(severity) is not int or not 0 <= severity <= 100:
        raise PolicyFault("decision_invalid", "a severity is not 0 to 100")
    if type(owasp) is not list or not all(type(entry) is str and 0 < len(entry) <= 32 for entry in owasp):
        raise PolicyFault("decision_invalid", "OWASP ids are not strings")
    return Reason(rule, effect, code, tuple(owasp), severity)


def _is_word(value: object) -> bool:
    return (
        type(value) is str and len(value) <= 64 and value.isascii() and value.isidentifier() and value == value.lower()
    )


def _is_rule(value: object) -> bool:
    return type(value) is str and len(value) <= 128 and all(_is_word(part) for part in value.split("."))


def _obligations(value: object) -> tuple[Obligation, ...]:
    if value == []:
        return ()
    if type(value) is not list or len(value) > DECISION_ITEMS:
        raise PolicyFault("decision_invalid", "obligations are not a list")
    return tuple(_obligation(item) for item in value)


def _obligation(item: object) -> Obligation:
    names = OBLIGATIONS.get(item["type"]) if type(item) is dict and type(item.get("type")) is str else None
    if names is None or type(item) is not dict or item.keys() != {"type", *names}:
        raise PolicyFault("decision_invalid", "an obligation is unknown or has other parameters")
    params = {name: item[name] for name in names}
    if not all(type(text) is str for text in params.values()):
        raise PolicyFault("decision_invalid", "an obligation's parameter is not a string")
    for name, text in params.items():
        check = _PARAMETERS.get(name)
        if check is not None and not check(text):
            raise PolicyFault("decision_invalid", f"an obligation's {name} is not acceptable")
    return Obligation(item["type"], params)


def _is_pointer(text: str) -> bool:
    try:
        parse_pointer(text)
    except ValueError:
        return False
    return True


def _is_scope(text: str) -> bool:
    # RFC 6749 §3.3 scope-token: it ends up inside a WWW-Authenticate field.
    return 0 < len(text) <= 128 and all(c == "!" or "#" <= c <= "[" or "]" <= c <= "~" for c in text)


_PARAMETERS: Final = {
    "pointer": _is_pointer,
    "scope": _is_scope,
    "label": lambda text: text in MARKS,
    "id": lambda text: text != "",
    "channel": _is_word,
}
