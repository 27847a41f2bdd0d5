"""Tasks in both shapes: core tasks of 2025-11-25 and the tasks extension of 2026-07-28. Pure.

    2025-11-25 (core)        params.task{ttl} → result.task{…, ttl, pollInterval}; tasks/result blocks
    io.modelcontextprotocol/tasks    result{resultType:"task", …, ttlMs, pollIntervalMs}; tasks/get holds the result

A `Task` is read from a closed list of members, each checked, and built again under an id of ours; no
other member travels. What it carries beside its state is told apart here, since each part is judged at
the point of what it is (mcp reference §2, places 1 and 2): a result is a tool's result, an entry of
``inputRequests`` is a server's question, an error becomes ours.

The two are different protocols that share a word (mcp reference §5.7): neither is advertised across
eras. `Shape` says which one a task is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal

from firewall.core.bounds import JSON_INTEGER
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from mcp_gateway.message import PREFIX, Call

Shape = Literal["core", "extension"]
Support = Literal["forbidden", "optional", "required"]

CORE: Final[Shape] = "core"
EXTENSION: Final[Shape] = "extension"

CORE_VERSION: Final = "2025-11-25"  # the only revision whose core knows tasks
EXTENSION_ID: Final = PREFIX + "tasks"
RELATED: Final = PREFIX + "related-task"
IMMEDIATE: Final = PREFIX + "model-immediate-response"
RESULT_TYPE: Final = "task"

STATUSES: Final = frozenset({"working", "input_required", "completed", "failed", "cancelled"})
TERMINAL: Final = frozenset({"completed", "failed", "cancelled"})

ID_CHARS: Final = 1_024  # of an upstream's id; ours have 28
TEXT_CHARS: Final = 16_384  # of a status message or an immediate response
QUESTIONS: Final = 16  # entries of one ``inputRequests``
KEY_CHARS: Final = 256
TTL_MS_MAX: Final = 24 * 3600 * 1000  # how long we lead an id back, whatever an upstream promises
POLL_MS_MIN: Final = 100
_TIME: Final = frozenset("0123456789-:.TZ+")
_TIME_CHARS: Final = 40


@dataclass(frozen=True, slots=True)
class Task:
    """The state of one task as an upstream tells it.

    id: the upstream's own. created, updated: ISO 8601. ttl_ms: from creation, None for unlimited.
    text: ``statusMessage``, "" without one. Payloads (extension only) stand as received, unjudged:
    result of a completed, error of a failed, asks of a waiting task; None where the status has none.
    """

    id: str
    status: str
    created: str
    updated: str
    ttl_ms: int | None
    poll_ms: int | None = None
    text: str = ""
    result: JSONObject | None = None
    error: JSONObject | None = None
    asks: JSONObject | None = None

    @property
    def over(self) -> bool:
        """Whether nothing changes any more."""
        return self.status in TERMINAL


# -- reading --------------------------------------------------------------------------------------


def read(value: JSON, shape: Shape, *, seed: bool = False) -> Task:
    """Return the task of a flat object: an answer to ``tasks/get`` or ``tasks/cancel``, a status notification.

    seed: the object announces a task, so whatever payload it has is not looked at and not kept.
    Raises Malformed("result_shape"): a member that is missing or of another type, an unknown status, a
    time that is none, text beyond a bound; of an extension task also a status without its payload.
    """
    if not isinstance(value, dict):
        raise Malformed("result_shape")
    ttl, poll = ("ttl", "pollInterval") if shape == CORE else ("ttlMs", "pollIntervalMs")
    status = value.get("status")
    if not isinstance(status, str) or status not in STATUSES or ttl not in value:
        raise Malformed("result_shape")
    task = Task(
        id=_id(value.get("taskId")),
        status=status,
        created=_time(value.get("createdAt")),
        updated=_time(value.get("lastUpdatedAt")),
        ttl_ms=_milliseconds(value[ttl]),
        poll_ms=_milliseconds(value.get(poll)),
        text=_text(value.get("statusMessage", "")),
    )
    return task if shape == CORE or seed else _with_payload(task, value)


def announced(result: JSON, shape: Shape) -> tuple[Task, str]:
    """Return the task that answers a request, and the text that the model is to read meanwhile ("" for none).

    Raises Malformed("result_shape").
    """
    if not isinstance(result, dict) or "content" in result:
        raise Malformed("result_shape")
    if shape == EXTENSION:
        if result.get("resultType") != RESULT_TYPE:
            raise Malformed("result_shape")
        return read(result, EXTENSION, seed=True), ""
    if result.get("resultType", "complete") != "complete":
        raise Malformed("result_shape")
    meta = result.get("_meta")
    said = meta.get(IMMEDIATE, "") if isinstance(meta, dict) else ""
    return read(result.get("task"), CORE), _text(said)


def shape_of(result: JSON) -> Shape | None:
    """Return which shape of task a result announces, or None for a result that announces none."""
    if not isinstance(result, dict):
        return None
    if result.get("resultType") == RESULT_TYPE:
        return EXTENSION
    return CORE if "task" in result and "content" not in result else None


def wanted_ttl(params: JSONObject) -> int | None:
    """Return the ``task.ttl`` that a client asks for, milliseconds, or None where it leaves that open.

    Raises Malformed("params_invalid"). Source: MCP 2025-11-25, tasks, creating tasks.
    """
    asked = params.get("task")
    ttl = asked.get("ttl") if isinstance(asked, dict) else False
    if ttl is None:
        return None
    if not _is_count(ttl):
        raise Malformed("params_invalid")
    assert isinstance(ttl, int)
    return min(ttl, TTL_MS_MAX)


def task_id(params: JSONObject) -> str:
    """Return the ``taskId`` of a request as the client spells it. Raises Malformed("params_invalid")."""
    told = params.get("taskId")
    if not isinstance(told, str) or not 0 < len(told) <= ID_CHARS:
        raise Malformed("params_invalid")
    return told


# -- building -------------------------------------------------------------------------------------


def lifetime_ms(task: Task) -> int:
    """Return how long from its creation a task is known here, milliseconds: its own time, at most `TTL_MS_MAX`."""
    return TTL_MS_MAX if task.ttl_ms is None else min(task.ttl_ms, TTL_MS_MAX)


def shown(task: Task, ours: str, shape: Shape) -> JSONObject:
    """Return a task's state under an id of ours, without payload. Its ``ttl`` is the one that holds here."""
    ttl, poll = ("ttl", "pollInterval") if shape == CORE else ("ttlMs", "pollIntervalMs")
    out: JSONObject = {
        "taskId": ours,
        "status": task.status,
        "createdAt": task.created,
        "lastUpdatedAt": task.updated,
        ttl: lifetime_ms(task),
    }
    if task.poll_ms is not None:
        out[poll] = max(task.poll_ms, POLL_MS_MIN)
    if task.text:
        out["statusMessage"] = task.text
    return out


def announcement(task: Task, ours: str, shape: Shape, immediate: str = "") -> JSONObject:
    """Return the result that announces a task: nested in the core, flat in the extension."""
    if shape == EXTENSION:
        return {"resultType": RESULT_TYPE, **shown(task, ours, EXTENSION)}
    out: JSONObject = {"task": shown(task, ours, CORE)}
    if immediate:
        out["_meta"] = {IMMEDIATE: immediate}
    return out


def related(result: JSONObject, ours: str) -> JSONObject:
    """Return a ``tasks/result`` with the task that it belongs to in ``_meta`` (a MUST of 2025-11-25)."""
    meta = result.get("_meta")
    return {**result, "_meta": {**(meta if isinstance(meta, dict) else {}), RELATED: {"taskId": ours}}}


# -- capabilities ---------------------------------------------------------------------------------


def support(definition: JSONObject) -> Support:
    """Return a tool's ``execution.taskSupport``; whatever is not one of the three words forbids."""
    execution = definition.get("execution")
    told = execution.get("taskSupport") if isinstance(execution, dict) else None
    if told == "optional":
        return "optional"
    return "required" if told == "required" else "forbidden"


def concerned(call: Call, definition: Mapping[str, JSON]) -> bool:
    """Return whether a ``tools/call`` may become a task at all: False is said at a glance, and mostly.

    Without one of these neither `support` nor `offers` nor the call's parameters can say anything but no.
    """
    return "execution" in definition or "task" in call.params or "extensions" in call.capabilities


def offers(capabilities: Mapping[str, JSON], shape: Shape) -> bool:
    """Return whether a peer's capabilities let ``tools/call`` become a task of a shape."""
    if shape == EXTENSION:
        return isinstance(_at(capabilities, "extensions", EXTENSION_ID), dict)
    return isinstance(_at(capabilities, "tasks", "requests", "tools", "call"), dict)


def cancels(capabilities: Mapping[str, JSON]) -> bool:
    """Return whether a 2025-11-25 server lets its tasks be cancelled."""
    return isinstance(_at(capabilities, "tasks", "cancel"), dict)


def core_capability(capabilities: Mapping[str, JSON]) -> JSONObject:
    """Return what we declare to a 2025-11-25 client in front of a server that offers core tasks.

    ``list`` is always there: it is answered from our own table.
    """
    out: JSONObject = {"list": {}, "requests": {"tools": {"call": {}}}}
    if cancels(capabilities):
        out["cancel"] = {}
    return out


# -- inside ---------------------------------------------------------------------------------------


def _with_payload(task: Task, value: JSONObject) -> Task:
    """Return an extension task with the one payload that its status has; members of other statuses are dropped."""
    member = {"completed": "result", "failed": "error", "input_required": "inputRequests"}.get(task.status)
    if member is None:
        return task
    payload = value.get(member)
    if not isinstance(payload, dict):
        raise Malformed("result_shape")
    if member == "result":
        return replace(task, result=payload)
    if member == "error":
        return replace(task, error=payload)
    if not 0 < len(payload) <= QUESTIONS or any(not 0 < len(key) <= KEY_CHARS for key in payload):
        raise Malformed("result_shape")
    return replace(task, asks=payload)


def _at(value: JSON | Mapping[str, JSON], *path: str) -> JSON:
    node: JSON | Mapping[str, JSON] = value
    for key in path:
        if not isinstance(node, Mapping):
            return None
        node = node.get(key)
    return dict(node) if isinstance(node, Mapping) else node


def _id(value: JSON) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= ID_CHARS:
        raise Malformed("result_shape")
    return value


def _text(value: JSON) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > TEXT_CHARS:
        raise Malformed("result_shape")
    return value


def _milliseconds(value: JSON) -> int | None:
    if value is None:
        return None
    if not _is_count(value):
        raise Malformed("result_shape")
    assert isinstance(value, int)
    return value


def _is_count(value: JSON) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= JSON_INTEGER


def _time(value: JSON) -> str:
    """Return an ISO 8601 time as it was sent: a member that looks like a time must be one, not a sentence."""
    if not isinstance(value, str) or not 0 < len(value) <= _TIME_CHARS or not set(value) <= _TIME:
        raise Malformed("result_shape")
    try:
        datetime.fromisoformat(value)
    except ValueError:
        raise Malformed("result_shape") from None
    return value
