"""Makes the policy input of an Action: the document that an engine reads, encoded from parts that are kept.

Policy sees what is sent (DESIGN §6b-5): nothing is cut, rounded or replaced. A value beyond a bound of `core.bounds`,
or that JSON cannot say exactly, is ``input_invalid``, which is a deny; so is a fact outside `contract`'s closed list.
What differs in every input, the exchange's id and the time, and then the arguments, stands behind all else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Final

import orjson

from firewall.core import bounds
from firewall.core.action import Action, Resource
from firewall.core.decision import CONTRACT
from firewall.core.errors import PolicyFault
from firewall.core.exchange import Exchange
from firewall.core.finding import Finding
from firewall.core.jsonvalue import JSON, get, parse_pointer
from firewall.core.label import Label, names_of
from firewall.core.points import INFO, Point
from firewall.core.policy_input import PolicyInput
from firewall.core.principal import Principal
from firewall.core.scopes import opened
from firewall.decide.contract import RESOURCE_DEFAULTS, RESOURCE_PROPERTIES
from firewall.decide.frame import Caller, Frame

_OPTIONS: Final = (
    orjson.OPT_STRICT_INTEGER
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)
# Shorter than the shortest encoding of an array or object beyond its bound, so that an ordinary
# call needs no walk: 1,025 items take 2,051 bytes, 513 distinct keys take more.
_NO_WALK_BYTES: Final = 2 * bounds.POLICY_ARRAY_ITEMS
# With so much of frame and arguments, the exchange's id and the time cannot make an input too large.
_SURELY_FITS: Final = bounds.POLICY_INPUT_BYTES - 4 * bounds.KIB
_FRAGMENTS: Final = 4096
_PRINCIPALS: Final = 16_384  # tokens that are in use at once, and room
# Encoded parts that do not change, by the address of what they were made of: an entry keeps that alive, so that no
# address in use can come to mean another principal. Of tokens that say the same of their caller the parts are shared.
_subjects: dict[int, tuple[Principal, Caller]] = {}
_callers: dict[Caller, Caller] = {}
_frames: dict[tuple[int, int, int, Point, str, bool, Label, str], Frame] = {}
_labels: dict[int, list[str]] = {}
_POINTS: Final = {
    point: b'{"contract":"' + CONTRACT.encode() + b'","point":"' + point.value.encode() + b'","subject":'
    for point in Point
}


def _unencodable() -> PolicyFault:
    # orjson refuses lone surrogates, integers beyond 53 bits, foreign types and extreme depth.
    return PolicyFault("input_invalid", "a value cannot be encoded")


def _dumps(value: object) -> bytes:
    try:
        return orjson.dumps(value, option=_OPTIONS)
    except (TypeError, ValueError, RecursionError):
        raise _unencodable() from None


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
    """Return the policy input document for one action as JSON bytes (UTF-8). See `ask`."""
    return ask(
        action,
        findings,
        label=label,
        exchange=exchange,
        now_us=now_us,
        revision=revision,
        limits=limits,
        approval=approval,
    ).json


def ask(
    action: Action,
    findings: Sequence[Finding],
    *,
    label: Label,
    exchange: Exchange,
    now_us: int,
    revision: str,
    limits: Mapping[str, JSON] | None = None,
    approval: JSON = None,
) -> PolicyInput:
    """Return the policy input document for one action, and what of it is the same in the caller's next one.

    Parameters and errors are those of `parts`, which makes it.
    """
    frame, arguments = parts(
        action,
        findings,
        label=label,
        exchange=exchange,
        now_us=now_us,
        revision=revision,
        limits=limits,
        approval=approval,
    )
    return PolicyInput(frame.before, frame.after, frame.digest, exchange.id, now_us, arguments)


def parts(
    action: Action,
    findings: Sequence[Finding],
    *,
    label: Label,
    exchange: Exchange,
    now_us: int,
    revision: str,
    limits: Mapping[str, JSON] | None = None,
    approval: JSON = None,
) -> tuple[Frame, bytes]:
    """Return the frame of an action's policy input, and its arguments, encoded: with the exchange's id and the time, all of it.

    findings: at most POLICY_FINDINGS; spans and value digests never enter the document. Each gets
        ``item``: the name of the list entry that it stands in (``action.items_at``), else "".
    label: the caller's flow label *before* this action. now_us: Unix microseconds.
    limits: counters as facts for rules, e.g. ``{"calls": 12}``.
    approval: None, or ``{"id": str, "rules": [str]}``: the rules that a person was shown and
        approved for exactly these bytes; the guard has verified and burnt it already.
    Raises PolicyFault("input_invalid") beyond a bound of core.bounds (POLICY_*, JSON_DEPTH,
    LIST_CHUNK for ``arguments.items``) or for an unknown resource type, property or value.
    """
    given, point = action.arguments, action.point
    try:
        arguments = orjson.dumps(given, option=_OPTIONS)
    except (TypeError, ValueError, RecursionError):
        raise _unencodable() from None
    # Nearly always there is but one bracket, and `find` runs at memory speed.
    nested = arguments.find(b"{", 1) >= 0 or arguments.find(b"[") >= 0
    if len(arguments) > _NO_WALK_BYTES or (nested and _is_deep(arguments)) or arguments.find(b"null") >= 0:
        _check_shape(given)
    if point in _LIST_POINTS:
        items = given.get("items")
        if type(items) is list and len(items) > bounds.LIST_CHUNK:
            raise PolicyFault("input_invalid", "a list chunk is too long")
    if findings or limits is not None or approval is not None:
        if len(findings) > bounds.POLICY_FINDINGS:
            raise PolicyFault("input_invalid", "too many findings")
        caller = (_subjects.get(id(action.principal)) or _remember(action.principal))[1]
        frame = _framed(action, caller, _context(action, findings, label, revision, limits, approval))
    else:
        principal, resource, protocol = action.principal, action.resource, action.protocol
        caller = (_subjects.get(id(principal)) or _remember(principal))[1]
        slot = (id(caller), id(resource), id(protocol), point, action.verb, action.side_effect, label, revision)
        known = _frames.get(slot)
        if known is None:
            if len(_frames) >= _FRAGMENTS:
                _frames.clear()
            known = _frames[slot] = _framed(action, caller, _context(action, (), label, revision, None, None))
        frame = known
    if frame.size + len(arguments) > _SURELY_FITS:
        asked = PolicyInput(frame.before, frame.after, frame.digest, exchange.id, now_us, arguments)
        if len(asked.json) > bounds.POLICY_INPUT_BYTES:
            raise PolicyFault("input_invalid", "the policy input is too large")
    return frame, arguments


def _framed(action: Action, caller: Caller, context: bytes) -> Frame:
    """Return what of an input is the same whatever its arguments, its exchange and the time are."""
    resource = action.resource
    encoded = resource.encoded[0] if resource.encoded else _encode_resource(resource)
    before = b"".join((_POINTS[action.point], caller[0], b',"resource":', encoded, b',"context":', context, caller[1]))
    effect = b"true" if action.side_effect else b"false"
    verb = _dumps(action.verb)
    after = b'},"action":{"name":%b,"properties":{"side_effect":%b,"arguments":' % (verb, effect)
    # Between the two stand members of ours alone, so that their ends cannot be taken for each other's beginnings.
    digest = sha256(before + after).digest()
    return Frame(before, after, digest, len(before) + len(after), caller, resource, action.protocol)


def _is_deep(text: bytes) -> bool:
    """Return whether a JSON object may be nested too deeply: whether it has that many brackets, strings included."""
    return text.count(b"[") + text.count(b"{") > bounds.JSON_DEPTH


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


def _remember(principal: Principal) -> tuple[Principal, Caller]:
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
    if len(_callers) >= _PRINCIPALS:
        _callers.clear()  # a frame keeps its own alive
    if len(_subjects) >= _PRINCIPALS:
        _subjects.clear()
    said = (subject, tail)
    entry = (principal, _callers.setdefault(said, said))
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
