"""What an upstream says unasked, and what somebody wants to hear of it. Pure.

Notifications are read from a closed list; of a changed list nothing travels but that it changed, of a
resource its URI. A task's state is carried whole, to be read and judged by `tasks_view`.
Source: MCP 2025-11-25 and 2026-07-28, server notifications; subscriptions; extension ``io.modelcontextprotocol/tasks``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from firewall.core.jsonvalue import JSON, JSONObject
from mcp_gateway import tasks, uris
from mcp_gateway.kinds import CHANGED, Kind
from mcp_gateway.message import SUBSCRIPTION_ID
from mcp_gateway.settings import UpstreamSpec

What = Literal["tools", "prompts", "resources", "updated", "task"]

LISTS: Final[dict[str, What]] = {
    "notifications/tools/list_changed": "tools",
    "notifications/prompts/list_changed": "prompts",
    "notifications/resources/list_changed": "resources",
}
TASK_METHODS: Final = frozenset({"notifications/tasks", "notifications/tasks/status"})
FILTERS: Final[dict[What, str]] = {
    "tools": "toolsListChanged",
    "prompts": "promptsListChanged",
    "resources": "resourcesListChanged",
}
KINDS_OF: Final[dict[What, tuple[Kind, ...]]] = {what: CHANGED[method] for method, what in LISTS.items()}


@dataclass(frozen=True, slots=True)
class Event:
    """Something changed at an upstream. name: a URI or task id there, "" for a list. params: of a task's state."""

    spec: UpstreamSpec
    key: str
    what: What
    name: str = ""
    params: JSONObject | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a sink wants to hear of one upstream: lists by `What`, URIs and task ids as the upstream has them.

    any_task: a legacy session asks for nothing by name; whose task it is, is found out when it is told.
    """

    lists: frozenset[What] = frozenset()
    uris: frozenset[str] = frozenset()
    tasks: frozenset[str] = frozenset()
    any_task: bool = False

    def __or__(self, other: Wanted) -> Wanted:
        """Return both."""
        return Wanted(
            self.lists | other.lists,
            self.uris | other.uris,
            self.tasks | other.tasks,
            self.any_task or other.any_task,
        )

    def within(self, other: Wanted) -> bool:
        """Return whether an upstream that is asked for something else is asked for all of this."""
        return self.lists <= other.lists and self.uris <= other.uris and self.tasks <= other.tasks

    def covers(self, event: Event) -> bool:
        """Return whether an event is among what is wanted."""
        if event.what == "updated":
            # "This might be a sub-resource of the one that the client actually subscribed to" (MCP, schema).
            watched = self.uris
            return bool(watched) and (event.name in watched or not watched.isdisjoint(uris.above(event.name)))
        if event.what == "task":
            return self.any_task or event.name in self.tasks
        return event.what in self.lists


def event_of(spec: UpstreamSpec, key: str, value: JSONObject) -> Event | None:
    """Return what a notification of an upstream says, or None for one that is not passed on."""
    method, params = value.get("method"), value.get("params", {})
    if "id" in value or not isinstance(method, str) or not isinstance(params, dict):
        return None
    if method in LISTS:
        return Event(spec, key, LISTS[method])
    if method == "notifications/resources/updated":
        uri = params.get("uri")
        return Event(spec, key, "updated", uri) if isinstance(uri, str) and 0 < len(uri) <= uris.URI_CHARS else None
    if method in TASK_METHODS:
        task_id = params.get("taskId")
        if isinstance(task_id, str) and 0 < len(task_id) <= tasks.ID_CHARS:
            return Event(spec, key, "task", task_id, params)
    return None


def filter_of(wanted: Wanted) -> JSONObject:
    """Return the ``notifications`` of a ``subscriptions/listen``."""
    out: JSONObject = {FILTERS[what]: True for what in sorted(wanted.lists) if what in FILTERS}
    if wanted.uris:
        out["resourceSubscriptions"] = list[JSON](sorted(wanted.uris))
    if wanted.tasks:
        out["taskIds"] = list[JSON](sorted(wanted.tasks))
    return out


def belongs(value: JSONObject, rpc_id: int) -> bool:
    """Return whether a notification names our listen: on a pipe those of another one come along."""
    params = value.get("params")
    meta = params.get("_meta") if isinstance(params, dict) else None
    told = meta.get(SUBSCRIPTION_ID) if isinstance(meta, dict) else None
    return told in (rpc_id, str(rpc_id)) and not isinstance(told, bool)
