"""AuthZEN requests: strictly parsed JSON in, checked questions out. Pure.

Members that are not known are ignored, as forward compatibility demands; those that are must have their type.
Of a boxcar, an item that is not well formed is that item's error and nobody else's.

Source: OpenID AuthZEN Authorization API 1.0, Information Model, Access Evaluation API, Access Evaluations API.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject

Semantic = Literal["execute_all", "deny_on_first_deny", "permit_on_first_permit"]

EVALUATIONS: Final = 64
ID_CHARS: Final = 8 * 1024  # a resource's id may be a URI
NAME_CHARS: Final = 256
_KEYS: Final = ("subject", "action", "resource", "context")


@dataclass(frozen=True, slots=True)
class Entity:
    """A subject or a resource."""

    type: str
    id: str
    properties: JSONObject


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One question."""

    subject: Entity
    action: str
    action_properties: JSONObject
    resource: Entity
    context: JSONObject


@dataclass(frozen=True, slots=True)
class Batch:
    """Several questions, in order; an item that is not well formed is the name of what is wrong with it."""

    items: tuple[Evaluation | str, ...]
    semantic: Semantic


def parse_evaluation(value: JSON) -> Evaluation:
    """Return the question of an Access Evaluation request. Raises Malformed("params_invalid", what)."""
    if not isinstance(value, dict):
        raise Malformed("params_invalid", "the body must be an object")
    action = _object(value, "action")
    return Evaluation(
        _entity(value, "subject"),
        _string(action, "action", "name", NAME_CHARS),
        _properties(action, "action"),
        _entity(value, "resource"),
        _optional(value, "context"),
    )


def parse_evaluations(value: JSON) -> Evaluation | Batch:
    """Return the questions of an Access Evaluations request; one without items is a single question.

    Top-level members stand in for those that an item leaves out, each as a whole.
    Raises Malformed: params_invalid (with what), over_limit (more than 64).
    """
    if not isinstance(value, dict):
        raise Malformed("params_invalid", "the body must be an object")
    options = _optional(value, "options")
    semantic = options.get("evaluations_semantic", "execute_all")
    known: Semantic | None = next((s for s in get_args(Semantic) if s == semantic), None)
    if known is None:
        raise Malformed("params_invalid", "options.evaluations_semantic is not known")
    entries = value.get("evaluations", [])
    if not isinstance(entries, list):
        raise Malformed("params_invalid", "evaluations must be an array")
    if not entries:
        return parse_evaluation(value)
    if len(entries) > EVALUATIONS:
        raise Malformed("params_invalid", f"more than {EVALUATIONS} evaluations")
    defaults: JSONObject = {name: value[name] for name in _KEYS if name in value}
    return Batch(tuple(_item(defaults, entry) for entry in entries), known)


def _item(defaults: JSONObject, entry: JSON) -> Evaluation | str:
    try:
        if not isinstance(entry, dict):
            raise Malformed("params_invalid", "an evaluation must be an object")
        return parse_evaluation({**defaults, **entry})
    except Malformed as error:
        return error.detail


def _entity(value: JSONObject, name: str) -> Entity:
    found = _object(value, name)
    kind = _string(found, name, "type", NAME_CHARS)
    return Entity(kind, _string(found, name, "id", ID_CHARS), _properties(found, name))


def _object(value: JSONObject, name: str) -> JSONObject:
    found = value.get(name)
    if not isinstance(found, dict):
        raise Malformed("params_invalid", f"{name} is missing" if found is None else f"{name} must be an object")
    return found


def _optional(value: JSONObject, name: str) -> JSONObject:
    return _object(value, name) if name in value else {}


def _properties(value: JSONObject, name: str) -> JSONObject:
    found = value.get("properties", {})
    if not isinstance(found, dict):
        raise Malformed("params_invalid", f"{name}.properties must be an object")
    return found


def _string(value: JSONObject, where: str, name: str, longest: int) -> str:
    found = value.get(name)
    if not isinstance(found, str) or not found:
        raise Malformed("params_invalid", f"{where}.{name} must be a string that is not empty")
    if len(found) > longest:
        raise Malformed("params_invalid", f"{where}.{name} is too long")
    return found
