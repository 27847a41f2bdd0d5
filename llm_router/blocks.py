"""The turns of a Messages request: what each role may say, rebuilt from the members named here. Pure.

- Pictures travel as base64 only: a URL is a beacon that the provider would fetch, a file id is
  something that we have not seen. Documents and search results are not taken for the same reason.
- Blocks of the provider's own tools (``server_tool_use``, web search, code execution, …) are refused:
  that traffic never crosses us.
- Thinking is signed: it goes back as it came, or not at all (`signed`).
- ``cache_control`` is dropped everywhere: it changes no answer, and a cache that tenants share under
  one key tells each of them what another has asked.

Source: Anthropic Messages as of anthropic 2.12.0; llm-routing reference §6.5, §6.6.
"""

from __future__ import annotations

from typing import Final

from firewall.core.jsonvalue import JSON, JSONObject
from llm_router.shape import ID_CHARS, Rejected, is_name, text
from llm_router.turns import MESSAGES, PARTS, Counts, is_picture

NAME_CHARS: Final = 128
SIGNED: Final = frozenset({"thinking", "redacted_thinking"})
# Which blocks a role may say, and the members of each; what an answer carried as null comes back as null.
_ROLES: Final[dict[str, frozenset[str]]] = {
    "user": frozenset({"text", "image", "tool_result"}),
    "assistant": frozenset({"text", "thinking", "redacted_thinking", "tool_use"}),
    "system": frozenset({"text"}),
}
_MEMBERS: Final[dict[str, frozenset[str]]] = {
    "text": frozenset({"type", "text"}),
    "image": frozenset({"type", "source"}),
    "tool_result": frozenset({"type", "tool_use_id", "content", "is_error"}),
    "thinking": frozenset({"type", "thinking", "signature"}),
    "redacted_thinking": frozenset({"type", "data"}),
    "tool_use": frozenset({"type", "id", "name", "input"}),
}


def parse(value: JSON, counts: Counts) -> list[JSON]:
    """Return the checked turns, and count into ``counts``. Raises Rejected("messages")."""
    if not isinstance(value, list) or not 0 < len(value) <= MESSAGES:
        raise Rejected("messages")
    return [_turn(item, counts) for item in value]


def parse_system(value: JSON) -> JSON:
    """Return the checked system prompt: a string, or text blocks. Raises Rejected("system")."""
    try:
        return _content(value, _ROLES["system"], Counts())
    except Rejected:
        raise Rejected("system") from None


def without_images(turns: JSON) -> JSON:
    """Return checked turns with every picture's bytes left out: what can be read as text."""
    if not isinstance(turns, list):
        return turns
    return [{**turn, "content": _blank(turn.get("content"))} if isinstance(turn, dict) else turn for turn in turns]


def signed(turns: JSON) -> list[JSON]:
    """Return the signed blocks of turns, in order."""
    out: list[JSON] = []
    for turn in turns if isinstance(turns, list) else ():
        content = turn.get("content") if isinstance(turn, dict) else None
        if isinstance(content, list):
            out += [block for block in content if isinstance(block, dict) and block.get("type") in SIGNED]
    return out


def _blank(content: JSON) -> JSON:
    if not isinstance(content, list):
        return content
    out: list[JSON] = []
    for block in content:
        if isinstance(block, dict) and isinstance(block.get("source"), dict):
            block = {**block, "source": {**block["source"], "data": ""}}  # type: ignore[dict-item]
        elif isinstance(block, dict) and isinstance(block.get("content"), list):
            block = {**block, "content": _blank(block["content"])}
        out.append(block)
    return out


def _turn(value: JSON, counts: Counts) -> JSONObject:
    role = value.get("role") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(role, str) or role not in _ROLES:
        raise Rejected("messages")
    if value.keys() != {"role", "content"}:
        raise Rejected("messages")
    return {"role": role, "content": _content(value["content"], _ROLES[role], counts)}


def _content(value: JSON, kinds: frozenset[str], counts: Counts) -> JSON:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or len(value) > PARTS:
        raise Rejected("messages")
    return [_block(item, kinds, counts) for item in value]


def _block(value: JSON, kinds: frozenset[str], counts: Counts) -> JSONObject:
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(kind, str) or kind not in kinds:
        raise Rejected("messages")
    given: JSONObject = {
        name: member for name, member in value.items() if member is not None and name != "cache_control"
    }
    if kind == "tool_use" and given.get("caller") == {"type": "direct"}:
        del given["caller"]  # says that the model itself called it: there is no other caller here
    if not given.keys() <= _MEMBERS[kind]:
        raise Rejected("messages")
    if kind == "image":
        return {"type": kind, "source": _source(given.get("source"), counts)}
    if kind == "tool_result":
        return _result(given, counts)
    if kind == "tool_use":
        return _past_call(given)
    # Of the other three every member is text, and all of them are needed.
    if given.keys() != _MEMBERS[kind] or not all(isinstance(member, str) for member in given.values()):
        raise Rejected("messages")
    return given


def _source(value: JSON, counts: Counts) -> JSONObject:
    if not isinstance(value, dict) or value.keys() != {"type", "media_type", "data"} or value["type"] != "base64":
        raise Rejected("messages")
    kind, data = value["media_type"], value["data"]
    if not isinstance(kind, str) or not isinstance(data, str) or not is_picture(kind, data):
        raise Rejected("messages")
    counts.images += 1
    counts.image_chars += len(data)
    return {"type": "base64", "media_type": kind, "data": data}


def _result(given: JSONObject, counts: Counts) -> JSONObject:
    out: JSONObject = {"type": "tool_result", "tool_use_id": text(given.get("tool_use_id"), ID_CHARS, "messages")}
    if "content" in given:
        out["content"] = _content(given["content"], frozenset({"text", "image"}), counts)
    if "is_error" in given:
        if not isinstance(given["is_error"], bool):
            raise Rejected("messages")
        out["is_error"] = given["is_error"]
    counts.tool_outputs += 1
    return out


def _past_call(given: JSONObject) -> JSONObject:
    name, arguments = given.get("name"), given.get("input")
    if not is_name(name, NAME_CHARS) or not isinstance(arguments, dict):
        raise Rejected("messages")
    call_id = text(given.get("id"), ID_CHARS, "messages")
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}
