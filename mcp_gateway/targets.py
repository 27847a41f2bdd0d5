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
from mcp_gateway import bridge
from mcp_gateway.bridge import Opened
from mcp_gateway.headers import ParamMap
from mcp_gateway.inventory import Tool
from mcp_gateway.message import Call
from mcp_gateway.schema import Verdict
from mcp_gateway.settings import UpstreamSpec


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

    @property
    def mirrors(self) -> ParamMap | None:
        """Which arguments travel as ``Mcp-Param-*`` headers; None for all but tools."""

    def upstream_params(self, call: Call) -> JSONObject:
        """Return the parameters for the upstream: a closed list, names and URIs translated to its own."""

    def arguments(self) -> JSONObject:
        """Return what rules read of the request: the same object that stands in the body."""

    def asking(self) -> Resource:
        """Return the facts for the request's decision, the arguments' schema verdict among them."""

    def result(self, call: Call, result: JSON, said: Opened) -> tuple[JSONObject, Resource]:
        """Return the whole message for the client and its facts. Raises Malformed("result_shape")."""


class ToolTarget:
    """``tools/call`` of one tool.

    facts: schema verdict → the tool's Resource with present facts.
    """

    __slots__ = ("_arguments", "_facts", "tool")

    method: Final = "tools/call"
    asked: Final = Point.MCP_TOOL_CALL
    answered: Final = Point.MCP_TOOL_RESULT

    def __init__(self, tool: Tool, arguments: JSONObject | None, facts: Callable[[Verdict], Resource]) -> None:
        self.tool = tool
        self._arguments = arguments
        self._facts = facts

    @property
    def spec(self) -> UpstreamSpec:
        """See Target.spec."""
        return self.tool.spec

    @property
    def mirrors(self) -> ParamMap | None:
        """See Target.mirrors."""
        return self.tool.definition.params

    def upstream_params(self, call: Call) -> JSONObject:
        """See Target.upstream_params."""
        del call
        params: JSONObject = {"name": self.tool.definition.name}
        if self._arguments is not None:
            params["arguments"] = self._arguments
        return params

    def arguments(self) -> JSONObject:
        """See Target.arguments."""
        return self._arguments if self._arguments is not None else {}

    def asking(self) -> Resource:
        """See Target.asking."""
        return self._facts(self.tool.check_arguments(self.arguments()))

    def result(self, call: Call, result: JSON, said: Opened) -> tuple[JSONObject, Resource]:
        """See Target.result."""
        message = bridge.tool_result(call.id, call.era, result, said.server_info)
        return message, self._facts(self.tool.check_result(result))
