"""A2A 1.0 messages ⇄ typed parts: what a caller asks, what an agent shows, under whose ids. Pure.

`shapes` reads strictly; here the read objects get their meaning:

- From a caller only a user's turn is taken, from an agent only an agent's (threats §3.7).
- Extensions are dropped unless allow-listed: their URIs in ``extensions``, and metadata under a
  URI. ``metadata.actorChain`` is dropped always: a chain comes only from a signed token (GW-52).
- `remapped` replaces every task and context id of an object, wherever it stands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from a2a_gateway.shapes import CANCEL, EVENT, GET, KINDS, RESULT, SEND, TASK, Kind, bad
from firewall.core.jsonvalue import JSON, JSONObject

# -- requests ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """SendMessage or SendStreamingMessage, as read; ids are still the caller's."""

    params: JSONObject

    @property
    def message(self) -> JSONObject:
        """Return the message object."""
        message = self.params["message"]
        assert isinstance(message, dict)
        return message

    @property
    def message_id(self) -> str:
        """Return the caller's message id; it is never rewritten."""
        return str(self.message["messageId"])

    @property
    def task_id(self) -> str:
        """Return the task this message continues, or ""."""
        return str(self.message.get("taskId", ""))

    @property
    def context_id(self) -> str:
        """Return the context this message belongs to, or ""."""
        return str(self.message.get("contextId", ""))

    @property
    def references(self) -> tuple[str, ...]:
        """Return the referenced task ids."""
        named = self.message.get("referenceTaskIds", [])
        assert isinstance(named, list)
        return tuple(str(name) for name in named)

    def at_once(self, history: JSON) -> Send:
        """Return the same, asking for the task and not for its end. history: ``historyLength``, None for none."""
        given = self.params.get("configuration")
        asked: JSONObject = {**(given if isinstance(given, dict) else {}), "returnImmediately": True}
        if history is not None:
            asked["historyLength"] = history
        return Send({**self.params, "configuration": asked})

    def kinds(self) -> list[JSON]:
        """Return the kind of every part, in order: text, raw, url or data."""
        parts = self.message["parts"]
        assert isinstance(parts, list)
        return [next(arm for arm in _ARMS if isinstance(part, dict) and arm in part) for part in parts]

    def outgoing(self, *, task_id: str, context_id: str, references: tuple[str, ...], tenant: str) -> JSONObject:
        """Return the params as they leave: the upstream's ids, and the tenant its card names."""
        ids: dict[str, JSON] = {"taskId": task_id, "contextId": context_id, "referenceTaskIds": list(references)}
        message: JSONObject = {k: v for k, v in {**self.message, **ids}.items() if v not in ("", [])}
        return {**({"tenant": tenant} if tenant else {}), **self.params, "message": message}


_ARMS: Final = ("text", "raw", "url", "data")


@dataclass(frozen=True, slots=True)
class TaskQuery:
    """GetTask or CancelTask, as read; the id is still the caller's."""

    params: JSONObject

    @property
    def task_id(self) -> str:
        """Return the task asked about."""
        return str(self.params["id"])

    def outgoing(self, *, task_id: str, tenant: str) -> JSONObject:
        """Return the params as they leave."""
        return {**({"tenant": tenant} if tenant else {}), **self.params, "id": task_id}


def parse_send(params: JSON, allowed: frozenset[str] = frozenset()) -> Send:
    """Return a send request; raises Malformed: params_invalid, push_unsupported.

    allowed: extension URIs that may pass. A user's turn only.
    """
    read = SEND.read(params)
    message = read["message"]
    if not isinstance(message, dict) or message["role"] != "ROLE_USER":
        raise bad("role")
    without = _without_extensions(read, allowed)
    assert isinstance(without, dict)
    return Send(without)


def parse_task_query(method: str, params: JSON, allowed: frozenset[str] = frozenset()) -> TaskQuery:
    """Return a GetTask or CancelTask request; raises Malformed("params_invalid")."""
    read = _without_extensions((GET if method == "GetTask" else CANCEL).read(params), allowed)
    assert isinstance(read, dict)
    return TaskQuery(read)


# -- answers -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Event:
    """One object that came back: a message, a task, or one update of a task.

    body: the object itself; bare: a GetTask or CancelTask result, which has no wrapper.
    """

    kind: Kind
    body: JSONObject
    bare: bool = False

    @property
    def task_id(self) -> str:
        """Return the task it is about, or ""."""
        return str(self.body.get("id" if self.kind == "task" else "taskId", ""))

    @property
    def context_id(self) -> str:
        """Return its context, or ""."""
        return str(self.body.get("contextId", ""))

    @property
    def state(self) -> str:
        """Return the task state it tells, or ""."""
        status = self.body.get("status")
        return str(status["state"]) if isinstance(status, dict) else ""

    def wire(self) -> JSONObject:
        """Return the JSON-RPC ``result``."""
        return self.body if self.bare else {self.kind: self.body}


def parse_result(method: str, result: JSON, allowed: frozenset[str] = frozenset()) -> Event:
    """Return the answer of a unary operation; raises Malformed("params_invalid")."""
    if method == "SendMessage":
        return _event(RESULT.read(result), allowed)
    task = _without_extensions(TASK.read(result), allowed)
    assert isinstance(task, dict)
    return Event("task", task, bare=True)


def parse_event(result: JSON, allowed: frozenset[str] = frozenset()) -> Event:
    """Return one stream event; raises Malformed("params_invalid")."""
    return _event(EVENT.read(result), allowed)


def _event(read: JSONObject, allowed: frozenset[str]) -> Event:
    kind = next(k for k in KINDS if k in read)
    body = _without_extensions(read[kind], allowed)
    assert isinstance(body, dict)
    event = Event(kind, body)
    status = body.get("status")
    told = status.get("message") if isinstance(status, dict) else None
    for inner in (told, body if kind == "message" else None):
        if not isinstance(inner, dict):
            continue
        if inner["role"] != "ROLE_AGENT":
            raise bad("role")
        # A status message that claims another task would be filed there by the client.
        for member, outer in (("taskId", event.task_id), ("contextId", event.context_id)):
            if inner is told and inner.get(member, outer) != outer:
                raise bad("status message of another task")
    return event


def remapped(event: Event, ours: Callable[[str, str], str]) -> Event:
    """Return the event with every task and context id replaced by ``ours(kind, upstream id)``.

    kind: ``task`` or ``context``. Covers the object, its status message, its history.
    """
    body = _ids(event.body, ours)
    if event.kind == "task":
        body["id"] = ours("task", event.task_id)
    for member in ("history",):
        turns = body.get(member)
        if isinstance(turns, list):
            body[member] = [_ids(turn, ours) if isinstance(turn, dict) else turn for turn in turns]
    status = body.get("status")
    if isinstance(status, dict) and isinstance(status.get("message"), dict):
        message = status["message"]
        assert isinstance(message, dict)
        body["status"] = {**status, "message": _ids(message, ours)}
    return replace(event, body=body)


def _ids(value: JSONObject, ours: Callable[[str, str], str]) -> JSONObject:
    out = dict(value)
    if "taskId" in out:
        out["taskId"] = ours("task", str(out["taskId"]))
    if "contextId" in out:
        out["contextId"] = ours("context", str(out["contextId"]))
    references = out.get("referenceTaskIds")
    if isinstance(references, list):
        out["referenceTaskIds"] = [ours("task", str(name)) for name in references]
    return out


def as_task(event: Event, task_id: str, context_id: str) -> Event:
    """Return a completed task that tells what an agent's message says; the message may name a context of its own."""
    context = event.context_id or context_id
    told: JSONObject = {**event.body, "taskId": task_id, "contextId": context}
    status: JSONObject = {"state": "TASK_STATE_COMPLETED", "message": told}
    return Event("task", {"id": task_id, "contextId": context, "status": status})


def texts(event: Event) -> list[tuple[int, str]]:
    """Return (index, text) of every text part of an artifact update."""
    artifact = event.body.get("artifact")
    parts = artifact.get("parts") if isinstance(artifact, dict) else None
    if not isinstance(parts, list):
        return []
    found = [(i, part.get("text")) for i, part in enumerate(parts) if isinstance(part, dict)]
    return [(i, text) for i, text in found if isinstance(text, str)]


# -- extensions --------------------------------------------------------------------------------------

_HOLDERS: Final = frozenset({"message", "status", "artifact"})
_HOLDER_LISTS: Final = frozenset({"parts", "artifacts", "history"})


def _without_extensions(value: JSON, allowed: frozenset[str]) -> JSON:
    """Return an object of ours without undeclared extension traffic; shares what is unchanged."""
    if not isinstance(value, dict):
        return value
    out: JSONObject = {}
    for member, inner in value.items():
        if member == "extensions" and isinstance(inner, list):
            inner = [uri for uri in inner if uri in allowed]
            if not inner:
                continue
        elif member == "metadata" and isinstance(inner, dict):
            inner = {k: v for k, v in inner.items() if k != "actorChain" and ("://" not in k or k in allowed)}
            if not inner:
                continue
        elif member in _HOLDERS:
            inner = _without_extensions(inner, allowed)
        elif member in _HOLDER_LISTS and isinstance(inner, list):
            inner = [_without_extensions(item, allowed) for item in inner]
        out[member] = inner
    return out
