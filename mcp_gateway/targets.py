"""What calls differ in: one Target per object that a request is about. Pure.

`relay` carries every request that reaches an upstream in the same way; what it must know of the
object stands here: the parameters that travel (a closed list per method, the upstream's own names),
the facts that policy reads, and what a result must look like to be passed on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from firewall.core.action import Resource
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.points import Point
from mcp_gateway import content, lists, uris
from mcp_gateway.action import UpstreamHeaders
from mcp_gateway.bridge import Opened
from mcp_gateway.content import TTL_MS, Outward
from mcp_gateway.entries import Entry, Tool
from mcp_gateway.message import Call
from mcp_gateway.schema import Verdict
from mcp_gateway.settings import UpstreamSpec
from mcp_gateway.shelf import Address
from mcp_gateway.versions import MODERN


class Target(Protocol):
    """One request's object. ``asking`` and ``result`` raise StateUnavailable when facts cannot be read."""

    @property
    def spec(self) -> UpstreamSpec:
        """The upstream that holds the object."""

    @property
    def method(self) -> str:
        """The wire's method."""

    @property
    def asked(self) -> Point:
        """The point of the request."""

    @property
    def answered(self) -> Point:
        """The point of its result."""

    def headers(self, version: str) -> UpstreamHeaders:
        """Return what makes the request's HTTP headers in a revision; of tools, arguments travel as such too."""

    def upstream_params(self, call: Call) -> JSONObject:
        """Return the parameters for the upstream: a closed list, names and URIs translated to its own; a new object."""

    @property
    def arguments(self) -> JSONObject:
        """Return what rules read of the request: the same object that stands in the body."""

    def asking(self) -> Resource:
        """Return the facts for the request's decision, the arguments' schema verdict among them."""

    def result(self, call: Call, result: JSON, said: Opened) -> tuple[JSONObject, Resource]:
        """Return the whole message for the client and its facts. Raises Malformed("result_shape")."""


class ToolTarget:
    """``tools/call`` of one tool.

    facts: schema verdict → the tool's Resource with present facts. outward: how the endpoint tells the
    upstream's URIs; None: as they are. extensions: those that this request declares upstream.
    """

    __slots__ = ("_facts", "_given", "arguments", "extensions", "headers", "outward", "spec", "tool")

    method: Final = "tools/call"
    asked: Final = Point.MCP_TOOL_CALL
    answered: Final = Point.MCP_TOOL_RESULT

    def __init__(
        self, tool: Tool, arguments: JSONObject | None, facts: Callable[[Verdict], Resource], outward: Outward = None
    ) -> None:
        self.tool = tool
        self.spec = tool.spec
        self._given = arguments is not None  # what is not given is not sent
        self.arguments: JSONObject = arguments if arguments is not None else {}
        self._facts = facts
        self.outward = outward
        self.extensions: JSONObject = {}
        self.headers = tool.headers  # see Target.headers

    def upstream_params(self, call: Call) -> JSONObject:
        """See Target.upstream_params."""
        del call
        params: JSONObject = {"name": self.tool.definition.name}
        if self._given:
            params["arguments"] = self.arguments
        return params

    def asking(self) -> Resource:
        """See Target.asking."""
        schema = self.tool.given
        fits = schema.check(self.arguments) if schema is not None else self.tool.check_arguments(self.arguments)
        return self._facts(fits)

    def result(self, call: Call, result: JSON, said: Opened) -> tuple[JSONObject, Resource]:
        """See Target.result."""
        message = content.tool_result(call.id, call.era, result, said.server_info, self.outward, self.spec.apps)
        return content.readable(message, call.version), self._facts(self.tool.check_result(result))


class _Reading:
    """What the targets of prompts, resources and completions have in common: one entry, nothing mirrored.

    extensions: those that this request declares upstream (`capabilities.extended`).
    """

    __slots__ = ("_facts", "entry", "extensions", "spec")

    def __init__(self, entry: Entry, facts: Callable[[Verdict], Resource]) -> None:
        self.entry = entry
        self.spec = entry.spec
        self._facts = facts
        self.extensions: JSONObject = {}

    def headers(self: Target, version: str) -> UpstreamHeaders:
        """See Target.headers."""
        return UpstreamHeaders(self.method, version)


class PromptTarget(_Reading):
    """``prompts/get`` of one prompt; its arguments fit when they are declared, are text and none is missing."""

    __slots__ = ("_arguments", "_outward")

    method: Final = "prompts/get"
    asked: Final = Point.MCP_PROMPT_GET
    answered: Final = Point.MCP_PROMPT_RESULT

    def __init__(
        self, entry: Entry, arguments: JSONObject | None, facts: Callable[[Verdict], Resource], outward: Outward = None
    ) -> None:
        super().__init__(entry, facts)
        self._arguments = arguments
        self._outward = outward

    def upstream_params(self, call: Call) -> JSONObject:
        """See Target.upstream_params."""
        del call
        params: JSONObject = {"name": self.entry.definition.name}
        if self._arguments is not None:
            params["arguments"] = self._arguments
        return params

    @property
    def arguments(self) -> JSONObject:
        """See Target.arguments."""
        return self._arguments if self._arguments is not None else {}

    def asking(self) -> Resource:
        """See Target.asking."""
        return self._facts("ok" if lists.prompt_fits(self.entry.definition, self.arguments) else "mismatch")

    def result(self, call: Call, result: JSON, said: Opened) -> tuple[JSONObject, Resource]:
        """See Target.result."""
        message = content.prompt_result(
            call.id, call.era, result, said.server_info, self._outward, self.entry.spec.apps
        )
        return content.readable(message, call.version), self._facts("none")


class ResourceTarget(_Reading):
    """``resources/read`` of one URI: a listed resource's own, or one that a listed template matches.

    address: the entry and the URI in the upstream's spelling, in normal form (`shelf.Index.within`).
    """

    __slots__ = ("_outward", "_uri")

    method: Final = "resources/read"
    asked: Final = Point.MCP_RESOURCE_READ
    answered: Final = Point.MCP_RESOURCE_RESULT

    def __init__(self, address: Address, facts: Callable[[Verdict], Resource], outward: Outward = None) -> None:
        super().__init__(address.entry, facts)
        self._uri = address.uri
        self._outward = outward

    def upstream_params(self, call: Call) -> JSONObject:
        """See Target.upstream_params."""
        del call
        return {"uri": self._uri}

    @property
    def arguments(self) -> JSONObject:
        """See Target.arguments."""
        return uri_arguments(self._uri)

    def asking(self) -> Resource:
        """See Target.asking."""
        return self._facts("ok")

    def result(self, call: Call, result: JSON, said: Opened) -> tuple[JSONObject, Resource]:
        """See Target.result."""
        ttl = result.get("ttlMs") if isinstance(result, dict) and said.era == MODERN else 0
        ttl_ms = ttl if isinstance(ttl, int) and not isinstance(ttl, bool) and 0 <= ttl <= TTL_MS else 0
        message = content.read_result(
            call.id, call.era, result, said.server_info, self._outward, self.entry.spec.apps, ttl_ms
        )
        return message, self._facts("none")


class CompletionTarget(_Reading):
    """``completion/complete`` for an argument of a prompt, or for a variable of a template."""

    __slots__ = ("_argument", "_context")

    method: Final = "completion/complete"
    asked: Final = Point.MCP_COMPLETION_ASK
    answered: Final = Point.MCP_COMPLETION_RESULT

    def __init__(
        self, entry: Entry, argument: JSONObject, context: JSONObject | None, facts: Callable[[Verdict], Resource]
    ) -> None:
        super().__init__(entry, facts)
        self._argument = argument
        self._context = context

    def upstream_params(self, call: Call) -> JSONObject:
        """See Target.upstream_params."""
        del call
        one = self.entry.definition
        ref: JSONObject = (
            {"type": "ref/prompt", "name": one.name}
            if one.kind == "prompt"
            else {"type": "ref/resource", "uri": one.name}
        )
        params: JSONObject = {"ref": ref, "argument": self._argument}
        if self._context is not None:
            params["context"] = {"arguments": self._context}
        return params

    @property
    def arguments(self) -> JSONObject:
        """See Target.arguments."""
        found: JSONObject = {"argument": self._argument}
        if self._context is not None:
            found["context"] = self._context
        return found

    def asking(self) -> Resource:
        """See Target.asking."""
        names = lists.argument_names(self.entry.definition)
        given = [self._argument["name"], *(self._context or ())]
        return self._facts("ok" if all(name in names for name in given) else "mismatch")

    def result(self, call: Call, result: JSON, said: Opened) -> tuple[JSONObject, Resource]:
        """See Target.result."""
        return content.completion_result(call.id, call.era, result, said.server_info), self._facts("none")


def uri_arguments(uri: str) -> JSONObject:
    """Return what rules read of a URI in normal form: itself, its scheme, its host and its decoded path."""
    parts = uris.check(uri)
    return {"uri": uri, "uri_scheme": parts.scheme, "uri_host": parts.host, "path": parts.path}


Ours = ToolTarget | PromptTarget | ResourceTarget | CompletionTarget
"""The targets of this file."""
