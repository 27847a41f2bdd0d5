"""Tool catalogues as values: definitions, digests, names, order and pages. Pure.

- A definition is exactly the members that its pin covers (PIN-01); any other member is dropped, so
  that nothing reaches a model that no pin would notice changing.
- Order is by exposed name (code points): the same set always gives the same list.
- Cursors are ours: the name after which the next page starts. An upstream's cursor never leaves.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.wire import canonical
from mcp_gateway import headers as h
from mcp_gateway.bridge import kept_meta
from mcp_gateway.message import NAME_CHARS
from mcp_gateway.versions import LEGACY, Era

PINNED: Final = (
    "name", "title", "description", "inputSchema", "outputSchema", "annotations", "execution", "icons", "_meta",
)  # fmt: skip
SEPARATOR: Final = "__"


@dataclass(frozen=True, slots=True)
class Definition:
    """One tool as its upstream defines it.

    value: the pinned members. digest: of their canonical form (``sha256:…``). params: which
    arguments are mirrored as headers.
    """

    name: str
    value: JSONObject
    digest: str
    params: h.ParamMap = field(default_factory=dict)


def definition(raw: JSON) -> Definition:
    """Return a tool's definition.

    Raises Malformed: tool_shape (no object, no usable name, no object schema), x_mcp_header; such a
    tool is dropped from the list (MCP 2026-07-28, tools; SEP-2243).
    """
    if not isinstance(raw, dict):
        raise Malformed("tool_shape")
    name, schema = raw.get("name"), raw.get("inputSchema")
    if not isinstance(name, str) or not 0 < len(name) <= NAME_CHARS or not name.isprintable():
        raise Malformed("tool_shape")
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        raise Malformed("tool_shape")
    for key in ("title", "description"):
        if not isinstance(raw.get(key, ""), str):
            raise Malformed("tool_shape")
    value: JSONObject = {key: raw[key] for key in PINNED if key in raw}
    return Definition(name, value, canonical.digest(value), h.param_map(schema))


def shown(tool: Definition, era: Era, exposed: str) -> JSONObject:
    """Return a definition as it goes to a client of an era, under its exposed name."""
    out = {**tool.value, "name": exposed}
    # Core tasks (2025-11-25) are not bridged yet, so no tool may ask for one.
    out.pop("execution", None)
    output = out.get("outputSchema")
    if era == LEGACY and isinstance(output, dict) and output.get("type") != "object":
        del out["outputSchema"]
    if "icons" in out:
        icons = [i for i in out["icons"] if _is_icon(i)] if isinstance(out["icons"], list) else []
        out["icons"] = list(icons)
    if "_meta" in out:
        meta = kept_meta(out.pop("_meta"))
        if meta:
            out["_meta"] = meta
    return out


def exposed_name(alias: str, name: str) -> str:
    """Return a tool's name on the aggregated endpoint; the alias comes from configuration only."""
    return f"{alias}{SEPARATOR}{name}"


def split_name(exposed: str, aliases: Sequence[str]) -> tuple[str, str] | None:
    """Return (alias, the tool's own name), or None; an alias never holds the separator."""
    alias, found, name = exposed.partition(SEPARATOR)
    return (alias, name) if found and name and alias in aliases else None


def page(names: Sequence[str], after: str, size: int) -> tuple[Sequence[str], str]:
    """Return the page of sorted names after ``after`` and the next page's ``after`` ("" at the end)."""
    start = bisect_right(names, after) if after else 0
    part = names[start : start + size]
    return part, part[-1] if part and start + size < len(names) else ""


# Skeletons fold what readers confuse: case, and the separators that hosts treat alike.
_FOLD: Final = str.maketrans({"-": "_", ".": "_", " ": "_", "0": "o", "1": "l", "I": "l"})


def skeleton(name: str) -> str:
    """Return a form in which confusable tool names are equal (PIN-03; ASCII confusables only)."""
    return name.translate(_FOLD).casefold()


def _is_icon(icon: JSON) -> bool:
    src = icon.get("src") if isinstance(icon, dict) else None
    return isinstance(src, str) and src.startswith(("https://", "data:image/png", "data:image/jpeg", "data:image/webp"))
