"""Catalogues as values: definitions of every kind, digests, names, order and pages. Pure.

- A definition is exactly the members that its pin covers (PIN-01); any other member is dropped, so
  that nothing reaches a model that no pin would notice changing. The one exception is what changes
  with a resource's content: its size and the time of its last change, a number and a date.
- Order is by exposed name (code points): the same set always gives the same list.
- Cursors are ours: the name after which the next page starts. An upstream's cursor never leaves.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from firewall.core.bounds import JSON_INTEGER, KIB
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.wire import canonical
from mcp_gateway import apps, pictures, templates, uris
from mcp_gateway import headers as h
from mcp_gateway.bridge import kept_meta
from mcp_gateway.kinds import KINDS, Kind
from mcp_gateway.message import NAME_CHARS
from mcp_gateway.templates import Template
from mcp_gateway.versions import LEGACY, Era

SEPARATOR: Final = "__"
PROMPT_ARGUMENTS: Final = 64
PAGE_CHARS: Final = 64 * KIB
_DATE: Final = frozenset("0123456789-:.TZ+")


@dataclass(frozen=True, slots=True)
class Definition:
    """One definition as its upstream gives it.

    name: a tool's or prompt's name, a resource's URI, a template's text. value: the pinned members.
    digest: of their canonical form (``sha256:…``). params: which arguments of a tool are mirrored as
    headers. template: the parsed one of a template. passing: ``size`` and ``lastModified``, which no
    pin covers.
    """

    name: str
    value: JSONObject
    digest: str
    params: h.ParamMap = field(default_factory=dict)
    kind: Kind = "tool"
    template: Template | None = None
    passing: JSONObject = field(default_factory=dict)


def definition(raw: JSON, kind: Kind = "tool") -> Definition:
    """Return a definition; one that cannot be read is dropped from its list.

    Raises Malformed: tool_shape (no object, no usable name, no object schema), x_mcp_header (MCP
    2026-07-28, tools; SEP-2243), prompt_shape, resource_shape, uri (not in normal form), uri_template.
    """
    wrong = f"{'resource' if kind == 'template' else kind}_shape"
    if not isinstance(raw, dict) or not all(isinstance(raw.get(k, ""), str) for k in _TEXTS):
        raise Malformed(wrong)
    info = KINDS[kind]
    name = raw.get(info.key)
    if not isinstance(name, str) or not isinstance(raw.get("name"), str):
        raise Malformed(wrong)
    value: JSONObject = {key: raw[key] for key in info.pinned if key in raw}
    if kind in ("tool", "prompt"):
        if not 0 < len(name) <= NAME_CHARS or not name.isprintable():
            raise Malformed(wrong)
        if kind == "tool":
            schema = raw.get("inputSchema")
            if not isinstance(schema, dict) or schema.get("type", "object") != "object":
                raise Malformed(wrong)
            return Definition(name, value, canonical.digest(value), h.param_map(schema))
        _check_prompt(raw.get("arguments"))
        return Definition(name, value, canonical.digest(value), kind=kind)
    passing = _passing(raw, value)
    if kind == "resource":
        uris.check(name)
        return Definition(name, value, canonical.digest(value), kind=kind, passing=passing)
    parsed = templates.template(name)
    return Definition(name, value, canonical.digest(value), kind=kind, template=parsed, passing=passing)


_TEXTS: Final = ("title", "description", "mimeType")


def _check_prompt(arguments: JSON) -> None:
    """Raise Malformed("prompt_shape") unless a prompt's arguments are a bounded list of named ones."""
    if arguments is None:
        return
    if not isinstance(arguments, list) or len(arguments) > PROMPT_ARGUMENTS:
        raise Malformed("prompt_shape")
    names: set[str] = set()
    for one in arguments:
        name = one.get("name") if isinstance(one, dict) else None
        if not isinstance(one, dict) or not isinstance(name, str) or not name or name in names:
            raise Malformed("prompt_shape")
        if not isinstance(one.get("required", False), bool):
            raise Malformed("prompt_shape")
        names.add(name)


def _passing(raw: JSONObject, value: JSONObject) -> JSONObject:
    """Take the members out of a value that follow a resource's content; return those of a plain form."""
    out: JSONObject = {}
    size = raw.get("size")
    if isinstance(size, int) and not isinstance(size, bool) and 0 <= size <= JSON_INTEGER:
        out["size"] = size
    noted = value.get("annotations")
    if isinstance(noted, dict) and "lastModified" in noted:
        value["annotations"] = {k: v for k, v in noted.items() if k != "lastModified"}
        if not value["annotations"]:
            del value["annotations"]
        when = noted["lastModified"]
        if isinstance(when, str) and 10 <= len(when) <= 40 and set(when) <= _DATE:
            out["lastModified"] = when
    return out


def shown(
    one: Definition,
    era: Era,
    exposed: str,
    *,
    outward: Callable[[str], str] | None = None,
    rights: apps.Rights = apps.NONE,
    tasks: bool = False,
) -> JSONObject:
    """Return a definition as it goes to a client of an era, under its exposed name or URI.

    outward: how the endpoint tells the upstream's URIs (None: as they are). rights: what an app of
    this upstream may ask its host for. tasks: the client's revision knows core tasks (2025-11-25).
    """
    out = {**one.value, KINDS[one.kind].key: exposed}
    if not tasks:
        out.pop("execution", None)
    output = out.get("outputSchema")
    if era == LEGACY and isinstance(output, dict) and output.get("type") != "object":
        del out["outputSchema"]
    if "icons" in out:
        icons = pictures.icons(out.pop("icons"), rights)
        if icons:
            out["icons"] = icons
    if "size" in one.passing:
        out["size"] = one.passing["size"]
    if "lastModified" in one.passing:
        noted = out.get("annotations")
        out["annotations"] = {**(noted if isinstance(noted, dict) else {}), "lastModified": one.passing["lastModified"]}
    if "_meta" in out:
        meta = apps.shown(kept_meta(out.pop("_meta")), rights, outward)
        if meta:
            out["_meta"] = meta
    return out


def prompt_fits(one: Definition, arguments: Mapping[str, JSON]) -> bool:
    """Return whether a prompt's arguments are declared ones with text, and the required ones are there."""
    declared = one.value.get("arguments")
    known = (
        {a["name"]: a.get("required") is True for a in declared if isinstance(a, dict)}
        if isinstance(declared, list)
        else {}
    )
    return all(name in known and isinstance(value, str) for name, value in arguments.items()) and all(
        name in arguments for name, required in known.items() if required
    )


def argument_names(one: Definition) -> frozenset[str]:
    """Return what can be completed of a definition: a prompt's arguments, a template's variables."""
    if one.template is not None:
        return frozenset(one.template.variables)
    declared = one.value.get("arguments")
    names = [a.get("name") for a in declared if isinstance(a, dict)] if isinstance(declared, list) else []
    return frozenset(name for name in names if isinstance(name, str))


def set_value(definitions: Mapping[str, Definition]) -> JSON:
    """Return a whole list as a definition of its own: which there are, and which exactly."""
    return {name: definitions[name].digest for name in sorted(definitions)}


def set_digest(definitions: Mapping[str, Definition]) -> str:
    """Return the digest of a whole list."""
    return canonical.digest(set_value(definitions))


def exposed_name(alias: str, name: str) -> str:
    """Return a tool's or prompt's name on the aggregated endpoint; the alias comes from configuration only."""
    return f"{alias}{SEPARATOR}{name}"


def split_name(exposed: str, aliases: Sequence[str]) -> tuple[str, str] | None:
    """Return (alias, the upstream's own name), or None; an alias never holds the separator."""
    alias, found, name = exposed.partition(SEPARATOR)
    return (alias, name) if found and name and alias in aliases else None


def page(names: Sequence[str], after: str, size: int) -> tuple[Sequence[str], str]:
    """Return the page of sorted names after ``after`` and the next page's ``after`` ("" at the end).

    A page ends early when its names are longer than `PAGE_CHARS` together: a decision has bounds.
    """
    start = bisect_right(names, after) if after else 0
    part = names[start : start + size]
    chars = 0
    for at, name in enumerate(part):
        chars += len(name)
        if chars > PAGE_CHARS and at:
            part = part[:at]
            break
    return part, part[-1] if part and start + len(part) < len(names) else ""


# Skeletons fold what readers confuse: case, and the separators that hosts treat alike.
_FOLD: Final = str.maketrans({"-": "_", ".": "_", " ": "_", "0": "o", "1": "l", "I": "l"})


def skeleton(name: str, kind: Kind = "tool") -> str:
    """Return a form in which confusable names are equal (PIN-03; ASCII confusables only).

    Addresses are opened by machines and have one spelling each: they are confusable only when equal.
    """
    return name.translate(_FOLD).casefold() if kind in ("tool", "prompt") else name
