"""What one room needs of another room of its own row or of an adapter; injected by `app.py`.

Each port has a contract suite under tests/contract that every implementation passes.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from firewall.core.action import Headers
from firewall.core.errors import Unauthenticated
from firewall.core.exchange import Exchange
from firewall.core.finding import Finding
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.label import Label
from firewall.core.points import Point
from firewall.core.policy_input import PolicyInput
from firewall.core.principal import Principal
from firewall.core.record_form import Filled
from firewall.core.value import value


class Clock(Protocol):
    """Time as an argument."""

    def now_us(self) -> int:
        """Return wall time, microseconds since the Unix epoch, UTC."""

    def monotonic_ns(self) -> int:
        """Return a monotonic clock, nanoseconds."""


class Ids(Protocol):
    """Unguessable identifiers."""

    def new(self, prefix: str) -> str:
        """Return ``prefix_`` and 26 Crockford base32 characters (130 random bits)."""


# -- policy (decide) -------------------------------------------------------------------------------


class PolicyEngine(Protocol):
    """An embedded engine: bytes in, bytes out, no await. One per thread."""

    @property
    def name(self) -> str:
        """Return what decides now: ``regorus-rvm/0.13.0``, ``regorus/0.13.0``."""

    @property
    def revision(self) -> str:
        """Return the revision of the loaded bundle."""

    def decide(self, point: Point, question: PolicyInput | bytes) -> bytes:
        """Return the decision document's JSON; raises PolicyFault("engine_error").

        question: as `decide.question.ask` made it, so that its answer may be remembered; or a document from elsewhere.
        """


class RemotePolicyEngine(Protocol):
    """A policy engine in another process (OPA server)."""

    @property
    def name(self) -> str:
        """Return what decides: ``opa-server``."""

    @property
    def revision(self) -> str:
        """Return the revision of the bundle that must be loaded there."""

    async def decide_remote(self, point: Point, input_json: bytes) -> bytes:
        """Return the decision document's JSON within its deadline; raises PolicyFault."""


# -- inspection (detect) ------------------------------------------------------------------------------


class ScanStream(Protocol):
    """Stream-scoped inspector: what is found never depends on how the text was cut."""

    def feed(self, text: str) -> list[Finding]:
        """Return new findings; spans are code-point offsets from the stream's start, pointer is ""."""

    def calm(self, text: str) -> bool:
        """Take more text, however it was cut, if nothing can be found in it or with it; else take nothing."""

    def safe(self) -> int:
        """Return how many code points from the start can no longer become part of a finding."""

    def close(self) -> list[Finding]:
        """Return the last findings; afterwards everything is safe."""


class Scanner(Protocol):
    """Tier-1 inspection of canonical string leaves: one pass, then validators. Pure, synchronous."""

    def scan(self, body: JSON, point: Point, tenant: str) -> list[Finding]:
        """Return findings with pointers into ``body``; bounded by core.bounds.POLICY_FINDINGS."""

    def scan_all(self, bodies: Sequence[JSON], point: Point, tenant: str) -> list[list[Finding]]:
        """Return what `scan` returns of each body: one pass over all of them where nothing is found."""

    def open_stream(self, point: Point, tenant: str) -> ScanStream:
        """Return an inspector for one stream's text."""


# -- audit (record) --------------------------------------------------------------------------------------


@value
class Receipt:
    """Where a record stands in its log."""

    uid: str
    index: int


class AuditLog(Protocol):
    """One writer's Merkle log."""

    def append(self, record: JSONObject | Filled) -> Receipt:
        """Write one record and return after its ``write``; adds uid, time, log. Raises AuditUnavailable."""

    def append_all(self, records: Sequence[JSONObject]) -> list[Receipt]:
        """As `append`, for records that are there together, in order.

        Raises AuditUnavailable where not all were written; some may have been. Nothing may be sent then: whoever
        still wants to writes each anew.
        """

    async def durable(self, receipt: Receipt) -> None:
        """Return when ``fdatasync`` covers the record. Raises AuditUnavailable."""

    def hmac(self, tenant: str, value: bytes) -> str:
        """Return ``h:`` and 32 hex characters: keyed digest under the tenant's audit key."""


class Refusals(Protocol):
    """Records requests that were refused before anybody was known, as far as nobody can make a flood of it."""

    def note(self, fault: str, address: str, facts: JSONObject) -> str:
        """Return the id of the record, to be told to the caller; "" where the refusal was only counted.

        fault: a code of `core.errors.FAULTS`. address: of whoever asked. facts: further members of the record, of
        a form that was checked; never text that a caller chose. Never raises, never waits.
        """


class Telemetry(Protocol):
    """Counters that the guard feeds; names live in `record.telemetry` alone."""

    def decision(self, point: Point, effect: str, rules: Sequence[str], eval_us: int, amount: int = 1) -> None:
        """Count one decision, or so many alike; eval_us: of the one evaluation."""

    def finding(self, rule: str, point: Point) -> None:
        """Count one finding."""

    def exchange(self, exchange: Exchange, *, outcome: str, error: str = "") -> None:
        """Count a finished exchange, and make its span when it is kept; never raises."""


# -- state -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored value: bytes, version (1, 2, …) and expiry (Unix microseconds, 0 = never)."""

    key: str
    value: bytes
    version: int
    expires_us: int = 0


class Collection(Protocol):
    """Named, tenant-keyed durable map. Every operation is atomic across workers of the node.

    Expired entries are invisible. Synchronous: one local SQLite statement at most; never called
    per request on the hot path. Raises StateUnavailable (core.errors.BartizanError subclass,
    code ``state_unavailable``) when the store is not reachable: callers fail closed.
    """

    def get(self, tenant: str, key: str) -> Entry | None:
        """Return the live entry, or None."""

    def put(self, tenant: str, key: str, value: bytes, *, expires_us: int = 0, if_version: int | None = None) -> int:
        """Store and return the new version; if_version=0 means "must not exist".

        Raises Conflict (code ``state_conflict``) when if_version does not hold.
        """

    def take(self, tenant: str, key: str) -> Entry | None:
        """Return and remove the live entry: at most one caller ever gets it (one-shot state)."""

    def delete(self, tenant: str, key: str) -> bool:
        """Remove; return whether something was there."""

    def swap(self, tenant: str, key: str, before: bytes, after: bytes) -> bool:
        """Replace the bytes of a live entry where they are still ``before``; return whether they were.

        Version and expiry stay: for a change of how an entry is kept, not of what it says, so that whoever
        read it to write it back still can.
        """

    def scan(self, tenant: str, prefix: str = "") -> Iterator[Entry]:
        """Yield live entries by key order."""

    def tenants(self) -> Iterator[str]:
        """Yield each tenant that has a live entry, in order. For work over all of them, never for a request."""

    def add(self, tenant: str, key: str, delta: int, *, ceiling: int, expires_us: int = 0) -> int:
        """Add up to ``delta`` to a counter without passing ``ceiling``; return how much was granted.

        A negative delta gives back (never below 0). The expiry counts from creation.
        """


class Store(Protocol):
    """Opens collections by name."""

    def collection(self, name: str) -> Collection:
        """Return the collection; the same name gives the same data in every worker."""


class SharedMarks(Protocol):
    """The node's shared memory: one writer column per worker, readers OR all columns (DESIGN §6b-2)."""

    def read(self, key: bytes) -> int:
        """Return the OR of all workers' 64-bit marks for a 16-byte key; all ones when unreadable."""

    def raise_(self, key: bytes, marks: int) -> None:
        """OR marks into this worker's column; visible to every worker when it returns.

        Raises StateUnavailable when the table is full: the caller refuses.
        """

    def drop(self, key: bytes) -> None:
        """Take a key out of this worker's column, for what can never be asked again (a run that ended)."""

    def epoch(self) -> int:
        """Return the node's epoch; any worker's bump changes it for all."""

    def bump(self) -> int:
        """Raise the node's epoch (revocation, kill switch, registry change)."""


class UsedProofs(Protocol):
    """What may be used once on a node, remembered for at least two minutes."""

    def first(self, key: bytes, now_s: int, *, owner: str = "") -> bool:
        """Return whether a 16-byte key is new, and remember it; of a race no two callers get True.

        owner: who answers for the place; nobody gets more than are left. Raises StateUnavailable when nothing more can be remembered: the caller refuses.
        """


class Allowances(Protocol):
    """What the workers of a node spend from together within a window."""

    def take(self, key: bytes, window: int, wanted: int, *, ceiling: int) -> int:
        """Spend up to ``wanted`` of a 16-byte key's ceiling in a window; return how much was granted, 0 for none.

        Raises StateUnavailable when it cannot be counted: the caller refuses.
        """


# -- identity ----------------------------------------------------------------------------------------------------


ChallengeCode = Literal["token_missing", "token_invalid", "scope_missing", "details_missing", "step_up_required"]


class ResourceServer(Protocol):
    """Token → Principal, for one resource.

    headers: lower-case names, single values. method, path: of the request, for the proof that goes with a bound
    token; without them such a token is refused. handed: another worker of the node took the proof already.
    """

    def authenticate(
        self,
        headers: Mapping[bytes, bytes],
        resource: str,
        *,
        default_scope: str,
        method: str = "",
        path: str = "",
        handed: bool = False,
    ) -> Principal:
        """Return the verified principal whose token's ``aud`` means exactly ``resource``; never waits.

        Raises Unauthenticated: token_missing, token_invalid.
        """

    async def admit(
        self,
        headers: Mapping[bytes, bytes],
        resource: str,
        *,
        default_scope: str,
        method: str = "",
        path: str = "",
        handed: bool = False,
        address: str = "",
    ) -> Principal:
        """Return what `authenticate` returns, after waiting for what the token's issuer must tell first.

        address: of who asks; newcomers' questions at an issuer are shared out by it. Raises StateUnavailable too.
        """

    def still(self, headers: Mapping[bytes, bytes], resource: str, principal: Principal) -> bool:
        """Return whether the token that a stream was opened with is good now: not over, not revoked.

        The proof of a bound token is not asked for again: it was used when the stream was opened.
        """

    def note_refused(self, error: Unauthenticated, resource: str, address: str) -> str:
        """Record that a token was refused at a resource; return the id to tell, "" where there is none (`Refusals`)."""

    def challenge(self, resource: str, code: ChallengeCode, scope: str) -> bytes:
        """Return the WWW-Authenticate value (oauth reference §6.1; order of parameters matters)."""

    def challenges(self, resource: str, error: Unauthenticated, scope: str) -> Headers:
        """Return the headers of a 401: each challenge, and a nonce where one is wanted. scope: where the error names none."""


@dataclass(frozen=True, slots=True)
class ClientFacts:
    """What policy is told about a client that describes itself (CIMD).

    listed: its host stands in the configured list. stage: ``fetch`` before anything is sent to the host, and
    ``document`` about what it answered; what follows ``stage`` is empty before that.
    foreign_hosts: https redirect hosts that are neither the client's own host nor below it. keys_host: of its ``jwks_uri``,
    "" for none.
    """

    url: str
    host: str
    listed: bool
    stage: Literal["fetch", "document"]
    redirect_hosts: tuple[str, ...] = ()
    foreign_hosts: tuple[str, ...] = ()
    keys_host: str = ""
    loopback_only: bool = False
    auth_method: str = ""
    grant_types: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()


class ClientTrust(Protocol):
    """Decides which clients that describe themselves may be fetched, and used."""

    async def permits(self, facts: ClientFacts) -> bool:
        """Return whether policy allows it; every failure is False."""


class Reachable(Protocol):
    """What a caller's person could still give: the scopes that a step-up would bring."""

    def beyond(self, principal: Principal) -> frozenset[str]:
        """Return scopes that the token lacks and its person may give its client here; never waits.

        Raises StateUnavailable.
        """


class UpstreamCredentials(Protocol):
    """What we present to an upstream; never the inbound token (AUTH-02)."""

    def headers_for(
        self, principal: Principal, upstream: str
    ) -> Coroutine[None, None, tuple[tuple[bytes, bytes], ...]]:
        """Return the credential headers, () where none is configured; raises UpstreamFault("credentials")."""

    def key_for(self, principal: Principal, upstream: str) -> str:
        """Return which credential it would be: sessions are pooled per (upstream, this key)."""


class Labels(Protocol):
    """Flow labels of a caller."""

    def current(self, principal: Principal) -> Label:
        """Return the label; MOST_RESTRICTIVE when it cannot be read."""

    def raise_(self, principal: Principal, label: Label) -> None:
        """Join a label into the caller's; readable by every worker of the node on return."""
