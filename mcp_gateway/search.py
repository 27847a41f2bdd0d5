"""Large catalogues behind three tools of our own: find, describe, call (aggregate with ``catalog: search``).

A model that reads a thousand definitions reads little else. Here it lists three tools and looks up the
rest. Nothing else changes: what a search shows is what a list would show to this caller, and
``call_tool`` is the inner tool's own call, with its pin, its schema, its policy and its audit record.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Final, Protocol

from firewall.core.action import Resource
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.permit import Cleared
from firewall.core.points import Point
from firewall.core.principal import Principal
from firewall.wire import jsonrpc, strict_json
from mcp_gateway import bridge, lists
from mcp_gateway.action import READ, response
from mcp_gateway.catalog import Catalog, Endpoint
from mcp_gateway.decider import Decider
from mcp_gateway.entries import Entry
from mcp_gateway.lists import Definition
from mcp_gateway.relay import Turn
from mcp_gateway.schema import Schema, Verdict
from mcp_gateway.shelf import Shelf
from mcp_gateway.versions import MODERN
from mcp_gateway.views import Views

FOUND: Final = 20
SHOWN_CHARS: Final = 300
WORDS: Final = 16

_NAME: Final[JSONObject] = {"type": "string", "description": "The tool's name, as a search tells it."}


def _tool(name: str, description: str, properties: JSONObject, required: Sequence[str]) -> Definition:
    schema: JSONObject = {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }
    hints: JSONObject = {"readOnlyHint": name != "call_tool"}
    return lists.definition({"name": name, "description": description, "inputSchema": schema, "annotations": hints})


OWN: Final[Mapping[str, Definition]] = {
    one.name: one
    for one in (
        _tool(
            "call_tool",
            "Call a tool that a search found, with the arguments that its description asks for.",
            {"name": _NAME, "arguments": {"type": "object", "description": "The arguments of that tool."}},
            ["name"],
        ),
        _tool("describe_tool", "Read the whole definition of a tool, its schemas included.", {"name": _NAME}, ["name"]),
        _tool(
            "search_tools",
            "Find tools by what they do. Returns names and short descriptions, the best match first.",
            {
                "query": {"type": "string", "maxLength": 200, "description": "Words that say what is wanted."},
                "limit": {"type": "integer", "minimum": 1, "maximum": FOUND, "description": "How many at most."},
            },
            ["query"],
        ),
    )
}


class Calls(Protocol):
    """Who calls a tool by its exposed name (`objects.Objects`)."""

    def call_tool(
        self, turn: Turn, endpoint: Endpoint, name: str, arguments: JSONObject | None, *, mirrored: bool
    ) -> Awaitable[str]:
        """Call it; return the exchange's outcome."""


class Search:
    """The three tools of an aggregate."""

    def __init__(self, decider: Decider, *, catalog: Catalog, views: Views, calls: Calls) -> None:
        self._decider = decider
        self._catalog = catalog
        self._views = views
        self._calls = calls
        self._schemas = {name: Schema(one.value["inputSchema"]) for name, one in OWN.items()}

    async def list(self, turn: Turn, endpoint: Endpoint) -> str:
        """Answer ``tools/list``: the three, on one page."""
        call, principal = turn.call, turn.principal
        resource = self._catalog.resource(principal, endpoint)
        scope = resource.properties["scope"]
        facts = {"effect_class": READ, "scope": scope, "pin": "approved", "state": resource.properties["state"]}
        items: JSONObject = {"items": [{"id": name, **facts} for name in OWN]}
        shown: list[JSON] = [lists.shown(one, call.era, name) for name, one in OWN.items()]
        body = bridge.listed(call.id, call.era, "tools", shown, "", 0)
        return await self._decider.tell(turn, Point.MCP_TOOL_LISTED, resource, body, arguments=items)

    async def call(self, turn: Turn, endpoint: Endpoint, name: str, arguments: JSONObject) -> str:
        """Answer a call of one of the three. Raises Malformed("params_invalid"), UpstreamFault, Refused."""
        fits = self._schemas[name].check(arguments)
        if name == "call_tool":
            inner, given = arguments.get("name"), arguments.get("arguments")
            if fits != "ok" or not isinstance(inner, str):
                raise Malformed("params_invalid")
            inward = given if isinstance(given, dict) else None
            return await self._calls.call_tool(turn, endpoint, inner, inward, mirrored=False)
        resource = self._resource(turn.principal, endpoint, name, fits)
        params: JSONObject = {"name": name, "arguments": arguments}
        refusal = await self._decider.ask(turn, Point.MCP_TOOL_CALL, resource, params, arguments=arguments)
        if refusal is not None:
            return await turn.refuse(refusal, tool_call=True)
        if fits != "ok":
            raise Malformed("params_invalid")
        shelf, names = await self._views.visible(turn.principal, endpoint, "tool", turn.exchange)
        if name == "describe_tool":
            return await self._describe(turn, endpoint, resource, shelf, names, str(arguments["name"]))
        limit = arguments.get("limit", FOUND)
        found = ranked(shelf.entries, names, str(arguments["query"]))
        shown: list[JSON] = [
            _line(shelf.entries[one], one) for one in found[: limit if isinstance(limit, int) else FOUND]
        ]
        return await self._tell(turn, resource, {"tools": shown, "total": len(found)})

    async def _describe(
        self, turn: Turn, endpoint: Endpoint, resource: Resource, shelf: Shelf, names: Sequence[str], name: str
    ) -> str:
        if name not in names:
            return await self._tell(turn, resource, {"error": "No such tool is available."}, failed=True)
        (shown,) = self._views.shown(turn.principal, endpoint, shelf, [name], turn.call.era)
        return await self._tell(turn, resource, {"tool": shown})

    async def _tell(self, turn: Turn, resource: Resource, value: JSONObject, *, failed: bool = False) -> str:
        call = turn.call
        text = strict_json.dumps(value).decode()
        result: JSONObject = {"content": [{"type": "text", "text": text}], "structuredContent": value}
        if failed:
            result["isError"] = True
        if call.era == MODERN:
            result["resultType"] = "complete"
        body = jsonrpc.build_response(call.id, result)
        action = response(Point.MCP_TOOL_RESULT, turn.principal, call.method, resource, body, version=call.version)
        outcome, verdict = await self._decider.send(turn, action, tool_call=True)
        return outcome if isinstance(verdict, Cleared) else "refused"

    def _resource(self, principal: Principal, endpoint: Endpoint, name: str, schema: Verdict) -> Resource:
        """Return one of the three as policy sees it: ours, and for whoever holds a read scope of the aggregate.

        What a search tells was approved definition by definition, so the tools count as trusted.
        """
        whole = self._catalog.resource(principal, endpoint)
        facts: JSONObject = {
            **whole.properties,
            "trust": "trusted",
            "effect_class": READ,
            "pin": "approved",
            "hash": OWN[name].digest,
            "schema": schema,
        }
        return Resource("mcp_tool", f"mcp/{name}", "", facts)


def ranked(entries: Mapping[str, Entry], names: Sequence[str], query: str) -> list[str]:
    """Return the names that any word of a query fits, the best first; all of them for a query without words.

    A word counts most as a part of the name, then of the title, then of the description. Order among
    equals is that of the list.
    """
    words = _words(query)[:WORDS]
    if not words:
        return list(names)
    scored = [(_score(name, entries[name].definition.value, words), name) for name in names]
    return [name for score, name in sorted(scored, key=lambda pair: (-pair[0], pair[1])) if score > 0]


def _score(name: str, value: JSONObject, words: Sequence[str]) -> int:
    parts = set(_words(name))
    folded = name.casefold()
    title, about = (str(value.get(key, "")).casefold() for key in ("title", "description"))
    return sum(8 * (word in parts) + 4 * (word in folded) + 2 * (word in title) + (word in about) for word in words)


def _words(text: str) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in text.casefold()).split()


def _line(entry: Entry, name: str) -> JSONObject:
    value = entry.definition.value
    out: JSONObject = {"name": name}
    for key in ("title", "description"):
        text = value.get(key)
        if isinstance(text, str):
            out[key] = text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + " …"
    return out
