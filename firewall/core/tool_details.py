"""Permissions by tool: ``authorization_details`` of the one type that exists here, ``mcp_tool`` (RFC 9396 §2). Pure.

    {"type": "mcp_tool", "locations": ["https://fw.example/mcp/files"], "actions": ["call"],
     "tools": ["read_file"], "constraints": {"path": ["/docs/plan.md", "/docs/notes.md"]}}

A detail names tools of one or more resources, and may bind arguments of their calls to listed values. At a
resource of its own a tool stands under its own name, at the aggregate ``/mcp`` under ``<server>/<tool>``.
A token that carries details reaches the tools that they name, and nothing else that has content: scopes
decide beside them, never instead of them. What is given is what was asked, or less (`covers`).

Strict: an unknown member, type, action or shape refuses the whole, since a limit that is not understood
is not kept (RFC 9396 §5).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject

TYPE: Final = "mcp_tool"
CALL: Final = "call"
DETAILS: Final = 8
TOOLS: Final = 32
LOCATIONS: Final = 8
CONSTRAINTS: Final = 8
VALUES: Final = 16
CHARS: Final = 256

_MEMBERS: Final = frozenset({"type", "locations", "actions", "tools", "constraints"})

Scalar = str | int | bool


@dataclass(frozen=True, slots=True)
class ToolDetail:
    """One detail. constraints: argument name and the only values it may have, in order of the names."""

    locations: tuple[str, ...]
    tools: tuple[str, ...]
    constraints: tuple[tuple[str, tuple[Scalar, ...]], ...] = ()

    def as_json(self) -> JSONObject:
        """Return the detail as it stands in requests and tokens."""
        value: JSONObject = {
            "type": TYPE,
            "locations": list(self.locations),
            "actions": [CALL],
            "tools": list(self.tools),
        }
        if self.constraints:
            value["constraints"] = {name: list(values) for name, values in self.constraints}
        return value

    def lacks(self, location: str, tool: str, arguments: Mapping[str, JSON] | None = None) -> str:
        """Return the first thing for which a call is outside this detail, "" for none.

        ``location``, ``tool`` or ``argument <name>``: one that the detail binds, and that is not there with a listed
        value of its type. The value is never told. arguments: None does not look at them.
        """
        if location not in self.locations:
            return "location"
        if tool not in self.tools:
            return "tool"
        if arguments is None:
            return ""
        for name, values in self.constraints:
            if name not in arguments or not any(_same(arguments[name], value) for value in values):
                return f"argument {name}"
        return ""


def parse_details(value: JSON) -> tuple[ToolDetail, ...]:
    """Return the details of a parsed ``authorization_details``.

    value: an array of 1 to 8 objects. Raises Malformed("authorization_details").
    """
    if not isinstance(value, list) or not 0 < len(value) <= DETAILS:
        raise Malformed("authorization_details", "count")
    return tuple(_detail(one) for one in value)


def details_of(claims: Mapping[str, JSON], *, foreign: bool = False) -> tuple[ToolDetail, ...]:
    """Return the calls that a verified token is limited to, () for none; a limit that cannot be read refuses it.

    foreign: of another issuer, whose further types concern other APIs. Raises Malformed("authorization_details").
    Source: RFC 9396 §9.1.
    """
    if "authorization_details" not in claims:
        return ()
    value = claims["authorization_details"]
    if foreign and isinstance(value, list):
        value = [one for one in value if not isinstance(one, dict) or one.get("type") == TYPE]
        if not value:
            return ()
    return parse_details(value)


def covers(given: Iterable[ToolDetail], wanted: ToolDetail) -> bool:
    """Return whether one given detail permits everything that the wanted one would: so it may be given on."""
    return any(_covers(detail, wanted) for detail in given)


def _covers(given: ToolDetail, wanted: ToolDetail) -> bool:
    if not set(wanted.locations) <= set(given.locations) or not set(wanted.tools) <= set(given.tools):
        return False
    bound = dict(wanted.constraints)
    return all(
        name in bound and all(any(_same(value, one) for one in values) for value in bound[name])
        for name, values in given.constraints
    )


def _detail(value: JSON) -> ToolDetail:
    if not isinstance(value, dict) or value.get("type") != TYPE or not value.keys() <= _MEMBERS:
        raise Malformed("authorization_details", "type")
    if value.get("actions") != [CALL]:
        raise Malformed("authorization_details", "actions")
    locations = _texts(value.get("locations"), LOCATIONS)
    tools = _texts(value.get("tools"), TOOLS)
    given = value.get("constraints", {})
    if not isinstance(given, dict) or len(given) > CONSTRAINTS:
        raise Malformed("authorization_details", "constraints")
    constraints = tuple((_text(name), _values(given[name])) for name in sorted(given))
    return ToolDetail(locations, tools, constraints)


def _texts(value: JSON, most: int) -> tuple[str, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= most:
        raise Malformed("authorization_details", "list")
    texts = tuple(_text(one) for one in value)
    if len(set(texts)) != len(texts):
        raise Malformed("authorization_details", "repeated")
    return texts


def is_name(text: str) -> bool:
    """Return whether a detail can hold a text as the name of a tool: printable, 1 to 256 characters."""
    return 0 < len(text) <= CHARS and text.isprintable()


def _text(value: JSON) -> str:
    if not isinstance(value, str) or not is_name(value):
        raise Malformed("authorization_details", "text")
    return value


def _values(value: JSON) -> tuple[Scalar, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= VALUES:
        raise Malformed("authorization_details", "values")
    found: list[Scalar] = []
    for one in value:
        if isinstance(one, bool) or (isinstance(one, int) and abs(one) < 2**53):
            found.append(one)
        elif isinstance(one, str):
            found.append(_text(one) if one else one)
        else:
            raise Malformed("authorization_details", "values")
    return tuple(found)


def _same(one: JSON, other: Scalar) -> bool:
    # ``True == 1`` in Python, not in JSON.
    return type(one) is type(other) and one == other
