"""The closed set of points at which a decision is taken.

Every message of every protocol, in both directions, belongs to exactly one point; a gateway's
METHODS table maps (method, revision, direction) to one, and a message without one is refused.
`tests/core/test_points.py` walks this set and fails when a point has no user, no policy program
or no direction. Points whose room is not built yet are not listed: they arrive with their room.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal


class Point(StrEnum):
    """Where a decision is taken: protocol, object, moment."""

    # MCP, client → server
    MCP_SESSION_OPEN = "mcp.session.open"  # initialize, server/discover
    MCP_NOTIFY_CLIENT = "mcp.notify.client"  # notifications/initialized, /cancelled
    MCP_TOOL_LIST = "mcp.tool.list"
    MCP_TOOL_CALL = "mcp.tool.call"
    MCP_RESOURCE_LIST = "mcp.resource.list"  # resources/list, resources/templates/list
    MCP_RESOURCE_READ = "mcp.resource.read"
    MCP_RESOURCE_WATCH = "mcp.resource.watch"  # resources/subscribe, /unsubscribe, subscriptions/listen
    MCP_PROMPT_LIST = "mcp.prompt.list"
    MCP_PROMPT_GET = "mcp.prompt.get"
    MCP_COMPLETION_ASK = "mcp.completion.ask"
    MCP_TASK_GET = "mcp.task.get"  # tasks/get, tasks/result, tasks/list, tasks/update
    MCP_TASK_CANCEL = "mcp.task.cancel"
    # MCP, a client's answer to what a server asked it
    MCP_SAMPLING_ANSWER = "mcp.sampling.answer"
    MCP_ELICITATION_ANSWER = "mcp.elicitation.answer"
    MCP_ROOTS_ANSWER = "mcp.roots.answer"
    # MCP, server → client
    MCP_PONG = "mcp.pong"  # our own answer to ping
    MCP_SESSION_OPENED = "mcp.session.opened"  # instructions and capabilities
    MCP_TOOL_LISTED = "mcp.tool.listed"
    MCP_TOOL_RESULT = "mcp.tool.result"
    MCP_RESOURCE_LISTED = "mcp.resource.listed"
    MCP_RESOURCE_RESULT = "mcp.resource.result"
    MCP_PROMPT_LISTED = "mcp.prompt.listed"
    MCP_PROMPT_RESULT = "mcp.prompt.result"
    MCP_COMPLETION_RESULT = "mcp.completion.result"
    MCP_TASK_STATUS = "mcp.task.status"  # a task without its result; the result has the point of its method
    # MCP, what a server asks of the client: a request (legacy), an inputRequests entry (modern), -32042 data
    MCP_SAMPLING_ASK = "mcp.sampling.ask"
    MCP_ELICITATION_ASK = "mcp.elicitation.ask"
    MCP_ROOTS_ASK = "mcp.roots.ask"
    MCP_NOTIFY_SERVER = "mcp.notify.server"  # progress, message, list_changed
    MCP_ERROR = "mcp.error"  # an upstream's JSON-RPC error
    # A2A
    A2A_MESSAGE_SEND = "a2a.message.send"
    A2A_TASK_GET = "a2a.task.get"
    A2A_TASK_CANCEL = "a2a.task.cancel"
    A2A_MESSAGE_RECEIVE = "a2a.message.receive"
    A2A_TASK_UPDATE = "a2a.task.update"  # a Task, or a status or artifact event
    A2A_CARD_SERVE = "a2a.card.serve"
    A2A_ERROR = "a2a.error"
    # LLM
    LLM_REQUEST = "llm.request"
    LLM_RESPONSE = "llm.response"  # a whole answer, or one stream's text
    LLM_TOOL_CALL = "llm.tool_call"  # a complete tool call inside an answer
    LLM_MODELS = "llm.models"
    LLM_ERROR = "llm.error"
    # local programs that reach out through our egress proxy
    EGRESS_CONNECT = "egress.connect"
    # a client that describes itself (CIMD) asks to be known
    IDENTITY_CLIENT = "identity.client"
    # people who run the house, in the console, by API or at the operator's socket
    ADMIN_ACT = "admin.act"


Direction = Literal["request", "response"]


@dataclass(frozen=True, slots=True)
class PointInfo:
    """What is true of every Action at a point."""

    protocol: Literal["mcp", "a2a", "llm", "egress", "identity", "admin"]
    direction: Direction
    content: bool  # carries text that can reach a model or leave the house: it is inspected


INFO: Final[dict[Point, PointInfo]] = {
    Point.MCP_SESSION_OPEN: PointInfo("mcp", "request", True),
    Point.MCP_NOTIFY_CLIENT: PointInfo("mcp", "request", True),
    Point.MCP_TOOL_LIST: PointInfo("mcp", "request", True),
    Point.MCP_TOOL_CALL: PointInfo("mcp", "request", True),
    Point.MCP_RESOURCE_LIST: PointInfo("mcp", "request", True),
    Point.MCP_RESOURCE_READ: PointInfo("mcp", "request", True),
    Point.MCP_RESOURCE_WATCH: PointInfo("mcp", "request", True),
    Point.MCP_PROMPT_LIST: PointInfo("mcp", "request", True),
    Point.MCP_PROMPT_GET: PointInfo("mcp", "request", True),
    Point.MCP_COMPLETION_ASK: PointInfo("mcp", "request", True),
    Point.MCP_TASK_GET: PointInfo("mcp", "request", True),
    Point.MCP_TASK_CANCEL: PointInfo("mcp", "request", True),
    Point.MCP_SAMPLING_ANSWER: PointInfo("mcp", "request", True),
    Point.MCP_ELICITATION_ANSWER: PointInfo("mcp", "request", True),
    Point.MCP_ROOTS_ANSWER: PointInfo("mcp", "request", True),
    Point.MCP_PONG: PointInfo("mcp", "response", False),
    Point.MCP_SESSION_OPENED: PointInfo("mcp", "response", True),
    Point.MCP_TOOL_LISTED: PointInfo("mcp", "response", True),
    Point.MCP_TOOL_RESULT: PointInfo("mcp", "response", True),
    Point.MCP_RESOURCE_LISTED: PointInfo("mcp", "response", True),
    Point.MCP_RESOURCE_RESULT: PointInfo("mcp", "response", True),
    Point.MCP_PROMPT_LISTED: PointInfo("mcp", "response", True),
    Point.MCP_PROMPT_RESULT: PointInfo("mcp", "response", True),
    Point.MCP_COMPLETION_RESULT: PointInfo("mcp", "response", True),
    Point.MCP_TASK_STATUS: PointInfo("mcp", "response", True),
    Point.MCP_SAMPLING_ASK: PointInfo("mcp", "response", True),
    Point.MCP_ELICITATION_ASK: PointInfo("mcp", "response", True),
    Point.MCP_ROOTS_ASK: PointInfo("mcp", "response", True),
    Point.MCP_NOTIFY_SERVER: PointInfo("mcp", "response", True),
    Point.MCP_ERROR: PointInfo("mcp", "response", True),
    Point.A2A_MESSAGE_SEND: PointInfo("a2a", "request", True),
    Point.A2A_TASK_GET: PointInfo("a2a", "request", True),
    Point.A2A_TASK_CANCEL: PointInfo("a2a", "request", True),
    Point.A2A_MESSAGE_RECEIVE: PointInfo("a2a", "response", True),
    Point.A2A_TASK_UPDATE: PointInfo("a2a", "response", True),
    Point.A2A_CARD_SERVE: PointInfo("a2a", "response", True),
    Point.A2A_ERROR: PointInfo("a2a", "response", True),
    Point.LLM_REQUEST: PointInfo("llm", "request", True),
    Point.LLM_RESPONSE: PointInfo("llm", "response", True),
    Point.LLM_TOOL_CALL: PointInfo("llm", "response", True),
    Point.LLM_MODELS: PointInfo("llm", "response", True),
    Point.LLM_ERROR: PointInfo("llm", "response", True),
    Point.EGRESS_CONNECT: PointInfo("egress", "request", False),
    Point.IDENTITY_CLIENT: PointInfo("identity", "request", False),
    Point.ADMIN_ACT: PointInfo("admin", "request", False),
}

# The points of whole answers: one of these is the end of its exchange, if nothing goes wrong after it.
SETTLING: Final = frozenset(
    {
        Point.MCP_TOOL_RESULT,
        Point.MCP_RESOURCE_RESULT,
        Point.MCP_PROMPT_RESULT,
        Point.MCP_COMPLETION_RESULT,
        Point.MCP_ERROR,
    }
)
