"""``requestState``: what a modern client carries between a question and its answer, sealed by us.

A server's own ``requestState`` is opaque, held by the client and of any content; it never leaves as it
is (mcp reference §5.6). What leaves is AES-256-GCM over `firewall.state.vault`, bound to the caller and
the endpoint, around {upstream, method, digest of the parameters, nonce, end, worker, the server's state}.

- The retry must be the same request by the same caller at the same place: method and parameters are
  compared in constant time, the seal itself binds tenant, issuer, subject, client and endpoint.
- The nonce is burnt before anything else is looked at, in a store that all workers of the node share
  (DESIGN §6b-4): of two copies of one retry at most one goes on, whatever becomes of it.
- Changed, foreign, replayed, expired: one error, which does not say which.
- Bounds: the server's state, the whole token, and how many states of one caller are burnt per lifetime.

Source: MCP 2026-07-28, multi round-trip requests (SEP-2322): requestState is attacker-controlled input.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from firewall.core.bounds import KIB
from firewall.core.errors import Conflict, Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.ports import Clock, Collection
from firewall.core.principal import Principal
from firewall.state.vault import Sealer
from firewall.wire import canonical
from mcp_gateway.message import Call

UPSTREAM_STATE_CHARS: Final = 16 * KIB
TOKEN_CHARS: Final = 48 * KIB
TTL_S: Final = 600
BURNT_PER_CALLER: Final = 10_000  # in one lifetime of a state
ROUNDS: Final = 16  # questions after answers of one request; each round is a new decision
OURS: Final = -1  # in place of a worker: the question was our own (`linking`), and no upstream knows of it
_NONCE_BYTES: Final = 16
_PURPOSE: Final = "mcp.request_state"
_CARRIED: Final = ("inputResponses", "requestState")


@dataclass(frozen=True, slots=True)
class Sealed:
    """What a state stands for.

    parked: the id of the parked exchange that waits in ``worker``, "" where nothing waits. questions: key
    → what an answer is judged by. state: the server's own ``requestState``, None without one. rounds: how
    often this request was answered before.
    """

    upstream: str
    questions: JSONObject
    state: str | None = None
    parked: str = ""
    worker: int = 0
    rounds: int = 1

    @property
    def ours(self) -> bool:
        """Whether we asked, and not an upstream."""
        return self.worker == OURS and not self.parked


class StateSeal:
    """Seals and opens. burnt: the node's store of spent nonces, shared by its workers."""

    def __init__(
        self,
        sealer: Sealer,
        burnt: Collection,
        clock: Clock,
        *,
        ttl_s: int = TTL_S,
        token_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._sealer = sealer
        self._burnt = burnt
        self._clock = clock
        self._ttl_s = ttl_s
        self._token_bytes = token_bytes

    def seal(self, principal: Principal, endpoint: str, call: Call, sealed: Sealed) -> str:
        """Return the ``requestState`` that a client gets. Raises Malformed("handle_too_large")."""
        if sealed.state is not None and len(sealed.state) > UPSTREAM_STATE_CHARS:
            raise Malformed("handle_too_large")
        value: JSON = [
            self._token_bytes(_NONCE_BYTES).hex(),
            sealed.upstream,
            call.method,
            digest(call),
            sealed.questions,
            sealed.state,
            sealed.parked,
            sealed.worker,
            sealed.rounds,
        ]
        owner = _owner(principal, endpoint)
        token = self._sealer.seal(_PURPOSE, principal.tenant, value, ttl_s=self._ttl_s, owner=owner)
        if len(token) > TOKEN_CHARS:
            raise Malformed("handle_too_large")
        return token

    def open(self, principal: Principal, endpoint: str, call: Call, upstream: str) -> Sealed:
        """Return what the state of a retried request stands for, once.

        Raises Malformed("request_state") for a state that is not this caller's, not this request's, spent,
        expired or changed; StateUnavailable when nobody can say whether it was spent.
        """
        value = self._read(principal, endpoint, call.params.get("requestState"))
        nonce, told, method, fingerprint, questions, state, parked, worker, rounds = value
        self._burn(principal, str(nonce))
        same = hmac.compare_digest(str(method).encode(), call.method.encode())
        same &= hmac.compare_digest(str(fingerprint).encode(), digest(call).encode())
        same &= hmac.compare_digest(str(told).encode(), upstream.encode())
        if not same or not isinstance(questions, dict) or not isinstance(rounds, int) or not isinstance(worker, int):
            raise Malformed("request_state")
        kept = state if isinstance(state, str) else None
        return Sealed(upstream, questions, kept, str(parked), worker, rounds)

    def worker(self, principal: Principal, endpoint: str, token: JSON) -> int | None:
        """Return which worker holds the parked exchange of a state, None where any will do. Burns nothing."""
        try:
            value = self._read(principal, endpoint, token)
        except Malformed:
            return None  # whoever opens it will say so
        return value[7] if value[6] and isinstance(value[7], int) else None

    def _read(self, principal: Principal, endpoint: str, token: JSON) -> list[JSON]:
        if not isinstance(token, str) or len(token) > TOKEN_CHARS:
            raise Malformed("request_state")
        try:
            value = self._sealer.open(_PURPOSE, principal.tenant, token, owner=_owner(principal, endpoint))
        except Malformed:
            raise Malformed("request_state") from None
        if not isinstance(value, list) or len(value) != 9:
            raise Malformed("request_state")
        return value

    def _burn(self, principal: Principal, nonce: str) -> None:
        """Spend a nonce. Raises Malformed("request_state") when it was spent, or too many were."""
        ends_us = self._clock.now_us() + self._ttl_s * 1_000_000
        count = "count/" + hashlib.sha256(_owner(principal, "").encode()).hexdigest()
        if not self._burnt.add(principal.tenant, count, 1, ceiling=BURNT_PER_CALLER, expires_us=ends_us):
            raise Malformed("request_state")
        try:
            self._burnt.put(principal.tenant, f"nonce/{nonce}", b"", expires_us=ends_us, if_version=0)
        except Conflict:
            raise Malformed("request_state") from None


def digest(call: Call) -> str:
    """Return the digest of a request's parameters without what a retry adds to them (RFC 8785, SHA-256)."""
    return canonical.digest({key: member for key, member in call.params.items() if key not in _CARRIED})


def carried(call: Call) -> bool:
    """Return whether a request is a retry: whatever we ask, a state of ours goes with it.

    Answers without one answer nothing that was asked here. The request is a first one and is sent without them, so that
    its server asks what it needs; only then they may be looked at (`asking`).
    """
    return "requestState" in call.params


def _owner(principal: Principal, endpoint: str) -> str:
    return "\0".join((principal.issuer, *principal.key, endpoint))
