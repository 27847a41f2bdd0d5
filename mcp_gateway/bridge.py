"""The era bridge: requests, results, notices and errors translated between legacy and modern. Pure.

The canonical inner form is 2026-07-28 (mcp reference §5.1). What this file builds is the whole
message as it will leave us; nothing of a received envelope survives beside it:

- ids are ours upstream and the client's downstream; progress tokens likewise;
- ``io.modelcontextprotocol/*`` is regenerated, vendor members of ``_meta`` stay;
- parameters are a closed list per method, so no member travels that nobody looked at;
- a result of an unknown kind is refused (fail closed), and so are results that ask the client
  something back, since no capability for that was declared upstream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from firewall.core.bounds import RPC_ID_CHARS
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.wire import jsonrpc
from mcp_gateway import capabilities, pictures
from mcp_gateway.message import (
    CLIENT_CAPABILITIES,
    CLIENT_INFO,
    LOG_LEVEL,
    PROTOCOL_VERSION,
    SERVER_INFO,
    Call,
    RpcId,
    is_reserved,
)
from mcp_gateway.versions import MODERN, MODERN_VERSIONS, Era, era_of

OURSELVES: Final[JSONObject] = {"name": "bartizan", "title": "Bartizan", "version": "1"}
INSTRUCTIONS_CHARS: Final = 16_384

_SERVER_INFO: Final = ("name", "title", "version", "description", "websiteUrl")
_CAPABILITIES: Final = ("sampling", "elicitation", "roots")


@dataclass(frozen=True, slots=True)
class Opened:
    """What an upstream said of itself when its session was opened; unverified text.

    capabilities, extensions: the known members of what it declared (`capabilities`).
    """

    version: str
    era: Era
    server_info: JSONObject = field(default_factory=dict)
    instructions: str = ""
    capabilities: JSONObject = field(default_factory=dict)
    extensions: JSONObject = field(default_factory=dict)


# -- towards the upstream ---------------------------------------------------------------------------


def request(
    call: Call,
    version: str,
    rpc_id: int,
    params: JSONObject,
    *,
    method: str = "",
    trace: str = "",
    declared: JSONObject | None = None,
) -> JSONObject:
    """Return a client's request as it goes upstream.

    version: the revision spoken with the upstream. rpc_id: our own id there, which is also the
    progress token when the client asked for progress. params: the target's closed list of members
    (`targets`), made for this request: ``_meta`` is added to it. method: of the upstream's request, where it is not the
    client's own.
    """
    token = rpc_id if call.progress_token is not None else None
    meta = envelope(version, vendor=call.meta, token=token, level=call.log_level, trace=trace, declared=declared)
    if meta:
        params["_meta"] = meta
    return jsonrpc.build_request(rpc_id, method or call.method, params)


def envelope(
    version: str,
    *,
    vendor: JSONObject | None = None,
    token: int | None = None,
    level: str = "",
    trace: str = "",
    declared: JSONObject | None = None,
) -> JSONObject:
    """Return the ``_meta`` of one of our requests upstream.

    declared: client capabilities for this request, the client's own ∩ what the operator lets this
    upstream ask (`questions.declared`); a server must not ask for anything else.
    """
    meta: JSONObject = dict(vendor) if vendor else {}
    if token is not None:
        meta["progressToken"] = token
    if trace:
        meta["traceparent"] = trace
    if version in MODERN_VERSIONS:
        meta[PROTOCOL_VERSION] = version
        meta[CLIENT_CAPABILITIES] = declared or {}
        meta[CLIENT_INFO] = OURSELVES
        if level:
            meta[LOG_LEVEL] = level
    return meta


def discover(rpc_id: int, version: str) -> JSONObject:
    """Return our ``server/discover``."""
    return jsonrpc.build_request(rpc_id, "server/discover", {"_meta": envelope(version)})


def initialize(rpc_id: int, version: str, declared: JSONObject | None = None) -> JSONObject:
    """Return our legacy ``initialize``. declared: client capabilities, for a session of one caller."""
    params: JSONObject = {"protocolVersion": version, "capabilities": declared or {}, "clientInfo": OURSELVES}
    return jsonrpc.build_request(rpc_id, "initialize", params)


def list_page(rpc_id: int, version: str, method: str, cursor: str) -> JSONObject:
    """Return our request for one page of a list; cursor: the upstream's own, "" for the first page."""
    params: JSONObject = {"cursor": cursor} if cursor else {}
    meta = envelope(version)
    if meta:
        params["_meta"] = meta
    return jsonrpc.build_request(rpc_id, method, params)


def opened(result: JSON, era: Era) -> Opened:
    """Return what the answer to `discover` or `initialize` says. Raises Malformed("result_shape")."""
    if not isinstance(result, dict) or not isinstance(result.get("capabilities", {}), dict):
        raise Malformed("result_shape")
    if era == MODERN:
        offered = result.get("supportedVersions")
        version: JSON = next((v for v in reversed(MODERN_VERSIONS) if isinstance(offered, list) and v in offered), "")
        meta = result.get("_meta")
        told = meta.get(SERVER_INFO) if isinstance(meta, dict) else None
    else:
        version, told = result.get("protocolVersion"), result.get("serverInfo")
    if not isinstance(version, str) or era_of(version) != era:
        raise Malformed("result_shape")
    info = {k: told[k] for k in _SERVER_INFO if isinstance(told.get(k), str)} if isinstance(told, dict) else {}
    if not pictures.web_address(info.get("websiteUrl")):
        info.pop("websiteUrl", None)
    instructions = result.get("instructions")
    text = instructions if isinstance(instructions, str) else ""
    if len(text) > INSTRUCTIONS_CHARS:
        raise Malformed("result_shape")
    said = result.get("capabilities", {})
    assert isinstance(said, dict)
    return Opened(version, era, info, text, capabilities.declared(said), capabilities.extensions(said))


# -- towards the client ----------------------------------------------------------------------------------


def session_opened(rpc_id: RpcId, era: Era, version: str, said: Opened, client: JSONObject | None = None) -> JSONObject:
    """Return our answer to ``initialize`` (legacy) or ``server/discover`` (modern).

    client: the extensions that the client declared.
    """
    offered = capabilities.offered(said.capabilities, said.extensions, era, client or {}, version)
    info: JSONObject = (
        said.server_info if said.server_info.get("name") and said.server_info.get("version") else OURSELVES
    )
    result: JSONObject
    if era == MODERN:
        result = {
            "resultType": "complete",
            "supportedVersions": list(MODERN_VERSIONS),
            "capabilities": offered,
            "ttlMs": 0,
            "cacheScope": "private",
            "_meta": {SERVER_INFO: info},
        }
    else:
        result = {
            "protocolVersion": version,
            "capabilities": offered,
            "serverInfo": info,
        }
    if said.instructions:
        result["instructions"] = said.instructions
    return jsonrpc.build_response(rpc_id, result)


def listed(rpc_id: RpcId, era: Era, member: str, entries: list[JSON], cursor: str, ttl_ms: int) -> JSONObject:
    """Return a page of a list; member: the name of the result's list.

    ``cacheScope`` is always ``private``: what a list holds depends on who asks.
    """
    result: JSONObject = {member: entries}
    if cursor:
        result["nextCursor"] = cursor
    if era == MODERN:
        result |= {
            "resultType": "complete",
            "ttlMs": ttl_ms,
            "cacheScope": "private",
            "_meta": {SERVER_INFO: OURSELVES},
        }
    return jsonrpc.build_response(rpc_id, result)


def notice(value: JSONObject, call: Call) -> JSONObject | None:
    """Return a notification beside an answer as it goes to the client, or None to drop it.

    Progress carries the client's own token. A modern client gets logs only if its request asked
    for a level. The end of an elicitation by address is told to clients of 2025-11-25, which know it.
    """
    method, params = value.get("method"), value.get("params")
    if not isinstance(params, dict):
        return None
    if method == "notifications/progress":
        progress, total = params.get("progress"), params.get("total")
        if call.progress_token is None or not _is_number(progress):
            return None
        out: JSONObject = {"progressToken": call.progress_token, "progress": progress}
        if _is_number(total):
            out["total"] = total
        if isinstance(params.get("message"), str):
            out["message"] = params["message"]
        return jsonrpc.build_notification("notifications/progress", out)
    if method == "notifications/message":
        level, logger = params.get("level"), params.get("logger")
        if "data" not in params or not isinstance(level, str) or (call.era == MODERN and not call.log_level):
            return None
        out = {"level": level, "data": params["data"]}
        if isinstance(logger, str):
            out["logger"] = logger
        return jsonrpc.build_notification("notifications/message", out)
    if method == "notifications/elicitation/complete" and call.version == "2025-11-25":
        told = params.get("elicitationId")
        if isinstance(told, str) and 0 < len(told) <= RPC_ID_CHARS:
            return jsonrpc.build_notification("notifications/elicitation/complete", {"elicitationId": told})
    return None


# Upstream code → what the client is told. Its message and data are not relayed: error texts are an
# uninspected way into a model's context (mcp reference §3.1, §6).
_ERRORS: Final[Mapping[int, str]] = {
    -32700: "The upstream could not read the request.",
    -32600: "The upstream refused the request.",
    -32601: "The upstream does not know this method.",
    -32602: "The upstream refused the parameters.",
    -32603: "The upstream had an internal error.",
    -32021: "The upstream needs a client capability that was not declared.",
}


def error(rpc_id: RpcId, era: Era, code: int, data: JSON) -> JSONObject:
    """Return an upstream's JSON-RPC error as it goes to the client: mapped code, fixed text.

    Codes of our own range and of the specification's reserved range never pass: they would say
    something about us. -32021 keeps the names of the capabilities that it lists.
    """
    kept: JSON = None
    if code == -32002:
        code = -32602 if era == MODERN else -32002
    if code == -32021:
        required = data.get("requiredCapabilities") if isinstance(data, dict) else None
        if era == MODERN and isinstance(required, dict):
            named: JSONObject = {k: {} for k in _CAPABILITIES if k in required}
            extended = capabilities.extensions(required)
            if capabilities.EXTENSIONS & extended.keys():
                named["extensions"] = {k: {} for k in sorted(capabilities.EXTENSIONS & extended.keys())}
            kept = {"requiredCapabilities": named}
        else:
            code = -32602
    elif -32099 <= code <= -32020 or -31999 <= code <= -31000 or (era == MODERN and -32019 <= code <= -32000):
        code = -32603
    return jsonrpc.build_error(rpc_id, code, _ERRORS.get(code, "The upstream answered with an error."), kept)


# What 2026-07-28 says about the status of an error response; others, and every legacy one, stand on 200.
_STATUS: Final[Mapping[int, int]] = {-32700: 400, -32600: 400, -32602: 400, -32021: 400, -32601: 404}


def error_status(body: JSONObject, era: Era) -> int:
    """Return the HTTP status of an error response."""
    told = body.get("error")
    code = told.get("code") if isinstance(told, dict) else None
    return _STATUS.get(code, 200) if era == MODERN and isinstance(code, int) else 200


def kept_meta(value: JSON) -> JSONObject:
    """Return the vendor members of a ``_meta``."""
    return {k: v for k, v in value.items() if not is_reserved(k)} if isinstance(value, dict) else {}


def _is_number(value: JSON) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
