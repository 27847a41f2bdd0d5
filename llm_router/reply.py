"""Our own words to an LLM client: the error object of its protocol, whole or as a stream's last event. Pure.

Nothing here has room for a peer's text: every reply is made from a row of `core.errors.FAULTS`, the
decision id and members of our own lists. (`Words.problem` shapes what a provider said; its text is
decided by the guard before it leaves.)

- OpenAI: in a stream the error is a plain ``data:`` event and no ``[DONE]`` follows; the client raises APIError.
- Anthropic: ``event: error`` with ``{"type":"error","error":{…},"request_id":…}``; ``message_stop`` never follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

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
    {
        "denied",
        "approval_pending",
        "killed",
        "quarantined",
        "budget_exceeded",
        "model_unpriced",
        "scope_missing",
        "upstream_consent",
    }
)
TYPES: Final = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}

DONE: Final = FixedReply(200, (), b"[DONE]")
"""The last event of an OpenAI stream that ended as it should."""


@dataclass(frozen=True, slots=True)
class Words:
    """How one protocol says an error. error_event: the name of the event that carries one in a stream, or ""."""

    protocol: Literal["openai", "anthropic"]
    id_header: bytes
    types: Mapping[int, str]
    server_type: str
    error_event: str = ""
    done: FixedReply | None = None

    def kind(self, status: int) -> str:
        """Return the error type of an HTTP status."""
        return self.types.get(status) or ("invalid_request_error" if status < 500 else self.server_type)

    def body(self, told: Fault, decision_id: str = "", param: str = "") -> JSONObject:
        """Return the error object of one row of the table of faults. param: a name of our own lists."""
        error: JSONObject = {"message": told.text, "type": self.kind(told.status), "code": told.code}
        if self.protocol == "anthropic":
            if param:
                error["param"] = param
            return {"type": "error", "error": error, "request_id": decision_id or None}
        if told.code == "budget_exceeded":
            error["type"] = "insufficient_quota"
        error["param"] = param or None
        if decision_id:
            error["decision_id"] = decision_id
        return {"error": error}

    def problem(self, status: int, message: str, code: str, exchange_id: str) -> JSONObject:
        """Return the error object of a provider's refusal. status: towards the client. message, code: the provider's."""
        error: JSONObject = {"message": message, "type": self.kind(status)}
        if self.protocol == "anthropic":
            return {"type": "error", "error": error, "request_id": exchange_id}
        return {"error": {**error, "code": code or None, "param": None}}


OPENAI: Final = Words("openai", b"x-request-id", TYPES, "server_error", done=DONE)
ANTHROPIC: Final = Words(
    "anthropic",
    b"request-id",
    {**TYPES, 413: "request_too_large", 504: "timeout_error"},
    "api_error",
    error_event="error",
)


def refused(refusal: Refusal, challenge: bytes = b"", *, words: Words = OPENAI) -> FixedReply:
    """Return the answer to a refused Action. challenge: WWW-Authenticate where scopes would cure it."""
    extra: Headers = ((b"www-authenticate", challenge),) if challenge else ()
    if refusal.retry_after_s:
        extra = (*extra, (b"retry-after", str(refusal.retry_after_s).encode()))
    return fixed(refusal.fault, refusal.decision_id, extra=extra, words=words)


def failed(error: BartizanError, decision_id: str = "", *, words: Words = OPENAI) -> FixedReply:
    """Return the answer for a fault that no decision took."""
    extra: Headers = ()
    if isinstance(error, BudgetExceeded):
        extra = ((b"retry-after", str(error.retry_after_s).encode()),)
    param = error.param if isinstance(error, Rejected) else ""
    return fixed(fault_of(error), decision_id, param=param, extra=extra, words=words)


def fixed(
    told: Fault, decision_id: str = "", *, param: str = "", extra: Headers = (), words: Words = OPENAI
) -> FixedReply:
    """Return one row of the table of faults as an error of the caller's protocol. param: a name of our own lists."""
    if decision_id:
        extra = (*extra, (words.id_header, decision_id.encode()))
    if told.code in FINAL:
        extra = (*extra, NO_RETRY)
    return FixedReply(told.status, (JSON_TYPE, *extra), strict_json.dumps(words.body(told, decision_id, param)))
