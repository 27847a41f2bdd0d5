"""The messages of a request: what each role may say, rebuilt from the members named here. Pure.

- Images travel as ``data:`` URLs only: any other address is a beacon that the provider would fetch.
- Arguments of earlier tool calls are parsed and written again, so that no escape sequence hides from
  the scanner what the model will read.

Source: OpenAI Chat Completions as of openai 2.54.0; llm-routing reference §6.4, §6.6.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from llm_router.shape import CALLS, ID_CHARS, Rejected, is_name, read_arguments, text, write_arguments

MESSAGES: Final = 4096
PARTS: Final = 1024
# Media type → what the bytes must begin with: text that calls itself an image is not let past the scanner.
IMAGES: Final = {
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/gif": (b"GIF87a", b"GIF89a"),
    "image/webp": (b"RIFF",),
}
# Members that a message may have, by role. What an answer carried as null comes back as null.
_ROLES: Final[dict[str, frozenset[str]]] = {
    "system": frozenset({"role", "name", "content"}),
    "developer": frozenset({"role", "name", "content"}),
    "user": frozenset({"role", "name", "content"}),
    "assistant": frozenset({"role", "name", "content", "refusal", "tool_calls", "annotations"}),
    "tool": frozenset({"role", "content", "tool_call_id"}),
}


@dataclass(slots=True)
class Counts:
    """What was met: results of tools, images, and the characters of their URLs."""

    tool_outputs: int = 0
    images: int = 0
    image_chars: int = 0


def parse(value: JSON, counts: Counts) -> list[JSON]:
    """Return the checked messages, and count into ``counts``. Raises Rejected("messages")."""
    if not isinstance(value, list) or not 0 < len(value) <= MESSAGES:
        raise Rejected("messages")
    return [_message(item, counts) for item in value]


def without_images(messages: JSON) -> JSON:
    """Return checked messages with every image's bytes left out: what can be read as text.

    Random base64 now and then looks like a key; a picture is opaque to us and counted instead.
    """
    if not isinstance(messages, list):
        return messages
    out: list[JSON] = []
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(message, dict) and isinstance(content, list):
            message = {**message, "content": [_blank(part) for part in content]}
        out.append(message)
    return out


def _blank(part: JSON) -> JSON:
    image = part.get("image_url") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(image, dict):
        return part
    return {**part, "image_url": {**image, "url": ""}}


def _message(value: JSON, counts: Counts) -> JSONObject:
    role = value.get("role") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(role, str) or role not in _ROLES:
        raise Rejected("messages")
    given = {name: member for name, member in value.items() if member is not None}
    if not given.keys() <= _ROLES[role]:
        raise Rejected("messages")
    out: JSONObject = {"role": role}
    if "name" in given:
        out["name"] = text(given["name"], 256, "messages")
    if role == "assistant":
        return _assistant(given, out)
    kinds = ("text", "image_url") if role == "user" else ("text",)
    out["content"] = _content(given.get("content"), kinds, counts)
    if role == "tool":
        out["tool_call_id"] = text(given.get("tool_call_id"), ID_CHARS, "messages")
        counts.tool_outputs += 1
    return out


def _assistant(given: Mapping[str, JSON], out: JSONObject) -> JSONObject:
    if "content" in given:
        out["content"] = _content(given["content"], ("text", "refusal"), Counts())
    if "refusal" in given:
        if not isinstance(given["refusal"], str):
            raise Rejected("messages")
        out["refusal"] = given["refusal"]
    calls = given.get("tool_calls", [])
    if not isinstance(calls, list) or len(calls) > CALLS:
        raise Rejected("messages")
    if calls:
        out.setdefault("content", None)
        out["tool_calls"] = [_past_call(call) for call in calls]
    elif len(out) == 1:
        raise Rejected("messages")
    return out


def _past_call(value: JSON) -> JSONObject:
    # "index" comes from clients that keep the deltas of a stream; it says nothing in a request.
    if not isinstance(value, dict) or not value.keys() <= {"id", "type", "function", "index"}:
        raise Rejected("messages")
    function = value.get("function")
    if value.get("type", "function") != "function" or not isinstance(function, dict):
        raise Rejected("messages")
    name, arguments = function.get("name"), function.get("arguments", "")
    if not function.keys() <= {"name", "arguments"} or not is_name(name) or not isinstance(arguments, str):
        raise Rejected("messages")
    try:
        again = write_arguments(read_arguments(arguments))
    except Malformed:
        raise Rejected("messages") from None
    call_id = text(value.get("id"), ID_CHARS, "messages")
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": again}}


def _content(value: JSON, kinds: tuple[str, ...], counts: Counts) -> JSON:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not 0 < len(value) <= PARTS:
        raise Rejected("messages")
    return [_part(part, kinds, counts) for part in value]


def _part(value: JSON, kinds: tuple[str, ...], counts: Counts) -> JSONObject:
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(kind, str) or kind not in kinds:
        raise Rejected("messages")
    inner = value.get(kind)
    if value.keys() != {"type", kind}:
        raise Rejected("messages")
    if kind != "image_url":
        if not isinstance(inner, str):
            raise Rejected("messages")
        return {"type": kind, kind: inner}
    if not isinstance(inner, dict) or not inner.keys() <= {"url", "detail"}:
        raise Rejected("messages")
    url, detail = inner.get("url"), inner.get("detail", "auto")
    if not isinstance(url, str) or detail not in ("auto", "low", "high") or not _is_image(url):
        raise Rejected("messages")
    counts.images += 1
    counts.image_chars += len(url)
    return {"type": "image_url", "image_url": {"url": url, "detail": detail}}


def _is_image(url: str) -> bool:
    head, comma, data = url.partition(",")
    if not comma or not (head.startswith("data:") and head.endswith(";base64")):
        return False
    return is_picture(head.removeprefix("data:").removesuffix(";base64"), data)


def is_picture(kind: str, data: str) -> bool:
    """Return whether base64 ``data`` begins as a picture of the media type ``kind`` does."""
    begins = IMAGES.get(kind)
    if begins is None:
        return False
    try:
        return binascii.a2b_base64(data, strict_mode=True).startswith(begins)
    except (binascii.Error, ValueError):
        return False
