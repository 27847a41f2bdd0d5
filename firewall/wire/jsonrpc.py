"""JSON-RPC 2.0 envelopes as MCP and A2A use them: no batches, no null ids, named parameters only.

`parse` keeps the members of the standard and drops the rest, so that what is built from its result
holds nothing that was not looked at. A message that mixes the members of two kinds is refused: one
peer would read it as a request and another as a response.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeAlias

from firewall.core.bounds import JSON_INTEGER, RPC_ID_CHARS
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject

ID: TypeAlias = "str | int"
METHOD_CHARS: Final = 256
_ABSENT: Final[JSON] = {"\x00": "absent"}  # compared by identity


@dataclass(frozen=True, slots=True)
class Request:
    """A call that expects an answer; params is {} when absent."""

    id: ID
    method: str
    params: JSONObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Notification:
    """A call without an answer; params is {} when absent."""

    method: str
    params: JSONObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Response:
    """A result; any JSON value."""

    id: ID
    result: JSON


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """An error; id is None when the peer could not read ours. ``data`` is None when absent."""

    id: ID | None
    code: int
    message: str
    data: JSON = None


Message: TypeAlias = "Request | Notification | Response | ErrorResponse"


def parse(value: JSON) -> Message:
    """Return the message that a strictly parsed JSON value is.

    An id is a string of at most 256 characters or an integer within ±(2**53 - 1); null only in an
    error response. Params, when present, are an object.
    Raises Malformed: rpc_batch, rpc_shape, rpc_id, params_invalid.
    Source: JSON-RPC 2.0 4, 5; MCP 2026-07-28 basic, messages (ids are never null, no batches).
    """
    if not isinstance(value, dict):
        raise Malformed("rpc_batch" if isinstance(value, list) else "rpc_shape")
    if value.get("jsonrpc") != "2.0":
        raise Malformed("rpc_shape")
    if "method" in value:
        return _call(value)
    if "params" in value or ("result" in value) == ("error" in value) or "id" not in value:
        raise Malformed("rpc_shape")
    if "result" in value:
        return Response(_id(value["id"]), value["result"])
    return _error(value)


def result_of(value: JSONObject) -> JSON:
    """Return the result of a message that has one, judged as `parse` judges a Response, without making one.

    Raises Malformed: rpc_shape, rpc_id.
    """
    if value.get("jsonrpc") != "2.0" or "id" not in value or "result" not in value:
        raise Malformed("rpc_shape")
    if "error" in value or "method" in value or "params" in value:
        raise Malformed("rpc_shape")
    _id(value["id"])
    return value["result"]


def _call(value: JSONObject) -> Request | Notification:
    method = value["method"]
    if not isinstance(method, str) or not 0 < len(method) <= METHOD_CHARS or "result" in value or "error" in value:
        raise Malformed("rpc_shape")
    params = value.get("params", _ABSENT)
    if params is _ABSENT:
        params = {}
    elif not isinstance(params, dict):
        raise Malformed("params_invalid")
    if "id" in value:
        return Request(_id(value["id"]), method, params)
    return Notification(method, params)


def _error(value: JSONObject) -> ErrorResponse:
    error = value["error"]
    if not isinstance(error, dict):
        raise Malformed("rpc_shape")
    code, message = error.get("code"), error.get("message")
    if not isinstance(code, int) or isinstance(code, bool) or not isinstance(message, str):
        raise Malformed("rpc_shape")
    rpc_id = None if value["id"] is None else _id(value["id"])
    return ErrorResponse(rpc_id, code, message, error.get("data"))


def _id(value: JSON) -> ID:
    if isinstance(value, str):
        if len(value) <= RPC_ID_CHARS:
            return value
    elif isinstance(value, int) and not isinstance(value, bool) and -JSON_INTEGER <= value <= JSON_INTEGER:
        return value
    raise Malformed("rpc_id")


def build_request(rpc_id: ID, method: str, params: JSONObject | None = None) -> JSONObject:
    """Return a request; ``params`` is left out when None."""
    message: JSONObject = {"jsonrpc": "2.0", "id": rpc_id, "method": method}
    if params is not None:
        message["params"] = params
    return message


def build_notification(method: str, params: JSONObject | None = None) -> JSONObject:
    """Return a notification; ``params`` is left out when None."""
    message: JSONObject = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        message["params"] = params
    return message


def build_response(rpc_id: ID, result: JSON) -> JSONObject:
    """Return a result response."""
    return {"jsonrpc": "2.0", "id": rpc_id, "result": result}


def build_error(rpc_id: ID | None, code: int, message: str, data: JSON = None) -> JSONObject:
    """Return an error response; ``data`` is left out when None."""
    error: JSONObject = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return {"jsonrpc": "2.0", "id": rpc_id, "error": error}
