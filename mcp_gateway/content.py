"""Results that carry content: those of tools, resources, prompts and completions, and the URIs inside them. Pure.

- A resource's contents are a closed list of members, each with exactly one of ``text`` and ``blob``. A
  blob that says it is text goes on as text: inspection then reads what a host would show.
- A prompt's messages are blocks of the known kinds, since they become turns of a conversation.
- URIs are told as the endpoint tells them (`shelf`), wherever they stand.

Source: MCP 2025-11-25 and 2026-07-28, server/{resources,prompts,utilities/completion}.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable
from typing import Final

from firewall.core.bounds import JSON_INTEGER
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.wire import jsonrpc
from mcp_gateway import apps, pictures
from mcp_gateway.bridge import kept_meta
from mcp_gateway.message import SERVER_INFO, RpcId, is_reserved
from mcp_gateway.versions import LEGACY, MODERN, Era

Outward = Callable[[str], str] | None

CONTENTS: Final = 1_000
# Members of a result of a tool that belong to one era, or to exchanges that its call does not carry.
_RESULT_OWNED: Final = frozenset(
    {"resultType", "ttlMs", "cacheScope", "inputRequests", "requestState", "task", "_meta"}
)
_LINKLESS: Final = ("2024-11-05", "2025-03-26")
TTL_MS: Final = 24 * 3600 * 1000  # the longest that an upstream's ttlMs is believed
MESSAGES: Final = 1_000
COMPLETIONS: Final = 100  # MCP, completion: at most 100 values
ROLES: Final = frozenset({"user", "assistant"})
_TEXTUAL: Final = ("text/", "application/json", "application/xml", "application/javascript", "application/xhtml")


def read_result(
    rpc_id: RpcId, era: Era, result: JSON, server_info: JSONObject, outward: Outward, rights: apps.Rights, ttl_ms: int
) -> JSONObject:
    """Return a ``resources/read`` result as it goes to the client. Raises Malformed("result_shape").

    ttl_ms: for how long the client may keep it; 0 where the upstream does not say.
    """
    given = _complete(result)
    contents = given.get("contents")
    if not isinstance(contents, list) or len(contents) > CONTENTS:
        raise Malformed("result_shape")
    out: JSONObject = {"contents": [_content(one, outward, rights) for one in contents]}
    if era == MODERN:
        out |= {"ttlMs": ttl_ms, "cacheScope": "private"}
    return _message(rpc_id, era, out, given, server_info)


def prompt_result(
    rpc_id: RpcId, era: Era, result: JSON, server_info: JSONObject, outward: Outward, rights: apps.Rights
) -> JSONObject:
    """Return a ``prompts/get`` result as it goes to the client. Raises Malformed("result_shape")."""
    given = _complete(result)
    messages = given.get("messages")
    if not isinstance(messages, list) or len(messages) > MESSAGES or not isinstance(given.get("description", ""), str):
        raise Malformed("result_shape")
    told: list[JSON] = []
    for one in messages:
        role = one.get("role") if isinstance(one, dict) else None
        if not isinstance(one, dict) or role not in ROLES:
            raise Malformed("result_shape")
        told.append({"role": role, "content": block(one.get("content"), outward, rights)})
    out: JSONObject = {"messages": told}
    if "description" in given:
        out["description"] = given["description"]
    return _message(rpc_id, era, out, given, server_info)


def completion_result(rpc_id: RpcId, era: Era, result: JSON, server_info: JSONObject) -> JSONObject:
    """Return a ``completion/complete`` result as it goes to the client. Raises Malformed("result_shape")."""
    given = _complete(result)
    told = given.get("completion")
    values = told.get("values") if isinstance(told, dict) else None
    if not isinstance(told, dict) or not isinstance(values, list) or len(values) > COMPLETIONS:
        raise Malformed("result_shape")
    if not all(isinstance(value, str) for value in values):
        raise Malformed("result_shape")
    out: JSONObject = {"values": values}
    total = told.get("total")
    if isinstance(total, int) and not isinstance(total, bool) and 0 <= total <= JSON_INTEGER:
        out["total"] = total
    if isinstance(told.get("hasMore"), bool):
        out["hasMore"] = told["hasMore"]
    return _message(rpc_id, era, {"completion": out}, given, server_info)


def tool_result(
    rpc_id: RpcId, era: Era, result: JSON, server_info: JSONObject, outward: Outward, rights: apps.Rights
) -> JSONObject:
    """Return a ``tools/call`` result as it goes to the client, with the URIs of its blocks told.

    What else a block holds stays as it is. Raises Malformed("result_shape"): not an object, a ``resultType`` other than
    ``complete``, content that is not a list of typed blocks, a block of a known kind without its members, a
    non-boolean ``isError``.
    """
    given = _complete(result)
    blocks = given.get("content")
    if "task" in given or not isinstance(blocks, list) or not isinstance(given.get("isError", False), bool):
        raise Malformed("result_shape")
    told: list[JSON] = []
    for one in blocks:
        if not isinstance(one, dict) or not isinstance(one.get("type"), str):
            raise Malformed("result_shape")
        plain = one["type"] == "text" and "_meta" not in one
        told.append(one if plain else _addressed(one, outward, rights))
    out: JSONObject = {member: given[member] for member in given if member not in _RESULT_OWNED}
    out["content"] = told
    if era == LEGACY and not isinstance(out.get("structuredContent", {}), dict):
        # Any JSON value is modern; older clients demand an object. The same data stands in `content`.
        del out["structuredContent"]
    return _message(rpc_id, era, out, given, server_info)


def readable(message: JSONObject, version: str) -> JSONObject:
    """Return a result's message for a client of a revision: before 2025-06-18 there are no links, and a link is text.

    A server speaks the newest revision with us, whatever its client knows; a client may refuse a block of a kind that
    it does not know, and the whole result with it. message: of a tool's or a prompt's result.
    """
    if version not in _LINKLESS:
        return message
    result = message.get("result")
    if not isinstance(result, dict):
        return message
    blocks, turns = result.get("content"), result.get("messages")
    if isinstance(blocks, list):
        return {**message, "result": {**result, "content": [_unlinked(one) for one in blocks]}}
    if isinstance(turns, list):
        told: list[JSON] = [{**t, "content": _unlinked(t.get("content"))} if isinstance(t, dict) else t for t in turns]
        return {**message, "result": {**result, "messages": told}}
    return message


def _unlinked(value: JSON) -> JSON:
    if not isinstance(value, dict) or value.get("type") != "resource_link":
        return value
    words = [value.get(key) for key in ("title", "name", "uri", "description")]
    out: JSONObject = {"type": "text", "text": "\n".join(word for word in words if isinstance(word, str) and word)}
    return {**out, "annotations": value["annotations"]} if "annotations" in value else out


def block(value: JSON, outward: Outward, rights: apps.Rights) -> JSONObject:
    """Return a content block of a known kind. Raises Malformed("result_shape")."""
    if not isinstance(value, dict):
        raise Malformed("result_shape")
    kind = value.get("type")
    needed = {"text": ("text",), "image": ("data", "mimeType"), "audio": ("data", "mimeType")}.get(str(kind))
    if needed is None:
        if kind not in ("resource_link", "resource"):
            raise Malformed("result_shape")
    elif not all(isinstance(value.get(key), str) for key in needed):
        raise Malformed("result_shape")
    out = _addressed(value, outward, rights)
    assert isinstance(out, dict)
    if "_meta" not in out:
        return out
    out = dict(out)
    meta = kept_meta(out.pop("_meta"))
    return {**out, "_meta": meta} if meta else out


def _addressed(value: JSON, outward: Outward, rights: apps.Rights) -> JSON:
    """Return a block with its URI told; the same object when nothing changes."""
    if not isinstance(value, dict):
        return value
    if "_meta" in value and any(is_reserved(key) for key in _keys(value["_meta"])):  # ours to say, whoever says it
        meta = kept_meta(value["_meta"])
        value = {key: member for key, member in value.items() if key != "_meta"} | ({"_meta": meta} if meta else {})
    if value.get("type") == "resource_link":
        uri = value.get("uri")
        if not isinstance(uri, str):
            raise Malformed("result_shape")
        if "icons" in value:
            icons = pictures.icons(value["icons"], rights)
            value = {key: member for key, member in value.items() if key != "icons"}
            value |= {"icons": icons} if icons else {}
        return value if outward is None else {**value, "uri": outward(uri)}
    if value.get("type") == "resource":
        return {**value, "resource": _content(value.get("resource"), outward, rights)}
    return value


def _keys(value: JSON) -> Iterable[str]:
    return value if isinstance(value, dict) else ()


def _content(value: JSON, outward: Outward, rights: apps.Rights) -> JSONObject:
    """Return one entry of ``contents``, or an embedded resource: a closed list of members."""
    if not isinstance(value, dict):
        raise Malformed("result_shape")
    uri, kind, text, blob = (value.get(key) for key in ("uri", "mimeType", "text", "blob"))
    if (
        not isinstance(uri, str)
        or (kind is not None and not isinstance(kind, str))
        or ("text" in value) == ("blob" in value)
    ):
        raise Malformed("result_shape")
    out: JSONObject = {"uri": outward(uri) if outward is not None else uri}
    if isinstance(kind, str):
        out["mimeType"] = kind
    if isinstance(text, str):
        out["text"] = text
    elif isinstance(blob, str):
        out |= _blob(blob, kind if isinstance(kind, str) else "")
    else:
        raise Malformed("result_shape")
    if isinstance(value.get("annotations"), dict):
        out["annotations"] = value["annotations"]
    meta = apps.shown(kept_meta(value.get("_meta")), rights, outward)
    if meta:
        out["_meta"] = meta
    return out


def _blob(blob: str, kind: str) -> JSONObject:
    """Return a blob, as text when its type says that it is some. Raises Malformed for other than RFC 4648 §4."""
    try:
        data = base64.b64decode(blob, validate=True)
    except (binascii.Error, ValueError):
        raise Malformed("result_shape") from None
    plain = kind.partition(";")[0].strip().lower()
    if plain.startswith(_TEXTUAL) or plain.endswith(("+json", "+xml")):
        try:
            return {"text": data.decode("utf-8")}
        except UnicodeDecodeError:
            raise Malformed("result_shape") from None
    return {"blob": blob}


def _complete(result: JSON) -> JSONObject:
    if not isinstance(result, dict) or result.get("resultType", "complete") != "complete":
        raise Malformed("result_shape")
    return result


def _message(rpc_id: RpcId, era: Era, out: JSONObject, given: JSONObject, server_info: JSONObject) -> JSONObject:
    meta = kept_meta(given["_meta"]) if "_meta" in given else {}
    if era == MODERN:
        out["resultType"] = "complete"
        if server_info.get("name") and server_info.get("version"):
            meta[SERVER_INFO] = server_info
    if meta:
        out["_meta"] = meta
    return jsonrpc.build_response(rpc_id, out)
