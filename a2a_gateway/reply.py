"""Refusals and faults → A2A JSON-RPC errors in our own fixed words. Pure.

- The HTTP status is 200 for everything that has a place inside JSON-RPC (spec §9: clients read the
  error object, and the official ones throw it away behind any other status); bodies that could not
  be read as a request, sign-in, missing scope, size and rate keep their HTTP status.
- ``error.data`` is the list of ``@type`` objects that 1.0 demands; the decision id stands in
  ErrorInfo.metadata (a2a reference §2.7).
- No text of a caller or an agent can enter: there is no argument for it.
"""

from __future__ import annotations

from typing import Final

from a2a_gateway.action import DOMAIN, ERROR_INFO, STANDARD
from firewall.core.action import Headers
from firewall.core.errors import FAULTS, BartizanError, Fault, fault_of
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.permit import FixedReply, Refusal
from firewall.wire import jsonrpc, strict_json

OUR_DOMAIN: Final = "bartizan"

# Faults that A2A has its own code for, where the table of faults speaks for all protocols.
CODES: Final[dict[str, int]] = {"upstream_malformed": -32006, "media_type": -32005}

# Faults that are told inside JSON-RPC: the request was read, and this is its answer.
INSIDE: Final = frozenset(
    {
        "params_invalid",
        "method_unknown",
        "operation_unsupported",
        "push_unsupported",
        "task_unknown",
        "task_not_cancelable",
        "message_replayed",
        "agent_response",
        "denied",
        "approval_pending",
        "killed",
        "quarantined",
        "policy_unavailable",
        "audit_unavailable",
        "internal",
        *(code for code in FAULTS if code.startswith("upstream_")),
    }
)

PLAIN: Final[Headers] = (
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
)


def error_object(fault: Fault, rpc_id: jsonrpc.ID | None, reference: str = "") -> JSONObject:
    """Return the JSON-RPC error response for a fault.

    reference: decision id, or the exchange's id where nothing was decided; "" where there is none.
    """
    code = CODES.get(fault.code, fault.rpc_code)
    reason = STANDARD.get(code, ("", ""))[1]
    domain = DOMAIN if reason else OUR_DOMAIN
    metadata: JSONObject = {"decision_id": reference} if reference else {}
    data: JSON = [{"@type": ERROR_INFO, "reason": reason or fault.code.upper(), "domain": domain, "metadata": metadata}]
    return jsonrpc.build_error(rpc_id, code, fault.text, data)


def fixed(
    fault: Fault, rpc_id: jsonrpc.ID | None = None, reference: str = "", *, extra: Headers = (), retry_after_s: int = 0
) -> FixedReply:
    """Return the reply for a fault. extra: WWW-Authenticate, Allow."""
    status = 200 if fault.code in INSIDE and rpc_id is not None else fault.status
    headers = PLAIN + extra
    if retry_after_s:
        headers += ((b"retry-after", str(retry_after_s).encode()),)
    return FixedReply(status, headers, strict_json.dumps(error_object(fault, rpc_id, reference)))


def failed(error: BartizanError, rpc_id: jsonrpc.ID | None = None, reference: str = "") -> FixedReply:
    """Return the reply for an exception; its text is chosen by its code alone."""
    return fixed(fault_of(error), rpc_id, reference)


def refused(refusal: Refusal, rpc_id: jsonrpc.ID | None, challenge: bytes = b"") -> FixedReply:
    """Return the reply for a refusal; with a challenge it is a 403 that says which scope would cure it."""
    extra: Headers = ((b"www-authenticate", challenge),) if challenge else ()
    return fixed(refusal.fault, rpc_id, refusal.decision_id, extra=extra, retry_after_s=refusal.retry_after_s)


def document(value: JSONObject, *, max_age_s: int) -> FixedReply:
    """Return a public document of our own making (the keys that sign our cards)."""
    headers = ((b"content-type", b"application/json"), (b"cache-control", f"public, max-age={max_age_s}".encode()))
    return FixedReply(200, (*headers, (b"x-content-type-options", b"nosniff")), strict_json.dumps(value))
