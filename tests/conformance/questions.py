"""What the test server asks its clients: forms, and the tools that answer ``input_required`` (2026-07-28)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import mcp_types as t


def form(*required: str, **properties: dict[str, Any]) -> dict[str, Any]:
    """Return the flat schema of a form."""
    return {"type": "object", "properties": properties, "required": list(required)}


def titled(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    """Return choices that have a title each."""
    return [{"const": value, "title": title} for value, title in pairs]


USER = form(
    username={"type": "string", "description": "User's response"},
    email={"type": "string", "description": "User's email address"},
)
DEFAULTS = form(
    name={"type": "string", "default": "John Doe"},
    age={"type": "integer", "default": 30},
    score={"type": "number", "default": 95.5},
    status={"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
    verified={"type": "boolean", "default": True},
)
THREE = ["option1", "option2", "option3"]
PAIRS = titled(("value1", "First Option"), ("value2", "Second Option"), ("value3", "Third Option"))
ENUMS = form(
    untitledSingle={"type": "string", "enum": THREE},
    titledSingle={"type": "string", "oneOf": PAIRS},
    legacyEnum={"type": "string", "enum": ["opt1", "opt2"], "enumNames": ["Option One", "Option Two"]},
    untitledMulti={"type": "array", "items": {"type": "string", "enum": THREE}},
    titledMulti={"type": "array", "items": {"anyOf": PAIRS}},
)
NAME = form("name", name={"type": "string"})
COLOUR = form("color", color={"type": "string"})
CONFIRM = form("ok", ok={"type": "boolean"})
CONTEXT = form("context", context={"type": "string"})


def ask(message: str, schema: dict[str, Any]) -> t.ElicitRequest:
    """Return a question to the client's user."""
    return t.ElicitRequest(params=t.ElicitRequestFormParams(message=message, requested_schema=schema))


def sample(prompt: str, most: int = 100) -> t.CreateMessageRequest:
    """Return a question to the client's model."""
    message = t.SamplingMessage(role="user", content=t.TextContent(type="text", text=prompt))
    return t.CreateMessageRequest(params=t.CreateMessageRequestParams(messages=[message], max_tokens=most))


def required(state: str | None = None, **asked: t.InputRequest) -> t.InputRequiredResult:
    """Return the result that asks."""
    return t.InputRequiredResult(input_requests=asked, request_state=state)


def field(answer: Any, name: str, otherwise: str = "?") -> Any:
    """Return one field of an accepted form."""
    content = answer.content if isinstance(answer, t.ElicitResult) else None
    return content.get(name, otherwise) if content else otherwise


class Round:
    """One attempt at a tool: what the client answered so far, and the state that it echoed."""

    def __init__(self, ctx: Any, params: Any) -> None:
        self.answers: dict[str, Any] = params.input_responses or {}
        self.state: str | None = params.request_state
        self.capabilities = ctx.session.client_capabilities


Outcome = str | t.InputRequiredResult


def _elicitation(now: Round) -> Outcome:
    if "user_name" in now.answers:
        return f"Hello, {field(now.answers['user_name'], 'name')}!"
    return required(user_name=ask("What is your name?", NAME))


def _sampling(now: Round) -> Outcome:
    answer = now.answers.get("capital_question")
    if isinstance(answer, t.CreateMessageResult):
        return f"The model said: {answer.content.text if answer.content.type == 'text' else '?'}"
    return required(capital_question=sample("What is the capital of France?"))


def _roots(now: Round) -> Outcome:
    answer = now.answers.get("client_roots")
    if isinstance(answer, t.ListRootsResult):
        return f"The client showed {len(answer.roots)} root(s)."
    return required(client_roots=t.ListRootsRequest())


def _state(now: Round) -> Outcome:
    if "confirm" in now.answers and now.state == "kept-by-the-client":
        return "state-ok: confirmed"
    return required("kept-by-the-client", confirm=ask("Please confirm", CONFIRM))


def _several(now: Round) -> Outcome:
    if now.answers.keys() >= {"user_name", "greeting", "client_roots"}:
        return "All three were answered."
    return required(
        "three-questions",
        user_name=ask("What is your name?", NAME),
        greeting=sample("Write a greeting", 50),
        client_roots=t.ListRootsRequest(),
    )


def _rounds(now: Round) -> Outcome:
    state = json.loads(now.state) if now.state else {}
    if state.get("round") == 1 and "step1" in now.answers:
        name = field(now.answers["step1"], "name")
        kept = json.dumps({"round": 2, "name": name})
        return required(kept, step2=ask("Step 2: What is your favourite colour?", COLOUR))
    if state.get("round") == 2 and "step2" in now.answers:
        return f"{state['name']} likes {field(now.answers['step2'], 'color')}."
    return required(json.dumps({"round": 1}), step1=ask("Step 1: What is your name?", NAME))


def _tampered(now: Round) -> Outcome:
    # The SDK's seal on the state refuses a changed one before it comes here.
    if now.state is None:
        return required("round-1", confirm=ask("Please confirm", CONFIRM))
    return f"state-ok: {now.state}"


def _capabilities(now: Round) -> Outcome:
    able = now.capabilities
    asked: dict[str, t.InputRequest] = {}
    if able is None or able.sampling is not None:
        asked["sample"] = sample("Say hello", 50)
    if able is None or able.elicitation is not None:
        asked["ask"] = ask("What is your name?", NAME)
    return required("as-far-as-declared", **asked)


def _link(now: Round) -> Outcome:
    answer = now.answers.get("page")
    if isinstance(answer, t.ElicitResult):
        return f"The user said: {answer.action}"
    asked = t.ElicitRequestURLParams(message="Sign in there", url="https://sign-in.example/start", elicitation_id="e1")
    return required(page=t.ElicitRequest(params=asked))


PREFIX = "test_input_required_result_"
TOOLS: dict[str, Callable[[Round], Outcome]] = {
    PREFIX + "elicitation": _elicitation,
    PREFIX + "sampling": _sampling,
    PREFIX + "list_roots": _roots,
    PREFIX + "request_state": _state,
    PREFIX + "multiple_inputs": _several,
    PREFIX + "multi_round": _rounds,
    PREFIX + "tampered_state": _tampered,
    PREFIX + "capabilities": _capabilities,
    PREFIX + "url": _link,
}


def prompt(now: Round) -> Outcome:
    """``test_input_required_result_prompt``: a prompt that asks before it answers."""
    if "user_context" in now.answers:
        return f"Use the following context: {field(now.answers['user_context'], 'context')}"
    return required(user_context=ask("What context should the prompt use?", CONTEXT))
