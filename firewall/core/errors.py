"""The one exception tree, and the closed list of faults a caller can be told about.

    BartizanError
    ├── Malformed            bytes that no peer of ours may send (wire, gateway message files)
    ├── Unauthenticated      no verified principal (identity); carries the challenge scope
    ├── UpstreamFault        the real server failed: unreachable, timeout, malformed, cut stream
    ├── PolicyFault          the engine did not answer with a decision: always a deny
    ├── AuditUnavailable     no record can be written: nothing may be forwarded
    ├── StateUnavailable     the store or shared memory does not answer: callers fail closed
    ├── Conflict             a compare-and-set lost its race
    └── ConfigFault          refuses to start; text names the setting and the mend

Rules:
- ``code`` is stable lower_snake and listed in docs/errors.md; ``detail`` is for operators
  and never holds bytes that a peer chose; ``fix`` says what to do next.
- What a caller sees is chosen by ``code`` alone, from `FAULTS`: a fixed text (DESIGN §8).
  No exception message ever reaches a reply.
- JSON-RPC codes of our own lie in -31999…-31000, outside every reserved range
  (JSON-RPC 2.0 §5.1; MCP 2026-07-28 reserves -32099…-32020).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

CONFIG_EXIT: Final = 4  # a process that ends for a ConfigFault, as documented in docs/cli.md


class BartizanError(Exception):
    """Root of every error that we raise on purpose."""

    def __init__(self, code: str, detail: str = "", *, fix: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail
        self.fix = fix

    def diagnostics(self) -> str:
        """Return the operator's text: code, detail and the mend, one per line."""
        lines = [self.code]
        if self.detail:
            lines.append(self.detail)
        if self.fix:
            lines.append(f"mend: {self.fix}")
        return "\n".join(lines)


class Malformed(BartizanError):
    """Bytes or a message that breaks a rule of its standard."""


class Unauthenticated(BartizanError):
    """No verified principal; ``scope`` is what a challenge should ask for (space separated).

    about: whose token it was, where that was verified and is over: tenant, subject, client, gid; for the record.
    """

    def __init__(self, code: str, detail: str = "", *, scope: str = "") -> None:
        super().__init__(code, detail)
        self.scope = scope
        self.about: dict[str, str] = {}


class UpstreamFault(BartizanError):
    """The upstream failed: ``unreachable``, ``timeout``, ``malformed``, ``too_large``, ``cut_stream``, ``blocked_address``."""


class ConsentNeeded(UpstreamFault):
    """The person must first connect an account of their own at an upstream.

    link: an address on our own origin, the only one that a caller is ever told; "" where nobody can be
    asked (a service, an operator's token). elicitation_id: names this asking, in the link too.
    more: an account is connected, and the upstream wants more than it was connected for.
    """

    def __init__(self, upstream: str, link: str = "", elicitation_id: str = "", *, more: bool = False) -> None:
        super().__init__("consent", "the account allows too little" if more else "nobody has connected an account")
        self.more = more
        self.upstream = upstream
        self.link = link
        self.elicitation_id = elicitation_id


class PolicyFault(BartizanError):
    """No usable decision: ``engine_error``, ``decision_invalid``, ``input_invalid``, ``policy_unavailable``, ``obligation_failed``."""


class AuditUnavailable(BartizanError):
    """The audit log took no record; the caller must not forward anything."""


class ConfigFault(BartizanError):
    """A setting is wrong; the process refuses to start."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What a caller is told: HTTP status, JSON-RPC code and one fixed sentence."""

    code: str
    status: int
    rpc_code: int
    text: str


def _table(*rows: tuple[str, int, int, str]) -> dict[str, Fault]:
    return {code: Fault(code, status, rpc, text) for code, status, rpc, text in rows}


# JSON-RPC codes of our own (DESIGN §8).
RPC_SCOPE = -31401
RPC_PENDING = -31402
RPC_DENIED = -31403
RPC_CONSENT = -31407
RPC_LIMIT = -31429
RPC_UPSTREAM = -31502
RPC_UNAVAILABLE = -31503

# Of upstream_consent, where an account is connected and the upstream wants more of it.
CONSENT_MORE = "The upstream asks for more than your account there was connected for. Connect again to allow more."

FAULTS: dict[str, Fault] = _table(
    # -- strict parsing (wire) -------------------------------------------------------------
    ("json_invalid", 400, -32700, "The body is not valid JSON."),
    ("json_not_utf8", 400, -32700, "The body is not valid UTF-8."),
    ("json_duplicate_key", 400, -32600, "An object repeats a key."),
    ("json_too_deep", 400, -32600, "The body is nested too deeply."),
    ("json_surrogate", 400, -32600, "A string holds a lone surrogate."),
    ("json_number", 400, -32600, "A number is outside the allowed range."),
    ("body_too_large", 413, -32600, "The body is too large."),
    ("body_missing", 400, -32600, "A body is required."),
    ("rpc_shape", 400, -32600, "The message is not a JSON-RPC 2.0 message."),
    ("rpc_batch", 400, -32600, "Batches are not supported."),
    ("rpc_id", 400, -32600, "The request id is not allowed."),
    ("params_invalid", 400, -32602, "The parameters are not valid."),
    ("resource_unknown", 400, -32602, "The resource is not known here."),
    ("method_unknown", 404, -32601, "The method is not supported here."),
    ("header_mismatch", 400, -32020, "A header and the body do not agree."),
    ("era_mixed", 400, -32020, "The message mixes two protocol eras."),
    ("version_unsupported", 400, -32022, "The protocol version is not supported."),
    ("request_state", 400, -32602, "The request state is not known here."),
    ("answer_invalid", 400, -32602, "An answer does not fit its question."),
    ("capability_missing", 400, -32021, "The client did not declare a capability that this needs."),
    ("mcp_task_unknown", 400, -32602, "The task is not known here."),
    ("session_missing", 400, -32600, "A session id is required."),
    ("session_unknown", 404, -32600, "The session is not known."),
    ("sessions_full", 503, -32603, "Too many sessions are open; try again later."),
    ("stream_open", 409, -32600, "This session has an open stream already."),
    ("stream_unknown", 400, -32600, "The event stream is not known."),
    ("streams_full", 429, RPC_LIMIT, "Too many streams are held open."),
    # -- A2A (codes of A2A 1.0 §5.4) --------------------------------------------------------
    ("a2a_version", 400, -32009, "This A2A version is not supported; version 1.0 is."),
    ("operation_unsupported", 400, -32004, "This operation is not supported here."),
    ("push_unsupported", 400, -32003, "Push notifications are not supported here."),
    ("task_unknown", 404, -32001, "Task not found."),
    ("task_not_cancelable", 409, -32002, "Task cannot be canceled."),
    ("message_replayed", 409, -32600, "This message id was used before."),
    ("agent_response", 502, -32006, "The agent's answer was not acceptable."),
    # -- edge ------------------------------------------------------------------------------
    ("http_desync", 400, -32600, "The request is not acceptable."),
    ("host_foreign", 421, -32600, "This host is not served here."),
    ("origin_foreign", 403, -32600, "This origin is not allowed."),
    ("path_unknown", 404, -32601, "Not found."),
    ("method_not_allowed", 405, -32600, "This HTTP method is not allowed here."),
    ("not_acceptable", 406, -32600, "The Accept header does not allow a reply."),
    ("media_type", 415, -32600, "The content type is not supported."),
    ("headers_too_large", 431, -32600, "The headers are too large."),
    ("timeout_request", 408, -32600, "The request took too long to arrive."),
    # -- identity --------------------------------------------------------------------------
    ("token_missing", 401, RPC_SCOPE, "Sign in to use this resource."),
    ("token_invalid", 401, RPC_SCOPE, "The access token is not valid for this resource."),
    ("scope_missing", 403, RPC_SCOPE, "More permission is needed for this operation."),
    ("details_missing", 403, RPC_SCOPE, "The access token permits other calls only, by its authorization details."),
    ("step_up_required", 401, RPC_SCOPE, "A stronger or fresher sign-in is needed for this operation."),
    # -- decision --------------------------------------------------------------------------
    ("denied", 403, RPC_DENIED, "This action is not allowed by policy."),
    ("arguments_mismatch", 403, RPC_DENIED, "The arguments do not fit the tool's schema."),
    (
        "approval_pending",
        403,
        RPC_PENDING,
        "This action needs a person's approval, which cannot be given here yet: it was not done.",
    ),
    ("killed", 403, RPC_DENIED, "This route is stopped by an operator."),
    ("over_limit", 429, RPC_LIMIT, "Too many requests; try again later."),
    ("quarantined", 403, RPC_DENIED, "This definition was never approved, or changed since it was."),
    ("budget_exceeded", 429, RPC_LIMIT, "The budget of this caller is spent for today."),
    ("model_unpriced", 403, RPC_DENIED, "This model has no known price and may not be used."),
    ("model_unknown", 404, -32602, "This model is not known here."),
    ("policy_unavailable", 503, RPC_UNAVAILABLE, "No decision could be taken; nothing was sent."),
    ("audit_unavailable", 503, RPC_UNAVAILABLE, "No record could be written; nothing was sent."),
    ("state_unavailable", 503, RPC_UNAVAILABLE, "The state could not be read; nothing was sent."),
    ("handle_invalid", 404, -32602, "The id is not known here."),
    ("internal", 500, RPC_UNAVAILABLE, "The request could not be handled; nothing was sent."),
    # -- upstream --------------------------------------------------------------------------
    ("upstream_unreachable", 502, RPC_UPSTREAM, "The upstream could not be reached."),
    ("upstream_timeout", 504, RPC_UPSTREAM, "The upstream did not answer in time."),
    ("upstream_malformed", 502, RPC_UPSTREAM, "The upstream's answer was not acceptable."),
    ("upstream_too_large", 502, RPC_UPSTREAM, "The upstream's answer was too large."),
    ("upstream_cut_stream", 502, RPC_UPSTREAM, "The upstream ended its answer early."),
    ("upstream_blocked", 502, RPC_UPSTREAM, "The upstream's address is not allowed."),
    ("upstream_failed", 502, RPC_UPSTREAM, "The upstream could not handle the request."),
    ("upstream_unanswered", 504, RPC_UPSTREAM, "A question of the upstream was not answered."),
    ("upstream_credentials", 502, RPC_UPSTREAM, "No credential for the upstream is available."),
    ("upstream_consent", 403, RPC_CONSENT, "Connect your own account at the upstream first."),
)


def fault(code: str) -> Fault:
    """Return the fixed answer for an error code; an unlisted code is told as ``internal``."""
    return FAULTS.get(code) or FAULTS["internal"]


def consent_text(needed: ConsentNeeded) -> str:
    """Return the sentence for a person who must connect an account, or connect it again; no link in it."""
    return CONSENT_MORE if needed.more else fault("upstream_consent").text


def fault_of(error: BartizanError) -> Fault:
    """Return the fixed answer for an exception (upstream codes are prefixed).

    The one text with a place in it: where a person connects an account, on our own origin.
    """
    if isinstance(error, ConsentNeeded) and error.link:
        known = fault("upstream_consent")
        return replace(known, text=f"{consent_text(error)} Open {error.link} in a browser, then try again.")
    if isinstance(error, UpstreamFault):
        return fault(f"upstream_{error.code.removeprefix('upstream_').replace('blocked_address', 'blocked')}")
    if isinstance(error, PolicyFault):
        return FAULTS["policy_unavailable"]
    if isinstance(error, AuditUnavailable):
        return FAULTS["audit_unavailable"]
    return fault(error.code)


class StateUnavailable(BartizanError):
    """The store or the shared memory cannot answer; callers fail closed."""

    def __init__(self, detail: str = "") -> None:
        super().__init__("state_unavailable", detail)


class Conflict(BartizanError):
    """A compare-and-set lost its race."""

    def __init__(self, detail: str = "") -> None:
        super().__init__("state_conflict", detail)
