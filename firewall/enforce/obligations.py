"""Obligations: what the enforcer does to a body for a decision to hold (policy reference §10.2).

Pure. An obligation that is unknown, does not fit, or does not achieve its end is a deny
(`PolicyFault("obligation_failed")`): nothing is forwarded half-transformed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from firewall.core.action import Action
from firewall.core.decision import Obligation
from firewall.core.errors import PolicyFault
from firewall.core.finding import Finding
from firewall.core.jsonvalue import JSON, JSONObject, Path, get, parse_pointer, replaced
from firewall.core.label import CLEAN, MARKS, Label, join
from firewall.detect.hygiene import clean

NOTIFY_CHANNELS = frozenset({"audit"})


@dataclass(frozen=True, slots=True)
class Applied:
    """The body after its obligations, the label to raise before release, and what was removed.

    cured: (rule, pointer) pairs that must not be found again in the new body.
    """

    body: JSON
    label: Label
    cured: frozenset[tuple[str, str]]
    changed: bool


def marker(rule: str) -> str:
    """Return the text that stands in place of a redacted value."""
    return f"[redacted:{rule}]"


def redacted(text: str, found: Sequence[Finding]) -> str:
    """Return text with every finding's span replaced by its marker; overlapping spans join.

    A finding without a span takes the whole string.
    """
    spans = sorted((f.span or (0, len(text))) + (f.rule,) for f in found)
    out: list[str] = []
    at = 0
    for start, end, rule in spans:
        if not 0 <= start <= end <= len(text):
            raise PolicyFault("obligation_failed", "a finding's span lies outside its string")
        if start < at:  # joined with the one before
            at = max(at, end)
            continue
        out += (text[at:start], marker(rule))
        at = end
    out.append(text[at:])
    return "".join(out)


def apply(action: Action, obligations: Sequence[Obligation], findings: Sequence[Finding]) -> Applied:
    """Return the transformed body; raises PolicyFault("obligation_failed").

    Order: redactions and cleanings (on the positions that were inspected), replacements, then
    dropped items, so that no pointer moves under another obligation.
    """
    body = action.body
    label = CLEAN
    cured: set[tuple[str, str]] = set()
    redact_at: dict[str, None] = {}
    clean_at: dict[str, None] = {}
    replace_at: list[tuple[str, str]] = []
    drop: set[str] = set()
    for duty in obligations:
        match duty.type:
            case "redact":
                redact_at[duty.params["pointer"]] = None
            case "clean":
                clean_at[duty.params["pointer"]] = None
            case "replace":
                replace_at.append((duty.params["pointer"], duty.params["value"]))
            case "drop_item":
                drop.add(duty.params["id"])
            case "taint":
                mark = duty.params["label"]
                if mark not in MARKS:
                    raise PolicyFault("obligation_failed", "unknown label")
                label = join(label, Label(MARKS[mark]))
            case "notify":
                if duty.params["channel"] not in NOTIFY_CHANNELS:
                    raise PolicyFault("obligation_failed", "unknown channel")
            case "mask_log":
                pass  # records hold no values: nothing to mask
            case _:
                raise PolicyFault("obligation_failed", "unknown obligation for a permit")
    for where in redact_at:
        found = [
            f
            for f in findings
            if f.pointer == where and f.category in ("secret", "pii", "markup", "injection", "egress")
        ]
        if not found:
            raise PolicyFault("obligation_failed", "nothing was found where something is to be redacted")
        body = _rewrite(body, where, partial(redacted, found=found))
        cured.update((f.rule, where) for f in found)
    for where in clean_at:
        body = _rewrite(body, where, clean)
        cured.update((f.rule, where) for f in findings if f.pointer == where and f.category == "hygiene")
    for where, value in replace_at:
        body = _rewrite(body, where, partial(_value, value))
    if drop:
        body = _dropped(body, action, drop)
    return Applied(body, label, frozenset(cured), body is not action.body)


def _value(value: str, _text: str) -> str:
    return value


def _rewrite(body: JSON, where: str, change: Callable[[str], str]) -> JSON:
    try:
        path = parse_pointer(where)
        text = get(body, path)
    except (KeyError, ValueError):
        raise PolicyFault("obligation_failed", "a pointer leads nowhere") from None
    if not isinstance(text, str):
        raise PolicyFault("obligation_failed", "a pointer does not lead to a string")
    new = change(text)
    return body if new == text else replaced(body, path, new)


def _dropped(body: JSON, action: Action, drop: set[str]) -> JSON:
    try:
        items = get(body, action.items_at) if action.items_at else None
    except KeyError:
        items = None
    if not isinstance(items, list):
        raise PolicyFault("obligation_failed", "there is no list to drop from")
    kept = [item for item in items if not (isinstance(item, dict) and item.get(action.item_key) in drop)]
    return replaced(body, action.items_at, kept)


def check_coupled(action: Action, body: JSON) -> None:
    """Raise unless coupled parts changed together or not at all (DESIGN §6b-9)."""
    if len(action.coupled) < 2 or body is action.body:
        return
    changed: set[bool] = set()
    for path in action.coupled:
        try:
            before = get(action.body, path)
        except KeyError:
            continue
        changed.add(get(body, path) is not before)
    if len(changed) > 1:
        raise PolicyFault("obligation_failed", "coupled parts changed apart")


STREAM_DUTIES = frozenset({"redact", "clean", "taint", "notify", "mask_log"})


def check_stream(obligations: Sequence[Obligation], findings: Sequence[Finding]) -> None:
    """Raise unless a stream can do its duties: cut what was found in its text at ``/text``, and mark.

    A finding without a place (the inspector's bound was reached) cannot be cut, and nothing after it
    is inspected: such a stream ends, whatever policy made of it.
    """
    if any(found.span is None for found in findings):
        raise PolicyFault("obligation_failed", "a finding in a stream has no place")
    for duty in obligations:
        if duty.type not in STREAM_DUTIES or duty.params.get("pointer", "/text") != "/text":
            raise PolicyFault("obligation_failed", "a stream cannot do this")


def rebound(arguments: JSONObject, before: JSON, after: JSON) -> JSONObject:
    """Return an Action's arguments as they stand in its changed body; the same object when they did not change.

    What policy reads is the body's own object, or holds some in its members (`core.action`).
    """
    at = _place(before, arguments)
    if at is not None:
        moved = _at(after, at)
        if not isinstance(moved, dict):
            raise PolicyFault("obligation_failed", "the arguments are no object any more")
        return moved
    changed: JSONObject = {}
    for name, member in arguments.items():
        at = _place(before, member) if isinstance(member, dict | list) else None
        if at is not None and (moved := _at(after, at)) is not member:
            changed[name] = moved
    return {**arguments, **changed} if changed else arguments


def _place(body: JSON, part: JSON) -> Path | None:
    """Return the path of that very object in a body, or None."""
    stack: list[tuple[Path, JSON]] = [((), body)]
    while stack:
        path, value = stack.pop()
        if value is part:
            return path
        if isinstance(value, dict):
            stack.extend(((*path, key), inner) for key, inner in value.items() if isinstance(inner, dict | list))
        elif isinstance(value, list):
            stack.extend(((*path, i), inner) for i, inner in enumerate(value) if isinstance(inner, dict | list))
    return None


def _at(body: JSON, path: Path) -> JSON:
    try:
        return get(body, path)
    except KeyError:
        raise PolicyFault("obligation_failed", "what policy read is not there any more") from None
