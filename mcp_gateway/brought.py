"""Answers that stand in a request: those that it brought along before it was asked, and those that its retry brings; and questions as messages. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSONObject
from firewall.wire import jsonrpc
from mcp_gateway import questions
from mcp_gateway.questions import Answer, Question


def brought_by(params: JSONObject, asked: dict[str, Question], roots: Sequence[str]) -> dict[str, Answer]:
    """Return the answers that a first request brought to all of the questions, or none where one is missing or unfit.

    A server that gives no ``requestState`` keeps nothing between a question and its answer: to it, and so to its client, a
    retry is a request that brings answers (MCP 2026-07-28, multi round-trip requests). A server that has a state never
    gets an answer that came without it.
    """
    given = params.get("inputResponses")
    if "requestState" in params or not isinstance(given, dict) or not asked.keys() <= given.keys():
        return {}
    try:
        return {key: questions.answer(one, given[key], roots=roots) for key, one in asked.items()}
    except Malformed:
        return {}


def added(responses: JSONObject, state: str | None) -> JSONObject:
    """Return what a retry towards a modern upstream adds to its request. state: the upstream's own, None without one."""
    more: JSONObject = {"inputResponses": responses} if responses else {}
    if state is not None:
        more["requestState"] = state
    return more


def request_of(value: JSONObject) -> jsonrpc.Request | None:
    """Return a message that asks something, or None for one that does not."""
    try:
        message = jsonrpc.parse(value)
    except Malformed:
        return None
    return message if isinstance(message, jsonrpc.Request) else None
