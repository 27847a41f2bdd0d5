"""Permit, Cleared and FixedReply: the choke point held by types (DESIGN §3, ADR 0004).

    guard.check(action) ──▶ Permit | Refusal
    guard.commit(permit) ──▶ Cleared          (the intent record's write has returned)
    send(cleared) / write(cleared)            (senders and writers accept nothing else)

A Permit or Cleared can be made only with the mint that this module hands out once, to
`firewall.enforce.guard`, when that module is imported. Code that tries to build one elsewhere does
not type-check (`Mint` cannot be constructed), fails at run time, and is named by
`tests/enforce/test_choke_point.py`.

A Cleared stays sendable when another worker of the node has to send it: `Border.seal` vouches for one that
this process holds, `Border.admit` makes it again from its bytes where that proof holds. The key is the node's,
so no bytes become Cleared that no guard of the node cleared, for the very purpose they were cleared for.

FixedReply is the other thing a writer accepts: our own words, rendered from the closed table of
faults by a gateway's `reply.py`; it has no room for a peer's text.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Final, Never, final

from firewall.core.action import Action, Headers
from firewall.core.decision import Decision
from firewall.core.errors import Fault, Malformed
from firewall.core.finding import Finding
from firewall.core.jsonvalue import JSON
from firewall.core.label import Label
from firewall.core.step_up import StepUp
from firewall.core.tool_details import ToolDetail


@final
class Mint:
    """The right to make Permits and Cleareds: shown to their constructors, made once, taken once."""

    __slots__ = ()

    def __init__(self, nobody: Never) -> None:
        raise TypeError("there is one mint")  # made below, past this


_ONLY: Final[Mint] = object.__new__(Mint)


@final
class Permit:
    """A permitted Action with its final body; not yet sendable: its record is not written.

    label: the caller's, with what this message raised. eval_us: of all evaluations. frame: as of the
    `PolicyInput` that was decided about, b"" after several rounds.
    """

    __slots__ = ("action", "body", "decision", "decision_id", "eval_us", "findings", "frame", "label", "payload")

    def __init__(
        self,
        mint: Mint,
        action: Action,
        body: JSON,
        payload: bytes,
        decision: Decision,
        decision_id: str,
        findings: tuple[Finding, ...],
        label: Label,
        eval_us: int = 0,
        frame: bytes = b"",
    ) -> None:
        if mint is not _ONLY:
            raise TypeError("a Permit comes from enforce.guard only")
        self.action = action
        self.body = body
        self.payload = payload
        self.decision = decision
        self.decision_id = decision_id
        self.findings = findings
        self.label = label
        self.eval_us = eval_us
        self.frame = frame


@final
class Cleared:
    """Bytes that may move: decided, transformed, recorded.

    payload: the canonical JSON to send, exactly; framing (SSE, a line, HTTP) is the writer's.
    body: the value that payload encodes; for routing and bookkeeping, never to be sent again.
    headers: regenerated from the final body.
    action: what was decided about, so that bytes which were kept can be decided about again before
        they move a second time (DESIGN §6b-4); None for a piece of a stream.
    """

    __slots__ = ("action", "body", "decision_id", "headers", "payload", "record_uid")

    def __init__(
        self,
        mint: Mint,
        body: JSON,
        payload: bytes,
        headers: Headers,
        decision_id: str,
        record_uid: str,
        action: Action | None = None,
    ) -> None:
        if mint is not _ONLY:
            raise TypeError("a Cleared comes from enforce.guard only")
        self.body = body
        self.payload = payload
        self.headers = headers
        self.decision_id = decision_id
        self.record_uid = record_uid
        self.action = action


@final
class Border:
    """Carries Cleareds between the workers of one node, without a second decision.

    key: 32 secret bytes that the workers of one node share and nobody else knows.
    """

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            raise ValueError("a border key has 32 bytes")
        self._key = key

    def seal(self, cleared: Cleared, purpose: str) -> bytes:
        """Return the proof that travels beside a Cleared's payload; purpose: where it may be sent, exactly."""
        if not isinstance(cleared, Cleared):
            raise TypeError("only what the guard cleared may leave")
        return self._proof(cleared.payload, purpose, cleared.decision_id, cleared.record_uid)

    def admit(
        self, proof: bytes, payload: bytes, body: JSON, *, purpose: str, decision_id: str, record_uid: str
    ) -> Cleared:
        """Return what another worker's guard cleared; body: the value that payload encodes.

        Raises Malformed("cleared_foreign"): no guard of this node cleared these bytes for this purpose.
        """
        if not hmac.compare_digest(proof, self._proof(payload, purpose, decision_id, record_uid)):
            raise Malformed("cleared_foreign")
        return Cleared(_ONLY, body, payload, (), decision_id, record_uid)

    def _proof(self, payload: bytes, purpose: str, decision_id: str, record_uid: str) -> bytes:
        parts = [part.encode() for part in ("bartizan cleared 1", purpose, decision_id, record_uid)]
        return hmac.digest(self._key, b"".join(b"%d:%b" % (len(p), p) for p in (*parts, payload)), "sha256")


_taken: list[bool] = []


def take_mint() -> Mint:
    """Return the process's only Mint; raises RuntimeError from the second call on."""
    if _taken:
        raise RuntimeError("the mint belongs to enforce.guard")
    _taken.append(True)
    return _ONLY


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refused Action: which fault to tell, and the decision id that operators look up.

    challenge: scopes that would cure it (HTTP 403 with a challenge), else empty.
    detail: the authorization detail that would cure it (RFC 9396), where the call is of a tool that is known.
    step_up: the sign-in that would cure it (HTTP 401 with a challenge, RFC 9470), else None.
    retry_after_s: for ``over_limit``.
    rules: rule ids, for operators and tests; never told to the caller.
    """

    fault: Fault
    decision_id: str
    challenge: tuple[str, ...] = ()
    retry_after_s: int = 0
    rules: tuple[str, ...] = ()
    step_up: StepUp | None = None
    detail: ToolDetail | None = None


@dataclass(frozen=True, slots=True)
class FixedReply:
    """Our own words to a caller: status, headers and a body rendered from a Fault."""

    status: int
    headers: Headers
    body: bytes
