"""Our own words to an MCP client: refusals and faults as JSON-RPC errors, results and challenges. Pure.

Nothing here has room for a peer's text: a reply is made from a row of `core.errors.FAULTS`, the
decision id, and values from closed lists. HTTP status: what the specification fixes for transport
and message errors; 403 only with a challenge that would cure it, 429 and 5xx as the fault says; every
other denial and every upstream failure is a JSON-RPC answer on 200, since clients of both eras read
those as answers to the call and not as a broken transport.
"""

from __future__ import annotations

from typing import Final

from firewall.core.action import Headers
from firewall.core.errors import Fault, fault
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.permit import FixedReply, Refusal
from firewall.wire import jsonrpc, strict_json
from mcp_gateway.message import Rejected, RpcId
from mcp_gateway.versions import MODERN, Era

JSON_TYPE: Final = (b"content-type", b"application/json")
NO_STORE: Final = (b"cache-control", b"no-store")
ALLOW_MODERN: Final = (b"allow", b"POST")
ALLOW_LEGACY: Final = (b"allow", b"GET, POST, DELETE")

# Denials of a call that are a tool's result, so that the model can adapt.
_TOLD_TO_MODELS: Final = frozenset({"denied", "arguments_mismatch", "approval_pending", "killed", "quarantined"})
_ON_200: Final = frozenset(
    _TOLD_TO_MODELS
    | {
        f"upstream_{c}"
        for c in (
            "unreachable",
            "timeout",
            "malformed",
            "too_large",
            "cut_stream",
            "blocked",
            "credentials",
            "consent",
            "unanswered",
        )
    }
)


def refused(refusal: Refusal, rpc_id: RpcId | None, *, era: Era, tool_call: bool, challenge: bytes = b"") -> FixedReply:
    """Return the answer to a refused Action.

    tool_call: a denied ``tools/call`` is a tool result with ``isError``, so that the model can adapt
    (DESIGN §8). challenge: the WWW-Authenticate value where scopes, details or a sign-in would cure it.
    """
    told = refusal.fault
    if challenge:
        data: JSONObject = {"decision_id": refusal.decision_id}
        if refusal.challenge:
            data["required"] = list[JSON](sorted(refusal.challenge))
        if refusal.detail is not None:  # ready to be asked for, beside the details that the token has
            data["authorization_details"] = [refusal.detail.as_json()]
        body = jsonrpc.build_error(rpc_id, told.rpc_code, told.text, data)
        # 403 where more scope would do, 401 where another sign-in is needed (RFC 9470 §3).
        return FixedReply(told.status, (JSON_TYPE, NO_STORE, (b"www-authenticate", challenge)), strict_json.dumps(body))
    if tool_call and rpc_id is not None and told.code in _TOLD_TO_MODELS:
        return FixedReply(200, (JSON_TYPE, NO_STORE), strict_json.dumps(_error_result(rpc_id, era, refusal)))
    extra: Headers = ((b"retry-after", str(refusal.retry_after_s).encode()),) if refusal.retry_after_s else ()
    return _error(told, rpc_id, {"decision_id": refusal.decision_id}, extra)


def failed(code: str, rpc_id: RpcId | None, decision_id: str, *, headers: Headers = ()) -> FixedReply:
    """Return the answer for a fault that no decision took; decision_id: the exchange's id, or ""."""
    return _error(fault(code), rpc_id, {"decision_id": decision_id} if decision_id else {}, headers)


def rejected(error: Rejected, exchange_id: str) -> FixedReply:
    """Return the answer to a message that breaks a rule of the protocol."""
    data: JSONObject = dict(error.data)
    if exchange_id:
        data["decision_id"] = exchange_id
    return _error(fault(error.code), error.rpc_id, data, ())


def unknown_method(rpc_id: RpcId, era: Era, decision_id: str) -> FixedReply:
    """Return method-not-found: 404 in the modern era, 200 in the legacy one, where 404 ends a session."""
    told = fault("method_unknown")
    body = jsonrpc.build_error(rpc_id, told.rpc_code, told.text, {"decision_id": decision_id})
    return FixedReply(404 if era == MODERN else 200, (JSON_TYPE, NO_STORE), strict_json.dumps(body))


def challenged(code: str, challenges: Headers, decision_id: str) -> FixedReply:
    """Return the 401 that tells a client where to sign in (oauth reference §6.1)."""
    return failed(code, None, decision_id, headers=challenges)


def said(body: JSONObject) -> FixedReply:
    """Return a JSON-RPC message that is wholly ours, on 200: where to connect an account (`linking`)."""
    return FixedReply(200, (JSON_TYPE, NO_STORE), strict_json.dumps(body))


def accepted() -> FixedReply:
    """Return the empty 202 for a notification."""
    return FixedReply(202, (NO_STORE,), b"")


def ended() -> FixedReply:
    """Return the empty 200 that ends a legacy session."""
    return FixedReply(200, (NO_STORE,), b"")


def _error(told: Fault, rpc_id: RpcId | None, data: JSONObject, extra: Headers) -> FixedReply:
    status = 200 if told.code in _ON_200 and rpc_id is not None else told.status
    payload: JSON = data if data else None
    body = jsonrpc.build_error(rpc_id, told.rpc_code, told.text, payload)
    return FixedReply(status, (JSON_TYPE, NO_STORE, *extra), strict_json.dumps(body))


def _error_result(rpc_id: RpcId, era: Era, refusal: Refusal) -> JSONObject:
    text = f"{refusal.fault.text} (decision {refusal.decision_id})"
    result: JSONObject = {"content": [{"type": "text", "text": text}], "isError": True}
    if era == MODERN:
        result["resultType"] = "complete"
    return jsonrpc.build_response(rpc_id, result)
