"""A small model provider for demonstrations and tests: deterministic, offline, OpenAI- and Anthropic-compatible.

    python -m examples.demo_provider --port 8790 [--gap-ms 20] [--first-ms 200] [--key SECRET]

It serves ``/v1/chat/completions`` and ``/v1/messages`` (whole and streamed), and ``/v1/models``. There is
no model inside; the answer follows from the last message:

- tools are offered and the text asks for the time, or says ``call NAME`` → a call of that tool, its
  arguments made from the tool's own schema, streamed in pieces;
- a tool's result came back → a sentence that quotes it;
- ``say TEXT`` → TEXT; anything else → a sentence that quotes the question.

``gap-ms`` is the time between two pieces of a stream, ``first-ms`` the time before the first byte.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MODELS = ("demo-small", "demo-large")
CREATED = 1_767_225_600
QUOTED_CHARS = 400


@dataclass(frozen=True, slots=True)
class Reply:
    """What the provider says: text, or one tool call."""

    text: str = ""
    tool: str = ""
    arguments: str = "{}"

    def pieces(self) -> list[str]:
        """Return the text, or the arguments, cut as a model would stream it."""
        if self.tool:
            return [self.arguments[i : i + 7] for i in range(0, len(self.arguments), 7)]
        words = self.text.split(" ")
        return [word if i == 0 else " " + word for i, word in enumerate(words)]


@dataclass(frozen=True, slots=True)
class Question:
    """The part of a request, of either protocol, that decides the answer."""

    text: str
    is_result: bool
    tools: dict[str, dict[str, Any]]
    words: int


def answer(question: Question) -> Reply:
    """Return the reply to a question; the same question always gets the same reply."""
    text = question.text.strip()
    if question.is_result:
        return Reply(f"The tool answered: {text[:QUOTED_CHARS]}")
    lower = text.lower()
    if lower.startswith("say "):
        return Reply(text[4:])
    for name, schema in question.tools.items():
        asked = f"call {name}".lower() in lower or ("time" in lower.split() and "time" in name)
        if asked or ("what time" in lower and "time" in name):
            return Reply(tool=name, arguments=json.dumps(example(schema), separators=(",", ":")))
    return Reply(f"You asked: {text[:QUOTED_CHARS]} This is the demonstration provider, so that is all it knows.")


def example(schema: dict[str, Any]) -> dict[str, Any]:
    """Return arguments that fit a simple object schema: required members, or all where none is required."""
    properties = schema.get("properties") or {}
    wanted = schema.get("required") or list(properties)
    return {name: _value(name, properties.get(name) or {}) for name in wanted}


def _value(name: str, schema: dict[str, Any]) -> Any:
    if schema.get("enum"):
        return schema["enum"][0]
    if "default" in schema:
        return schema["default"]
    kinds = {"integer": 1, "number": 1.5, "boolean": True, "array": [], "object": {}}
    if schema.get("type") in kinds:
        return kinds[schema["type"]]
    return "Europe/Paris" if "zone" in name else "demo"


# -- OpenAI -------------------------------------------------------------------------------------------


def openai_question(body: dict[str, Any]) -> Question:
    """Return the question of a chat completions request."""
    last = body["messages"][-1]
    tools = {t["function"]["name"]: t["function"].get("parameters") or {} for t in body.get("tools") or []}
    text = _plain(last.get("content"))
    return Question(text, last["role"] == "tool", tools, sum(_words(m.get("content")) for m in body["messages"]))


def openai_whole(body: dict[str, Any], question: Question, reply: Reply) -> dict[str, Any]:
    """Return a whole chat completion."""
    message: dict[str, Any] = {"role": "assistant", "content": None if reply.tool else reply.text, "refusal": None}
    if reply.tool:
        function = {"name": reply.tool, "arguments": reply.arguments}
        message["tool_calls"] = [{"id": "call_demo_0", "type": "function", "function": function}]
    finish = "tool_calls" if reply.tool else "stop"
    return {
        "id": "chatcmpl-demo",
        "object": "chat.completion",
        "created": CREATED,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
        "usage": openai_usage(question, reply),
        "system_fingerprint": "fp_demo",
    }


def openai_usage(question: Question, reply: Reply) -> dict[str, int]:
    """Return token counts: one per word or piece."""
    made = len(reply.pieces())
    return {"prompt_tokens": question.words, "completion_tokens": made, "total_tokens": question.words + made}


def openai_events(body: dict[str, Any], question: Question, reply: Reply) -> list[bytes]:
    """Return a streamed chat completion, event by event."""
    base = {"id": "chatcmpl-demo", "object": "chat.completion.chunk", "created": CREATED, "model": body["model"]}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {**base, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}

    if reply.tool:
        first = {"index": 0, "id": "call_demo_0", "type": "function", "function": {"name": reply.tool, "arguments": ""}}
        chunks = [chunk({"role": "assistant", "content": None, "tool_calls": [first]})]
        chunks += [chunk({"tool_calls": [{"index": 0, "function": {"arguments": p}}]}) for p in reply.pieces()]
    else:
        chunks = [chunk({"role": "assistant", "content": ""})]
        chunks += [chunk({"content": piece}) for piece in reply.pieces()]
    chunks.append(chunk({}, "tool_calls" if reply.tool else "stop"))
    if (body.get("stream_options") or {}).get("include_usage"):
        chunks.append({**base, "choices": [], "usage": openai_usage(question, reply)})
    return [b"data: " + _dump(c) + b"\n\n" for c in chunks] + [b"data: [DONE]\n\n"]


# -- Anthropic -----------------------------------------------------------------------------------------


def anthropic_question(body: dict[str, Any]) -> Question:
    """Return the question of a messages request."""
    last = body["messages"][-1]
    blocks = last["content"] if isinstance(last["content"], list) else [{"type": "text", "text": last["content"]}]
    results = [b for b in blocks if b.get("type") == "tool_result"]
    text = _plain(results[-1].get("content")) if results else _plain(blocks)
    tools = {t["name"]: t.get("input_schema") or {} for t in body.get("tools") or []}
    return Question(text, bool(results), tools, sum(_words(m["content"]) for m in body["messages"]))


def anthropic_whole(body: dict[str, Any], question: Question, reply: Reply) -> dict[str, Any]:
    """Return a whole message."""
    block: dict[str, Any] = {"type": "text", "text": reply.text}
    if reply.tool:
        block = {"type": "tool_use", "id": "toolu_demo_0", "name": reply.tool, "input": json.loads(reply.arguments)}
    return {
        "id": "msg_demo",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [block],
        "stop_reason": "tool_use" if reply.tool else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": question.words, "output_tokens": len(reply.pieces())},
    }


def anthropic_events(body: dict[str, Any], question: Question, reply: Reply) -> list[bytes]:
    """Return a streamed message, event by event."""
    whole = anthropic_whole(body, question, reply)
    start = {**whole, "content": [], "stop_reason": None, "usage": {**whole["usage"], "output_tokens": 0}}
    block = {**whole["content"][0], **({"input": {}} if reply.tool else {"text": ""})}
    kind, member = ("input_json_delta", "partial_json") if reply.tool else ("text_delta", "text")
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": block},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": kind, member: p}} for p in reply.pieces()),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": whole["stop_reason"], "stop_sequence": None},
            "usage": {"output_tokens": len(reply.pieces())},
        },
        {"type": "message_stop"},
    ]
    return [b"event: " + e["type"].encode() + b"\ndata: " + _dump(e) + b"\n\n" for e in events]


# -- HTTP -------------------------------------------------------------------------------------------------


class DemoProvider:
    """The ASGI application. key: the only accepted credential; "" accepts everybody."""

    def __init__(self, *, gap_ms: float = 0, first_ms: float = 0, key: str = "") -> None:
        self.gap_s = gap_ms / 1000
        self.first_s = first_ms / 1000
        self.key = key

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        given = headers.get(b"authorization", b"").removeprefix(b"Bearer ") or headers.get(b"x-api-key", b"")
        if self.key and given != self.key.encode():
            await _json(send, 401, _error("authentication_error", "The key is not valid."))
            return
        route = (scope["method"], scope["path"])
        if route == ("GET", "/v1/models"):
            data = [{"id": m, "object": "model", "created": CREATED, "owned_by": "demo"} for m in MODELS]
            await _json(send, 200, {"object": "list", "data": data})
        elif route in (("POST", "/v1/chat/completions"), ("POST", "/v1/messages")):
            await self._complete(await _body(receive), scope["path"].endswith("/messages"), send)
        else:
            await _json(send, 404, _error("not_found_error", "There is nothing here."))

    async def _complete(self, raw: bytes, anthropic: bool, send: Send) -> None:
        try:
            body = json.loads(raw)
            question = anthropic_question(body) if anthropic else openai_question(body)
            if body["model"] not in MODELS:
                await _json(send, 404, _error("not_found_error", "The model does not exist."))
                return
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            await _json(send, 400, _error("invalid_request_error", "The request is not valid."))
            return
        reply = answer(question)
        await asyncio.sleep(self.first_s)
        if not body.get("stream"):
            await _json(send, 200, (anthropic_whole if anthropic else openai_whole)(body, question, reply))
            return
        events = (anthropic_events if anthropic else openai_events)(body, question, reply)
        head = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        async for event in self._paced(events):
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _paced(self, events: list[bytes]) -> AsyncIterator[bytes]:
        for place, event in enumerate(events):
            if place and self.gap_s:
                await asyncio.sleep(self.gap_s)
            yield event


def _plain(content: Any) -> str:
    if isinstance(content, list):
        return " ".join(part["text"] for part in content if part.get("type") == "text")
    return content or ""


def _words(content: Any) -> int:
    return len(_plain(content).split())


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _error(kind: str, text: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": text, "code": None, "param": None}}


async def _body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def _json(send: Send, status: int, value: Any) -> None:
    body = _dump(value)
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    """Serve until stopped."""
    import uvicorn

    parser = argparse.ArgumentParser(description="A deterministic model provider for demonstrations.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8790, help="0 takes any free port")
    parser.add_argument("--gap-ms", type=float, default=15, help="time between two pieces of a stream")
    parser.add_argument("--first-ms", type=float, default=0, help="time before the first byte of an answer")
    parser.add_argument("--key", default="", help="the only accepted key; none is asked for where it is empty")
    options = parser.parse_args()
    app = DemoProvider(gap_ms=options.gap_ms, first_ms=options.first_ms, key=options.key)
    listening = socket.create_server((options.host, options.port))
    origin = f"http://{options.host}:{listening.getsockname()[1]}"
    # One line for whoever started us: the base URLs that the openai and the anthropic client take.
    print(json.dumps({"url": f"{origin}/v1", "anthropic_url": origin}), flush=True)
    config = uvicorn.Config(app, log_level="warning", lifespan="off", access_log=False)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
