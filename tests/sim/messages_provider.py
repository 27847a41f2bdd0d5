"""An Anthropic-compatible provider that misbehaves: the model's name says how, as in `tests.sim.provider`."""

import json
from dataclasses import dataclass, field

from tests.sim.provider import INSTRUCTION_TAGS, MARKUP, SECRET, TEXT, Provider

USAGE = {"input_tokens": 5, "cache_read_input_tokens": 2, "cache_creation_input_tokens": 0, "output_tokens": 5}
SIGNATURE = "EqQBCkYIARgCKkC5c2lnbmVkIGJ5IG5vYm9keSBhdCBhbGw="
ADDRESS = "http://169.254.169.254/latest/meta-data"


def start(**extra) -> dict:
    usage = {"input_tokens": 5, "cache_read_input_tokens": 2, "output_tokens": 1}
    message = {"id": "msg_up", "type": "message", "role": "assistant", "model": "up", "content": [], "usage": usage}
    return {"type": "message_start", "message": {**message, "stop_reason": None, "stop_sequence": None, **extra}}


def opened(index, kind, **members) -> dict:
    return {"type": "content_block_start", "index": index, "content_block": {"type": kind, **members}}


def piece(index, kind, **members) -> dict:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **members}}


def closed(index) -> dict:
    return {"type": "content_block_stop", "index": index}


def ended(reason="end_turn", **extra) -> dict:
    delta = {"stop_reason": reason, "stop_sequence": None, **extra}
    return {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 5}}


def text(index, *parts) -> list[dict]:
    return [opened(index, "text", text=""), *(piece(index, "text_delta", text=p) for p in parts), closed(index)]


def thinking(index, *parts) -> list[dict]:
    return [
        opened(index, "thinking", thinking="", signature=""),
        *(piece(index, "thinking_delta", thinking=p) for p in parts),
        piece(index, "signature_delta", signature=SIGNATURE),
        closed(index),
    ]


def call(index, *parts, name="get_time", call_id="toolu_1", given=None) -> list[dict]:
    begin = opened(index, "tool_use", id=call_id, name=name, input=given or {})
    return [begin, *(piece(index, "input_json_delta", partial_json=p) for p in parts), closed(index)]


STOP = {"type": "message_stop"}
PING = {"type": "ping"}
END = [ended(), STOP]
CALLED = [ended("tool_use"), STOP]
HIDDEN = "fine" + INSTRUCTION_TAGS
REDACTED = "EmwKAhgBEgy3va3pzix_opaque_to_everybody"

STREAMS: dict[str, list] = {
    "ok": [start(), PING, *text(0, *TEXT), *END],
    "no-usage": [start(usage=None), *text(0, *TEXT), {**ended(), "usage": None}, STOP],
    "secret-split": [start(), *text(0, "the key is " + SECRET[:9], SECRET[9:] + " ok"), *END],
    "secret-blocks": [start(), *text(0, "the key is " + SECRET[:9]), *text(1, SECRET[9:] + " ok"), *END],
    "secret-apart": [start(), *text(0, SECRET[:9]), *thinking(1, "hm"), *text(2, SECRET[9:]), *END],
    "secret-glued": [start(), *thinking(0, "hmx"), *text(1, SECRET + " ok"), *END],
    "hidden": [start(), *text(0, HIDDEN, " text"), *END],
    "markup": [start(), *text(0, MARKUP), *END],
    "thinking": [start(), *thinking(0, "Let me ", "think."), *text(1, "Done."), *END],
    "thinking-secret": [start(), *thinking(0, "the key is " + SECRET[:9], SECRET[9:] + " ok"), *text(1, "Hi."), *END],
    "thinking-hidden": [start(), *thinking(0, HIDDEN), *text(1, "Hi."), *END],
    "redacted-thinking": [start(), opened(0, "redacted_thinking", data=REDACTED), closed(0), *text(1, "Hi."), *END],
    "call": [start(), *text(0, "Let me look."), *call(1, "", '{"zone":', '"UTC"}'), *CALLED],
    "call-given": [start(), *call(0, given={"zone": "UTC"}), *CALLED],
    "call-bare": [start(), *call(0), *CALLED],
    "call-two": [
        start(),
        *call(0, '{"zone":"UTC"}'),
        *thinking(1, "Now the file."),
        *call(2, '{"path":"a"}', name="read_file", call_id="toolu_2"),
        *CALLED,
    ],
    "call-redacted": [
        start(),
        *call(0, "{}"),
        opened(1, "redacted_thinking", data=REDACTED),
        closed(1),
        *call(2, "{}", name="read_file", call_id="toolu_2"),
        *CALLED,
    ],
    "call-late-secret": [start(), *call(0, "{}"), *thinking(1, f"the key is {SECRET} ok"), *CALLED],
    "call-late-text": [start(), *call(0, "{}"), *text(1, "And ", "so."), *CALLED],
    "call-secret": [start(), *text(0, "Hi."), *call(1, '{"zone":"\\u0041' + SECRET[1:8], SECRET[8:] + '"}'), *CALLED],
    "call-address": [start(), *call(0, json.dumps({"zone": ADDRESS})), *CALLED],
    "call-markup": [start(), *call(0, json.dumps({"zone": MARKUP})), *CALLED],
    "call-cut": [start(), *call(0, '{"zone":"U'), ended("max_tokens"), STOP],
    "call-cut-bare": [start(), *call(0), ended("max_tokens"), STOP],
    "call-invalid": [start(), *call(0, "{not json"), *CALLED],
    "call-duplicate": [start(), *call(0, '{"zone":"a","zone":"b"}'), *CALLED],
    "call-unoffered": [start(), *call(0, "{}", name="delete_everything"), *CALLED],
    "call-same-id": [start(), *call(0, "{}"), *call(1, "{}"), *CALLED],
    "call-two-inputs": [start(), *call(0, "{}", given={"zone": "UTC"}), *CALLED],
    "server-tool": [start(), opened(0, "server_tool_use", id="s", name="web_search", input={}), closed(0), *END],
    "server-result": [start(), opened(0, "web_search_tool_result", tool_use_id="s", content=[]), closed(0), *END],
    "citations": [
        start(),
        opened(0, "text", text=""),
        piece(0, "text_delta", text="hi"),
        piece(0, "citations_delta", citation={"type": "char_location", "cited_text": SECRET}),
        closed(0),
        *END,
    ],
    "unknown-event": [start(), {"type": "message_note", "text": SECRET}, *text(0, "hi"), *END],
    "foreign-members": [start(container={"id": SECRET}), *text(0, "hi"), ended(container={"id": SECRET}), STOP],
    "foreign-stop": [start(), *text(0, "hi"), ended("stop_sequence", stop_sequence=SECRET), STOP],
    "own-stop": [start(), *text(0, "hi"), ended("stop_sequence", stop_sequence="END"), STOP],
    "two-starts": [start(), start(), *text(0, "x"), *END],
    "no-start": [*text(0, "x"), *END],
    "start-content": [start(content=[{"type": "text", "text": SECRET}]), *END],
    "wrong-index": [start(), *text(1, "x"), *END],
    "open-twice": [start(), opened(0, "text", text=""), opened(1, "text", text=""), *END],
    "wrong-delta": [start(), opened(0, "text", text=""), piece(0, "input_json_delta", partial_json="{}"), *END],
    "unknown-delta": [start(), opened(0, "text", text=""), piece(0, "audio_delta", data="x"), *END],
    "end-inside": [start(), opened(0, "text", text="x"), *END],
    "after-end": [start(), *text(0, "x"), ended(), *text(1, SECRET), STOP],
    "no-reason": [start(), *text(0, "x"), STOP],
    "start-only": [start()],
    "nothing": [],
    "error-bare": [start(), *text(0, "x"), {"type": "error"}, *END],
    "error-midway": [
        start(),
        *text(0, *TEXT),
        {"type": "error", "error": {"type": "overloaded_error", "message": "overloaded, leaked " + SECRET}},
    ],
}


def whole(*blocks, reason="end_turn", **extra) -> dict:
    base = {"id": "msg_up", "type": "message", "role": "assistant", "model": "up", "stop_sequence": None}
    return {**base, "content": [*blocks], "stop_reason": reason, "usage": USAGE, **extra}


def said(value) -> dict:
    return {"type": "text", "text": value}


def used(arguments, name="get_time", call_id="toolu_1") -> dict:
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}


def thought(value) -> dict:
    return {"type": "thinking", "thinking": value, "signature": SIGNATURE}


WHOLES: dict[str, dict] = {
    "ok": whole(said("".join(TEXT))),
    "no-usage": whole(said("".join(TEXT)), usage=None),
    "secret-split": whole(said(f"the key is {SECRET} ok")),
    "secret-blocks": whole(said("the key is " + SECRET[:9]), said(SECRET[9:] + " ok")),
    "secret-apart": whole(said(SECRET[:9]), thought("hm"), said(SECRET[9:])),
    "hidden": whole(said(HIDDEN)),
    "markup": whole(said(MARKUP)),
    "thinking": whole(thought("Let me think."), said("Done.")),
    "thinking-secret": whole(thought(f"the key is {SECRET} ok"), said("Hi.")),
    "thinking-hidden": whole(thought(HIDDEN), said("Hi.")),
    "redacted-thinking": whole({"type": "redacted_thinking", "data": REDACTED}, said("Hi.")),
    "call": whole(said("Let me look."), used({"zone": "UTC"}), reason="tool_use"),
    "call-secret": whole(used({"zone": SECRET}), reason="tool_use"),
    "call-address": whole(used({"zone": ADDRESS}), reason="tool_use"),
    "call-markup": whole(used({"zone": MARKUP}), reason="tool_use"),
    "call-unoffered": whole(used({}, "delete_everything"), reason="tool_use"),
    "call-same-id": whole(used({}), used({}), reason="tool_use"),
    "call-cut": whole(said("Hm."), used({"zone": "U"}), reason="max_tokens"),
    "server-tool": whole({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}),
    "citations": whole({**said("hi"), "citations": [{"type": "char_location", "cited_text": SECRET}]}),
    "foreign-members": whole(said("hi"), container={"id": SECRET}, stop_details={"explanation": SECRET}),
    "foreign-stop": whole(said("hi"), reason="stop_sequence", stop_sequence=SECRET),
    "empty": {"type": "message", "role": "assistant"},
    "bare": {"content": [said("hi")]},
}

STATUS: dict[str, tuple[int, dict, list]] = {
    "err400": (400, {"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long"}}, []),
    "err401": (401, {"type": "error", "error": {"type": "authentication_error", "message": "key sk-live-abc"}}, []),
    "err404": (404, {"type": "error", "error": {"type": "not_found_error", "message": "model: up"}}, []),
    "err429": (
        429,
        {"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}},
        [(b"retry-after", b"7")],
    ),
    "err529": (529, {"type": "error", "error": {"type": "overloaded_error", "message": "at /srv/secret"}}, []),
}


@dataclass
class MessagesProvider(Provider):
    """The ASGI application; ends its streams by itself."""

    streams: dict = field(default_factory=lambda: STREAMS)
    wholes: dict = field(default_factory=lambda: WHOLES)
    status: dict = field(default_factory=lambda: STATUS)
    plain: list = field(default_factory=lambda: [start(), opened(0, "text", text=""), piece(0, "text_delta", text="x")])

    def frame(self, event) -> bytes:
        return b"event: " + event["type"].encode() + b"\n" + super().frame(event)

    def last(self) -> bytes:
        return b": \n\n"
