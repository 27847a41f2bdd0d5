"""Calls that may become tasks, and the waiting for a task's result, as Targets of `relay`.

A server answers a ``tools/call`` with its result or with a task; which of the two it is decides at which
point the answer is judged, so ``answered`` is settled by `result` (`relay` reads it afterwards).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from firewall.core.action import Resource
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.points import Point
from firewall.wire import jsonrpc
from mcp_gateway import content, tasks
from mcp_gateway.action import UpstreamHeaders
from mcp_gateway.bridge import Opened
from mcp_gateway.content import Outward
from mcp_gateway.entries import Tool
from mcp_gateway.message import Call
from mcp_gateway.schema import Verdict
from mcp_gateway.settings import UpstreamSpec
from mcp_gateway.targets import ToolTarget
from mcp_gateway.tasks import CORE, Shape, Task
from mcp_gateway.tasks_table import Entry

Claim = Callable[[Task], Entry]
"""Notes a task for the caller; raises Malformed, StateUnavailable."""


class TaskableTarget:
    """``tools/call`` that the server may answer with a task of one shape.

    ttl_ms: what a 2025-11-25 client asks for; None leaves it open. facts: schema verdict → present facts.
    """

    method: Final = "tools/call"
    asked: Final = Point.MCP_TOOL_CALL

    def __init__(
        self, inner: ToolTarget, shape: Shape, claim: Claim, facts: Callable[[Verdict], Resource], ttl_ms: int | None
    ) -> None:
        self._inner = inner
        self._shape = shape
        self._claim = claim
        self._facts = facts
        self._ttl_ms = ttl_ms
        self.answered = Point.MCP_TOOL_RESULT

    @property
    def spec(self) -> UpstreamSpec:
        """See Target.spec."""
        return self._inner.spec

    def headers(self, version: str) -> UpstreamHeaders:
        """See Target.headers."""
        return self._inner.headers(version)

    @property
    def extensions(self) -> JSONObject:
        """The extensions that this request declares upstream."""
        return {} if self._shape == CORE else {tasks.EXTENSION_ID: {}}

    def upstream_params(self, call: Call) -> JSONObject:
        """See Target.upstream_params."""
        params = self._inner.upstream_params(call)
        if self._shape == CORE:
            params["task"] = {} if self._ttl_ms is None else {"ttl": self._ttl_ms}
        return params

    @property
    def arguments(self) -> JSONObject:
        """See Target.arguments."""
        return self._inner.arguments

    def asking(self) -> Resource:
        """See Target.asking."""
        return self._inner.asking()

    def result(self, call: Call, result: JSON, said: Opened) -> tuple[JSONObject, Resource]:
        """See Target.result. A result that announces a task becomes one of ours; raises StateUnavailable too."""
        shape = tasks.shape_of(result)
        if shape is None:
            return self._inner.result(call, result, said)
        if shape != self._shape:
            raise Malformed("result_shape", "a task of a shape that was not asked for")
        task, immediate = tasks.announced(result, shape)
        self.answered = Point.MCP_TASK_STATUS
        body = tasks.announcement(task, self._claim(task).id, shape, immediate)
        return jsonrpc.build_response(call.id, body), self._facts("none")


class ResultTarget:
    """``tasks/result``: the server holds its answer back until the task is over; it is the tool's result.

    ours: the task's id here, "" when the client asked for the result itself and knows of no task.
    outward: how the endpoint tells the upstream's URIs.
    """

    method: Final = "tasks/result"
    asked: Final = Point.MCP_TASK_GET
    answered: Final = Point.MCP_TOOL_RESULT

    def __init__(
        self,
        spec: UpstreamSpec,
        tool: Tool | None,
        theirs: str,
        ours: str,
        facts: Callable[[Verdict], Resource],
        outward: Outward = None,
    ) -> None:
        self.spec = spec
        self._outward = outward
        self._tool = tool
        self._theirs = theirs
        self._ours = ours
        self._facts = facts

    @property
    def related(self) -> JSONObject:
        """The ``_meta`` of every message that belongs to the task (a MUST of 2025-11-25)."""
        return {tasks.RELATED: {"taskId": self._ours}} if self._ours else {}

    def headers(self, version: str) -> UpstreamHeaders:
        """See Target.headers."""
        return UpstreamHeaders(self.method, version)

    def upstream_params(self, call: Call) -> JSONObject:
        """See Target.upstream_params."""
        del call
        return {"taskId": self._theirs}

    @property
    def arguments(self) -> JSONObject:
        """See Target.arguments."""
        return {}

    def asking(self) -> Resource:
        """See Target.asking."""
        return self._facts("none")

    def result(self, call: Call, result: JSON, said: Opened) -> tuple[JSONObject, Resource]:
        """See Target.result."""
        message = content.tool_result(call.id, call.era, result, said.server_info, self._outward, self.spec.apps)
        message = content.readable(message, call.version)
        body = message["result"]
        assert isinstance(body, dict)
        if self._ours:
            message = jsonrpc.build_response(call.id, tasks.related(body, self._ours))
        return message, self._facts(self._tool.check_result(result) if self._tool else "none")
