"""The decision contract: what every engine is asked, and what it may answer.

The input is AuthZEN-shaped (Authorization API 1.0: subject, action, resource, context) plus
``contract`` and ``point``. Rules this file keeps:

- Policy sees what is sent (DESIGN §6b-5): nothing is cut, rounded or replaced. A value beyond a
  bound of `core.bounds`, or that JSON cannot say exactly, is ``input_invalid``, which is a deny.
- Resource properties are a closed list: a misspelled fact would silently un-fire a deny rule, so
  an unknown name or value is ``input_invalid`` as well.
- The answer is checked as if a stranger wrote it: closed effects, codes and obligations, and an
  effect that is exactly the join of its reasons.

Source: policy reference §10.1, §10.2, §10.5; OpenID AuthZEN Authorization API 1.0 §5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import orjson

from firewall.core import bounds
from firewall.core.action import Action, Resource
from firewall.core.decision import CONTRACT, EFFECTS, OBLIGATIONS, Decision, Effect, Obligation, Reason
from firewall.core.errors import PolicyFault
from firewall.core.exchange import Exchange
from firewall.core.finding import Finding
from firewall.core.jsonvalue import JSON, get, parse_pointer
from firewall.core.label import MARKS, Label, names_of
from firewall.core.points import INFO, Point
from firewall.core.principal import Principal
from firewall.core.scopes import opened

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

# What differs in every input stands behind all else, so that inputs can be compared (`memo`). Before these
# marks there are our own members and strings, in which a quote is escaped: the first place where
# the bytes of one stand is the place that is meant.
VOLATILE: Final = frozenset({"request_id", "time_us"})
VOLATILE_AT: Final = b',"request_id":'
ACTION_AT: Final = b'},"action":{"name":'
ARGUMENTS_AT: Final = b',"arguments":'

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

_OPTIONS: Final = (
    orjson.OPT_STRICT_INTEGER
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)
# Shorter than the shortest encoding of an array or object beyond its bound, so that an ordinary
# call needs no walk: 1,025 items take 2,051 bytes, 513 distinct keys take more.
_NO_WALK_BYTES: Final = 2 * bounds.POLICY_ARRAY_ITEMS
_FRAGMENTS: Final = 4096
_CHANGES_BODY: Final = frozenset({"redact", "clean", "replace", "drop_item"})
_KEYS: Final = frozenset({"contract", "decision", "effect", "risk", "reasons", "obligations", "shadow", "lifted"})
_REASON_KEYS: Final = frozenset({"rule", "effect", "code", "owasp", "severity"})

# Memo of encoded parts that do not change: (the object itself, its bytes), found by identity and
# checked with ``is``, so that a reused address can never answer for another principal.
_subjects: dict[int, tuple[Principal, bytes, bytes]] = {}
_labels: dict[int, list[str]] = {}
# Answers that were checked, whole: the ordinary one is always the same few lines.
_decisions: dict[tuple[bytes, str, str], Decision] = {}
_KNOWN: Final = 256
_KNOWN_BYTES: Final = 1024
_contexts: dict[tuple[str, str, str, str, Label, str], bytes] = {}
_POINTS: Final = {
    point: b'{"contract":"' + CONTRACT.encode() + b'","point":"' + point.value.encode() + b'","subject":'
    for point in Point
}


def _dumps(value: object) -> bytes:
    try:
        return orjson.dumps(value, option=_OPTIONS)
    except (TypeError, ValueError, RecursionError):
        # orjson refuses lone surrogates, integers beyond 53 bits, foreign types and extreme depth.
        raise PolicyFault("input_invalid", "a value cannot be encoded") from None


def encode_input(
    action: Action,
    findings: Sequence[Finding],
    *,
    label: Label,
    exchange: Exchange,
    now_us: int,
    revision: str,
    limits: Mapping[str, JSON] | None = None,
    approval: JSON = None,
) -> bytes:
    """Return the policy input document for one action as JSON bytes (UTF-8).

    findings: at most POLICY_FINDINGS; spans and value digests never enter the document. Each gets
        ``item``: the name of the list entry that it stands in (``action.items_at``), else "".
    label: the caller's flow label *before* this action. now_us: Unix microseconds.
    limits: counters as facts for rules, e.g. ``{"calls": 12}``.
    approval: None, or ``{"id": str, "rules": [str]}``: the rules that a person was shown and
        approved for exactly these bytes; the guard has verified and burnt it already.
    Raises PolicyFault("input_invalid") beyond a bound of core.bounds (POLICY_*, JSON_DEPTH,
    LIST_CHUNK for ``arguments.items``) or for an unknown resource type, property or value.
    """
    known = _subjects.get(id(action.principal))
    if known is None or known[0] is not action.principal:
        known = _remember(action.principal)
    arguments = _dumps(action.arguments)
    if (
        len(arguments) > _NO_WALK_BYTES
        or arguments.count(b"[") + arguments.count(b"{") > bounds.JSON_DEPTH
        or arguments.find(b"null") >= 0  # `in` on bytes raises and clears an exception first: 0.5 µs
    ):
        _check_shape(action.arguments)
    items = action.arguments.get("items")
    if type(items) is list and action.point in _LIST_POINTS and len(items) > bounds.LIST_CHUNK:
        raise PolicyFault("input_invalid", "a list chunk is too long")
    if len(findings) > bounds.POLICY_FINDINGS:
        raise PolicyFault("input_invalid", "too many findings")
    if findings or limits is not None or approval is not None:
        context = _context(action, findings, label, revision, limits, approval)
    else:
        protocol = action.protocol
        slot = (protocol.name, protocol.version, protocol.transport, INFO[action.point].direction, label, revision)
        plain = _contexts.get(slot)
        if plain is None:
            if len(_contexts) >= _FRAGMENTS:
                _contexts.clear()
            plain = _contexts[slot] = _context(action, (), label, revision, None, None)
        context = plain
    resource = action.resource.encoded[0] if action.resource.encoded else _encode_resource(action.resource)
    document = b"".join(
        (
            _POINTS[action.point],
            known[1],
            b',"resource":',
            resource,
            b',"context":',
            context,
            known[2],
            VOLATILE_AT,
            _dumps(exchange.id),
            b',"time_us":%d' % now_us,
            ACTION_AT,
            _dumps(action.verb),
            b',"properties":{"side_effect":true' if action.side_effect else b',"properties":{"side_effect":false',
            ARGUMENTS_AT,
            arguments,
            b"}}}",
        )
    )
    if len(document) > bounds.POLICY_INPUT_BYTES:
        raise PolicyFault("input_invalid", "the policy input is too large")
    return document


def _context(
    action: Action,
    findings: Sequence[Finding],
    label: Label,
    revision: str,
    limits: Mapping[str, JSON] | None,
    approval: JSON,
) -> bytes:
    """Encode the context but for what ends it; the closing brace is left out."""
    marks = _labels.get(label)
    if marks is None:
        marks = _labels[label] = names_of(label)
    protocol = action.protocol
    facts: dict[str, object] = {
        "protocol": {
            "name": protocol.name,
            "version": protocol.version,
            "transport": protocol.transport,
            "direction": INFO[action.point].direction,
        },
        "labels": marks,
        "findings": [
            {
                "control": f.control,
                "rule": f.rule,
                "category": f.category,
                "severity": f.severity,
                "pointer": f.pointer,
                "item": _entry_of(action, f.pointer) if action.items_at else "",
                "detector": f.detector,
            }
            for f in findings
        ],
        "limits": limits if limits is not None else {},
        "approval": approval,
        "policy": {"revision": revision},
    }
    return _dumps(facts)[:-1]


_LIST_POINTS: Final = frozenset(
    {
        Point.MCP_TOOL_LISTED,
        Point.MCP_RESOURCE_LISTED,
        Point.MCP_PROMPT_LISTED,
        Point.A2A_CARD_SERVE,
        Point.LLM_MODELS,
    }
)


def _entry_of(action: Action, where: str) -> str:
    """Return the name of the list entry that a finding's pointer leads into, or ""."""
    tokens = parse_pointer(where)
    depth = len(action.items_at)
    if len(tokens) <= depth or tokens[:depth] != tuple(map(str, action.items_at)):
        return ""
    try:
        entry = get(action.body, tokens[: depth + 1])
    except KeyError:
        return ""
    name = entry.get(action.item_key) if isinstance(entry, dict) else None
    return name if isinstance(name, str) else ""


def _remember(principal: Principal) -> tuple[Principal, bytes, bytes]:
    """Encode what is constant for a principal: the subject, and what the context says of the caller."""
    caller = principal.chain[-1].type if principal.chain else principal.kind
    subject = _dumps(
        {
            "type": caller,
            "id": principal.subject,
            "properties": {
                "tenant": principal.tenant,
                "client": principal.client_id,
                "scopes": sorted(opened(principal.scopes)),
                "roles": list(principal.roles),
                "kind": principal.kind,
                "auth": {
                    "method": principal.auth_method,
                    "acr": principal.acr,
                    "auth_time": principal.auth_time,
                    "cimd_verified": principal.cimd_verified,
                    "dpop": principal.cnf != "",
                },
            },
        }
    )
    chain = _dumps([{"sub": actor.sub, "type": actor.type} for actor in principal.chain])
    tail = b',"actor_chain":' + chain + b',"audience":' + _dumps(principal.audience)
    if len(_subjects) >= _FRAGMENTS:
        _subjects.clear()
    entry = (principal, subject, tail)
    _subjects[id(principal)] = entry
    return entry


def _encode_resource(resource: Resource) -> bytes:
    """Check a resource against the closed list, encode it and keep the bytes on it."""
    if resource.type not in RESOURCE_DEFAULTS:
        raise PolicyFault("input_invalid", "unknown resource type")
    for name, value in resource.properties.items():
        allowed = RESOURCE_PROPERTIES.get(name)
        if allowed is None:
            raise PolicyFault("input_invalid", f"unknown resource property {name[:40]!r}")
        if isinstance(allowed, frozenset):
            fits = type(value) is str and value in allowed
        elif allowed is list:
            fits = type(value) is list and all(type(item) is str for item in value)
        else:
            fits = type(value) is allowed
        if not fits:
            raise PolicyFault("input_invalid", f"resource property {name} has a value outside its list")
    properties = {**RESOURCE_DEFAULTS[resource.type], **resource.properties}
    _check_shape(properties)
    encoded = _dumps({"type": resource.type, "id": resource.id, "properties": properties})
    resource.encoded[:] = [encoded]
    return encoded


def _check_shape(value: JSON) -> None:
    """Raise input_invalid when a value passes a bound of core.bounds. Iterative: depth costs no stack."""
    stack: list[tuple[JSON, int]] = [(value, 1)]
    while stack:
        item, depth = stack.pop()
        if type(item) is str:
            if len(item) > bounds.POLICY_STRING_CHARS:
                raise PolicyFault("input_invalid", "a string is too long")
        elif type(item) is dict:
            if len(item) > bounds.POLICY_OBJECT_KEYS:
                raise PolicyFault("input_invalid", "an object has too many members")
            if depth > bounds.JSON_DEPTH:
                raise PolicyFault("input_invalid", "a value is nested too deeply")
            for key, member in item.items():
                if len(key) > bounds.POLICY_STRING_CHARS:
                    raise PolicyFault("input_invalid", "a member name is too long")
                stack.append((member, depth + 1))
        elif type(item) is list:
            if len(item) > bounds.POLICY_ARRAY_ITEMS:
                raise PolicyFault("input_invalid", "an array is too long")
            if depth > bounds.JSON_DEPTH:
                raise PolicyFault("input_invalid", "a value is nested too deeply")
            stack.extend((member, depth + 1) for member in item)
        elif type(item) is float and (item != item or item in (float("inf"), float("-inf"))):
            # orjson would write null: policy must never see another value than the tool.
            raise PolicyFault("input_invalid", "a number is not finite")


# -- the answer ------------------------------------------------------------------------------------


def parse_decision(answer: bytes, *, revision: str, engine: str, eval_us: int) -> Decision:
    """Return the Decision in an engine's answer, or raise PolicyFault("decision_invalid").

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
    return Decision(
        known.effect,
        known.risk,
        known.reasons,
        known.obligations,
        known.shadow,
        revision,
        engine,
        eval_us,
        known.raw,
    )


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
    return Decision(effect, risk, reasons, obligations, shadow, revision, engine, 0, raw)


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
