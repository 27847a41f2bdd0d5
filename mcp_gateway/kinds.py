"""The four kinds of definition that a server lists, and how each is asked for and shown. Pure.

Source: MCP 2025-11-25 and 2026-07-28, server/{tools,prompts,resources}; the rows are the same in
every revision but for members that came later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from firewall.core.points import Point

Kind = Literal["tool", "prompt", "resource", "template"]


@dataclass(frozen=True, slots=True)
class KindInfo:
    """How one kind travels.

    method: of its list; member: of the result that holds the entries; key: the member of an entry
    that names it; capability: what an upstream declares that has it; pinned: the members that a pin
    covers, all others are dropped; asked, listed: the points of the list's request and answer.
    """

    method: str
    member: str
    key: str
    capability: str
    pinned: tuple[str, ...]
    asked: Point
    listed: Point


_COMMON: Final = ("name", "title", "description", "icons", "_meta")

KINDS: Final[Mapping[Kind, KindInfo]] = MappingProxyType(
    {
        "tool": KindInfo(
            "tools/list",
            "tools",
            "name",
            "tools",
            (*_COMMON, "inputSchema", "outputSchema", "annotations", "execution"),
            Point.MCP_TOOL_LIST,
            Point.MCP_TOOL_LISTED,
        ),
        "prompt": KindInfo(
            "prompts/list",
            "prompts",
            "name",
            "prompts",
            (*_COMMON, "arguments"),
            Point.MCP_PROMPT_LIST,
            Point.MCP_PROMPT_LISTED,
        ),
        "resource": KindInfo(
            "resources/list",
            "resources",
            "uri",
            "resources",
            (*_COMMON, "uri", "mimeType", "annotations"),
            Point.MCP_RESOURCE_LIST,
            Point.MCP_RESOURCE_LISTED,
        ),
        "template": KindInfo(
            "resources/templates/list",
            "resourceTemplates",
            "uriTemplate",
            "resources",
            (*_COMMON, "uriTemplate", "mimeType", "annotations"),
            Point.MCP_RESOURCE_LIST,
            Point.MCP_RESOURCE_LISTED,
        ),
    }
)
# What a notification of a changed list means for us: `resources` covers templates too.
CHANGED: Final[Mapping[str, tuple[Kind, ...]]] = MappingProxyType(
    {
        "notifications/tools/list_changed": ("tool",),
        "notifications/prompts/list_changed": ("prompt",),
        "notifications/resources/list_changed": ("resource", "template"),
    }
)
BY_METHOD: Final[Mapping[str, Kind]] = MappingProxyType({info.method: kind for kind, info in KINDS.items()})
