"""Received MCP messages: decoded JSON-RPC and headers in, a checked Call, Notice or Answer out. Pure.

The ladder, first failure wins (MCP 2026-07-28 transports; the order of the SDK, so that clients see
the code they expect): shape → repeated header → ``_meta`` envelope → header = body → revision.

- The era is what header *and* body say together. Servers that route by header alone and servers that
  read the body alone disagree about a mixed message, so a mixed one is refused (-32020).
- A posted response is an Answer in the legacy era, where we ask clients, and no message in the modern one.
- ``io.modelcontextprotocol/*`` members of ``_meta`` are read here, checked, and never passed on:
  `bridge` regenerates them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeGuard

from firewall.core.bounds import JSON_INTEGER, KIB, RPC_ID_CHARS
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.value import value
from firewall.wire import jsonrpc
from mcp_gateway import headers as h
from mcp_gateway.versions import (
    ASSUMED_VERSION,
    HANDSHAKE_VERSIONS,
    KNOWN_VERSIONS,
    LEGACY,
    METHODS,
    MODERN,
    MODERN_VERSIONS,
    Era,
)

RpcId = str | int

PREFIX: Final = "io.modelcontextprotocol/"
PROTOCOL_VERSION: Final = PREFIX + "protocolVersion"
CLIENT_CAPABILITIES: Final = PREFIX + "clientCapabilities"
CLIENT_INFO: Final = PREFIX + "clientInfo"
SERVER_INFO: Final = PREFIX + "serverInfo"
LOG_LEVEL: Final = PREFIX + "logLevel"
SUBSCRIPTION_ID: Final = PREFIX + "subscriptionId"

LOG_LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")  # by severity
# `_meta` keys that we own although they carry no prefix (SEP-414, progress).
OWNED: Final = frozenset({"progressToken", "traceparent", "tracestate", "baggage"})
# Every member of `_meta` that is read here: none of them is a vendor's.
_READ: Final = OWNED | {PROTOCOL_VERSION, CLIENT_CAPABILITIES, CLIENT_INFO, LOG_LEVEL}
# Method → the parameter that `Mcp-Name` mirrors (SEP-2243; of the tasks extension, SEP-2663).
NAMED: Final[Mapping[str, str]] = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    **dict.fromkeys(("tasks/get", "tasks/result", "tasks/update", "tasks/cancel"), "taskId"),
}
# Modern methods that bring answers: those that a server may answer with questions, sent again (SEP-2322), and
# what a task asked (SEP-2663). Everywhere else these members are dropped unread.
ANSWERING: Final = frozenset({"tools/call", "prompts/get", "resources/read", "tasks/update"})
_AGAIN: Final = ("inputResponses", "requestState")
# Every method that a modern client may ask for.
_ASKED: Final = frozenset(method for method, era, flow in METHODS if (era, flow) == (MODERN, "request"))
METHOD_CHARS: Final = 128
NAME_CHARS: Final = 512
URI_CHARS: Final = 8 * KIB
STATE_CHARS: Final = 64 * KIB
ANSWERS: Final = 64
TASK_TTL_MS: Final = 2**31
_CAPABILITIES: Final[Mapping[str, tuple[str, ...]]] = {
    "roots": ("listChanged",),
    "sampling": ("tools", "context"),
    "elicitation": ("form", "url"),
}


class Rejected(Malformed):
    """A message that is answered by a fixed error: the fault's code, the id if one was readable.

    data: members for the error's ``data``, made by us from closed lists.
    """

    def __init__(
        self, code: str, detail: str = "", *, rpc_id: RpcId | None = None, data: JSONObject | None = None
    ) -> None:
        super().__init__(code, detail)
        self.rpc_id = rpc_id
        self.data = data or {}


@value
class Call:
    """A request.

    params: as received, without ``_meta``, and without a retry's members where a method has none. meta: vendor members of ``_meta`` only.
    name: of the tool, prompt, resource or task as the client spells it, "" for other methods.
    capabilities: what the client declares: per request (modern), or at ``initialize`` (legacy, a closed list).
    task: of a request that asks to become a task (legacy, 2025-11-25); None without.
    """

    era: Era
    version: str
    id: RpcId
    method: str
    params: JSONObject
    meta: JSONObject
    name: str = ""
    capabilities: JSONObject = field(default_factory=dict)
    log_level: str = ""
    progress_token: RpcId | None = None
    traceparent: str = ""
    headers: Mapping[bytes, bytes] = field(default_factory=dict)
    task: JSONObject | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A legacy client's response to a question of ours.

    result: None for an error, of which ``code`` is kept and its words are not.
    """

    id: RpcId
    result: JSONObject | None
    code: int = 0
    version: str = ASSUMED_VERSION
    method: str = "(answer)"


@dataclass(frozen=True, slots=True)
class Notice:
    """A notification from the client."""

    era: Era
    version: str
    method: str
    params: JSONObject


def parse(value: JSON, received: Mapping[bytes, bytes] | None) -> Call | Notice | Answer:
    """Return the checked message of one POST.

    value: strictly parsed body. received: the request's ``mcp-*`` header fields, None where one of them is
    repeated (`incoming.split`).
    Raises Rejected: rpc_batch, rpc_shape, rpc_id, params_invalid (no ``_meta`` envelope, wrong
    types), header_mismatch, era_mixed, version_unsupported (data ``supported`` and ``requested``).
    """
    if isinstance(value, list):
        raise Rejected("rpc_batch")
    if not isinstance(value, dict) or value.get("jsonrpc") != "2.0":
        raise Rejected("rpc_shape", rpc_id=_readable_id(value))
    if "method" not in value:
        return _answer(value, received)
    method = value["method"]
    if not isinstance(method, str) or not 0 < len(method) <= METHOD_CHARS or "result" in value or "error" in value:
        raise Rejected("rpc_shape", rpc_id=_readable_id(value))
    if "id" not in value:
        return _notice(value, method, received)
    rpc_id = value["id"]
    if not _is_id(rpc_id):
        raise Rejected("rpc_id")
    try:
        return _call(value, method, rpc_id, received)
    except Rejected as error:
        error.rpc_id = rpc_id
        raise
    except Malformed as error:
        raise Rejected(error.code, error.detail, rpc_id=rpc_id) from None


def _call(value: JSONObject, method: str, rpc_id: RpcId, received: Mapping[bytes, bytes] | None) -> Call:
    params = value.get("params", {})
    if not isinstance(params, dict):
        raise Rejected("params_invalid")
    meta = params.get("_meta", {})
    if not isinstance(meta, dict):
        raise Rejected("params_invalid")
    if received is None:
        raise Malformed("header_mismatch", "an mcp header is repeated")
    told = received.get(h.VERSION, b"").decode("latin-1")
    # Mostly both say the same known revision.
    era = MODERN if told in MODERN_VERSIONS and meta.get(PROTOCOL_VERSION) == told else _era(told, meta)
    key = NAMED.get(method)
    named = params.get(key) if key is not None else None
    capabilities: JSON
    level: JSON = ""
    task = None
    bring = method in ANSWERING and era == MODERN
    if era == MODERN:
        _check_modern(received, told, meta, method, named)
        level = meta.get(LOG_LEVEL, "")
        if level and (not isinstance(level, str) or level not in LOG_LEVELS):
            raise Rejected("params_invalid")
        capabilities = meta[CLIENT_CAPABILITIES]
        if bring and ("inputResponses" in params or "requestState" in params):
            _check_again(params)
    else:
        capabilities = _opening(params) if method == "initialize" else {}
        if method == "tools/call" and "task" in params:
            task = _task(params["task"])
    kept = dict(params)
    kept.pop("_meta", None)
    if not bring:
        for member in _AGAIN:
            kept.pop(member, None)
    token = meta.get("progressToken")
    if token is not None and not _is_id(token):
        raise Rejected("params_invalid")
    if key is not None:
        if not isinstance(named, str) or not 0 < len(named) <= (URI_CHARS if key == "uri" else NAME_CHARS):
            raise Rejected("params_invalid")
        if not isinstance(params.get("arguments", {}), dict):
            raise Rejected("params_invalid")
    trace = meta.get("traceparent", "")
    return Call(
        era,
        told or ASSUMED_VERSION,
        rpc_id,
        method,
        kept,
        {} if meta.keys() <= _READ else {k: v for k, v in meta.items() if k not in _READ and not is_reserved(k)},
        named if isinstance(named, str) else "",
        capabilities if isinstance(capabilities, dict) else {},
        level if isinstance(level, str) else "",
        token,
        trace if isinstance(trace, str) else "",
        received,
        task,
    )


def _told(received: Mapping[bytes, bytes] | None) -> str:
    """Return the revision that the header fields name. Raises Rejected("header_mismatch")."""
    if received is None:
        raise Rejected("header_mismatch")
    return received.get(h.VERSION, b"").decode("latin-1")


def _answer(value: JSONObject, received: Mapping[bytes, bytes] | None) -> Answer:
    """Return a posted response. Its era is the header's alone: it has no params that could say more."""
    told = _told(received)
    try:
        message = jsonrpc.parse(value)
    except Malformed as error:
        raise Rejected(error.code) from None
    if told and told not in KNOWN_VERSIONS:
        raise _unsupported(told)
    if told in MODERN_VERSIONS:
        raise Rejected("rpc_shape")  # a modern client is asked nothing on the wire (2026-07-28, transports)
    if isinstance(message, jsonrpc.ErrorResponse) and message.id is not None:
        return Answer(message.id, None, message.code, told or ASSUMED_VERSION)
    if isinstance(message, jsonrpc.Response) and isinstance(message.result, dict):
        return Answer(message.id, message.result, 0, told or ASSUMED_VERSION)
    raise Rejected("rpc_shape")


def _opening(params: JSONObject) -> JSONObject:
    """Return what a client declares at ``initialize``: a closed list of members, so that it stays small."""
    info, given = params.get("clientInfo"), params.get("capabilities")
    if not isinstance(params.get("protocolVersion"), str) or not isinstance(info, dict) or not isinstance(given, dict):
        raise Rejected("params_invalid")
    if not isinstance(info.get("name"), str) or not isinstance(info.get("version"), str):
        raise Rejected("params_invalid")
    found: JSONObject = {}
    for name, members in _CAPABILITIES.items():
        told = given.get(name)
        if isinstance(told, dict):
            kept: JSONObject = {m: {} for m in members if isinstance(told.get(m), dict)}
            if told.get("listChanged") is True and "listChanged" in members:
                kept["listChanged"] = True
            found[name] = kept
    return found


def _check_again(params: JSONObject) -> None:
    """Raise Rejected unless the members that bring answers (2026-07-28, multi round-trip requests) are within bounds."""
    answers, state = params.get("inputResponses", {}), params.get("requestState", "")
    if not isinstance(answers, dict) or not isinstance(state, str):
        raise Rejected("params_invalid")
    if len(answers) > ANSWERS or len(state) > STATE_CHARS:
        raise Rejected("params_invalid")
    if not all(len(key) <= NAME_CHARS and isinstance(given, dict) for key, given in answers.items()):
        raise Rejected("params_invalid")


def _task(task: JSON) -> JSONObject:
    """Return ``params.task`` (2025-11-25, tasks): its ``ttl`` in milliseconds, where one is wished for."""
    if not isinstance(task, dict):
        raise Rejected("params_invalid")
    ttl = task.get("ttl")
    if ttl is None:
        return {}
    if not isinstance(ttl, (int, float)) or isinstance(ttl, bool) or not 0 <= ttl <= TASK_TTL_MS:
        raise Rejected("params_invalid")
    return {"ttl": int(ttl)}


def _era(told: str, meta: JSONObject) -> Era:
    """Return the era on which header and body agree (mcp reference §3.5)."""
    if PROTOCOL_VERSION in meta:
        if not told or told in HANDSHAKE_VERSIONS:
            raise Rejected("era_mixed")
        return MODERN
    # Without an envelope a modern header is a modern message that lacks its envelope (-32602); an
    # unknown revision is answered as such in either era.
    return LEGACY if not told or told in HANDSHAKE_VERSIONS else MODERN


def _check_modern(received: Mapping[bytes, bytes], told: str, meta: JSONObject, method: str, named: JSON) -> None:
    """Raise Rejected unless the envelope is whole, the headers say what the body says, and we speak the revision."""
    version = meta.get(PROTOCOL_VERSION)
    if version is None and PROTOCOL_VERSION not in meta and told not in MODERN_VERSIONS:
        raise _unsupported(told)
    if not isinstance(version, str) or not isinstance(meta.get(CLIENT_CAPABILITIES), dict):
        raise Rejected("params_invalid")
    if told != version or not h.says(received.get(h.METHOD, b""), method):
        raise Rejected("header_mismatch")
    # A method that this era does not have is refused as unknown, whatever its headers say.
    if named is not None and method in _ASKED:
        if not isinstance(named, str) or not h.says(received.get(h.NAME, b""), named):
            raise Rejected("header_mismatch")
    if version not in MODERN_VERSIONS:
        raise _unsupported(version)


def _notice(value: JSONObject, method: str, received: Mapping[bytes, bytes] | None) -> Notice:
    params = value.get("params", {})
    if not isinstance(params, dict) or not isinstance(params.get("_meta", {}), dict):
        raise Rejected("params_invalid")
    told = _told(received)
    meta = params.get("_meta", {})
    era = _era(told, meta if isinstance(meta, dict) else {})
    if era == MODERN and told not in MODERN_VERSIONS:
        raise _unsupported(told)
    return Notice(era, told or ASSUMED_VERSION, method, {k: v for k, v in params.items() if k != "_meta"})


def _unsupported(told: str) -> Rejected:
    # The specification wants the asked revision echoed; only text that could be one is.
    shown = told if 0 < len(told) <= 32 and told.isascii() and told.replace("-", "").replace(".", "").isalnum() else ""
    return Rejected("version_unsupported", data={"supported": list(MODERN_VERSIONS), "requested": shown})


def is_reserved(key: str) -> bool:
    """Return whether a ``_meta`` key has a prefix that MCP reserves (second label ``modelcontextprotocol`` or ``mcp``)."""
    prefix, slash, _ = key.partition("/")
    labels = prefix.split(".")
    return bool(slash) and len(labels) >= 2 and labels[1] in ("modelcontextprotocol", "mcp")


def _is_id(value: JSON) -> TypeGuard[RpcId]:
    if isinstance(value, str):
        return len(value) <= RPC_ID_CHARS
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= JSON_INTEGER


def _readable_id(value: JSON) -> RpcId | None:
    rpc_id = value.get("id") if isinstance(value, dict) else None
    return rpc_id if _is_id(rpc_id) else None
