"""Our own words to an LLM client: the error object of the OpenAI API, whole or as a stream's last event. Pure.

Nothing here has room for a peer's text: every reply is made from a row of `core.errors.FAULTS`, the
decision id and members of our own lists. In a stream the error is a plain ``data:`` event and no
``[DONE]`` follows: the openai client raises APIError on it.
"""

from __future__ import annotations

from typing import Final

from firewall.core.action import Headers
from firewall.core.errors import BartizanError, Fault, fault_of
from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import FixedReply, Refusal
from firewall.wire import strict_json
from llm_router.meter import BudgetExceeded
from llm_router.shape import Rejected

JSON_TYPE: Final = (b"content-type", b"application/json")
# Clients retry 408, 409, 429 and 5xx by themselves; what will not change by asking again says so.
NO_RETRY: Final = (b"x-should-retry", b"false")
FINAL: Final = frozenset(
    {"denied", "approval_pending", "killed", "quarantined", "budget_exceeded", "model_unpriced", "scope_missing"}
)
TYPES: Final = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}

DONE: Final = FixedReply(200, (), b"[DONE]")
"""The last event of a stream that ended as it should."""


def refused(refusal: Refusal, challenge: bytes = b"") -> FixedReply:
    """Return the answer to a refused Action. challenge: WWW-Authenticate where scopes would cure it."""
    extra: Headers = ((b"www-authenticate", challenge),) if refusal.challenge and challenge else ()
    if refusal.retry_after_s:
        extra = (*extra, (b"retry-after", str(refusal.retry_after_s).encode()))
    return fixed(refusal.fault, refusal.decision_id, extra=extra)


def failed(error: BartizanError, decision_id: str = "") -> FixedReply:
    """Return the answer for a fault that no decision took."""
    extra: Headers = ()
    if isinstance(error, BudgetExceeded):
        extra = ((b"retry-after", str(error.retry_after_s).encode()),)
    return fixed(fault_of(error), decision_id, param=error.param if isinstance(error, Rejected) else "", extra=extra)


def fixed(told: Fault, decision_id: str = "", *, param: str = "", extra: Headers = ()) -> FixedReply:
    """Return one row of the table of faults as an OpenAI error. param: a name of our own lists."""
    kind = TYPES.get(told.status) or ("invalid_request_error" if told.status < 500 else "server_error")
    error: JSONObject = {
        "message": told.text,
        "type": "insufficient_quota" if told.code == "budget_exceeded" else kind,
        "code": told.code,
        "param": param or None,
    }
    if decision_id:
        error["decision_id"] = decision_id
        extra = (*extra, (b"x-request-id", decision_id.encode()))
    if told.code in FINAL:
        extra = (*extra, NO_RETRY)
    return FixedReply(told.status, (JSON_TYPE, *extra), strict_json.dumps({"error": error}))
