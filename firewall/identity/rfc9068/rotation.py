"""Rotation of the token-signing key, with overlap: nobody ever meets a key that was not published before it signed.

    next ──(90 days, or `bartizan keys rotate`)──▶ current ──▶ retired, its public half alone ──(48 h)──▶ gone

One record in the store says which generation of the key files is current; every worker follows it when the
node's epoch moves. The private half of a retired key is removed from the disk with the rotation. Its public half
stays published for as long as a token it signed can live, and a day more (OP-04).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, Literal

from joserfc.jwk import ECKey

from firewall.core.errors import ConfigFault, Conflict, StateUnavailable
from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import Clock, SharedMarks, Store
from firewall.identity import records
from firewall.identity.records import SECOND_US
from firewall.identity.rfc9068.tokens import SigningKeys, public_jwk
from firewall.identity.settings import Record
from firewall.identity.throttle import NODE
from firewall.state.keys import KeyRing

NAME: Final = "as"
LIFETIME_S: Final = 90 * 24 * 3600
# The longest life of a token that our resource server accepts is a day (`rfc6750.resource_server`); then a day more.
PUBLISHED_S: Final = 2 * 24 * 3600
TRIES: Final = 8
PUBLIC: Final = ("kty", "crv", "x", "y")

State = Literal["current", "next", "retired"]


@dataclass(frozen=True, slots=True)
class Retired:
    """A key that signs no more: its public members, and until when (Unix seconds) it is published."""

    generation: int
    jwk: JSONObject
    until_s: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Which generation signs, since when (Unix seconds), and what it followed."""

    current: int
    since_s: int
    retired: tuple[Retired, ...] = ()


@dataclass(frozen=True, slots=True)
class KeyState:
    """One published key, for operators. since_s, until_s: Unix seconds, 0 where it does not apply."""

    kid: str
    state: State
    since_s: int = 0
    until_s: int = 0


class KeyRotation:
    """Decides which key signs, and brings `keys` in line. One per worker; they agree through the store."""

    def __init__(self, ring: KeyRing, store: Store, marks: SharedMarks, clock: Clock, record: Record) -> None:
        """Read or make the plan, and rotate when it is time. Raises ConfigFault, StateUnavailable, AuditUnavailable."""
        self._ring = ring
        self._plans = store.collection("signing_keys")
        self._marks = marks
        self._clock = clock
        self._record = record
        self._plan = self._begin()
        self._published: tuple[int, ...] = ()
        self.keys = SigningKeys(*self._load(self._plan))
        self.keep()

    def keep(self) -> bool:
        """Follow the plan, and rotate when the current key is 90 days old; return whether it did. For a timer."""
        self.refresh()
        if self._now_s() - self._plan.since_s < LIFETIME_S:
            return False
        self.rotate(by="age")
        return True

    def refresh(self) -> None:
        """Follow what another worker decided, and let go of what has been published for long enough."""
        for left in reversed(range(TRIES)):
            _, plan = self._read()
            published = (plan.current, *(old.generation for old in self._live(plan)))
            if published == self._published:
                return  # an epoch moves for many reasons; files are read for this one alone
            try:
                keys = self._load(plan)
            except ConfigFault:
                if not left:
                    raise
                continue  # rotated between the two readings: the plan says so by now
            self.keys.replace(*keys)
            self._plan, self._published = plan, published
            return

    def rotate(self, *, by: str, compromised: bool = False) -> str:
        """Let the next key sign from now on; return its id. Every worker follows within a second.

        by: who asked, for the record. compromised: the state directory may have leaked: the key that was
        already published as the next one is passed over, and no old key is published any longer, so that every
        token there is ends now.
        """
        before = self._plan.current
        for left in reversed(range(TRIES)):
            version, plan = self._read()
            if plan.current != before and not compromised:
                break  # another worker did
            try:
                made = self._successor(plan, compromised=compromised)
            except ConfigFault:
                if not left:
                    raise
                continue  # the file is gone: another worker is rotating at this moment
            # The files first: whoever reads the plan finds the keys that it names.
            self._make(made)
            try:
                self._plans.put(NODE, NAME, _encode(made), if_version=version)
            except Conflict:
                continue
            self._marks.bump()
            self._forget_before(made.current)
            self.refresh()
            self._record("identity.key.rotated", {"kid": self.keys.kid, "by": by, "compromised": compromised})
            return self.keys.kid
        self.refresh()
        return self.keys.kid

    def states(self) -> Iterator[KeyState]:
        """Yield what is published: the current key, the next one, and those that still verify."""
        current, following, *_ = self.keys.by_kid
        yield KeyState(current, "current", self._plan.since_s, self._plan.since_s + LIFETIME_S)
        yield KeyState(following, "next", self._plan.since_s + LIFETIME_S)
        for old in self._live(self._plan):
            yield KeyState(ECKey.import_key(_members(old)).thumbprint(), "retired", until_s=old.until_s)

    # -- the plan ---------------------------------------------------------------------------------------

    def _begin(self) -> Plan:
        """Return the plan of this node; its first worker makes one."""
        present = self._ring.generations("ec", NAME)
        if self._plans.get(NODE, NAME) is None:
            # Of a node older than this plan the newest file is what has signed until now.
            with suppress(Conflict):
                first = Plan(current=max(present, default=1), since_s=self._now_s())
                self._plans.put(NODE, NAME, _encode(first), if_version=0)
        _, plan = self._read()
        if present and plan.current not in present and plan.current < max(present):
            # The store is older than the key files (a restored backup): go on from the oldest key that is left.
            plan = replace(plan, current=min(g for g in present if g > plan.current), since_s=self._now_s())
            self._plans.put(NODE, NAME, _encode(plan))
        self._make(plan)
        return plan

    def _make(self, plan: Plan) -> None:
        for generation in (plan.current, plan.current + 1):
            self._ring.make("ec", NAME, generation)

    def _read(self) -> tuple[int, Plan]:
        entry = self._plans.get(NODE, NAME)
        if entry is None:
            raise StateUnavailable("signing_keys")
        value = records.decode(entry.value)
        retired = tuple(
            Retired(records.number(old, "generation"), _public_of(old), records.number(old, "until_s"))
            for old in records.objects(value, "retired")
            if all(isinstance(old.get(name), str) for name in PUBLIC)
        )
        return entry.version, Plan(records.number(value, "current"), records.number(value, "since_s"), retired)

    def _successor(self, plan: Plan, *, compromised: bool) -> Plan:
        now_s = self._now_s()
        if compromised:
            return Plan(plan.current + 2, now_s)
        leaving = public_jwk(ECKey.import_key(self._ring.ec_key(NAME, plan.current)))
        old = Retired(plan.current, leaving, now_s + PUBLISHED_S)
        return Plan(plan.current + 1, now_s, (old, *self._live(plan)))

    def _load(self, plan: Plan) -> list[ECKey]:
        private = [ECKey.import_key(self._ring.ec_key(NAME, g)) for g in (plan.current, plan.current + 1)]
        return [*private, *(ECKey.import_key(_members(old)) for old in self._live(plan))]

    def _live(self, plan: Plan) -> tuple[Retired, ...]:
        now_s = self._now_s()
        return tuple(old for old in plan.retired if now_s < old.until_s)

    def _forget_before(self, generation: int) -> None:
        """Remove the private halves of what signs no more; another worker may be quicker."""
        for old in self._ring.generations("ec", NAME):
            if old < generation:
                with suppress(ConfigFault):
                    self._ring.retire("ec", NAME, old)

    def _now_s(self) -> int:
        return self._clock.now_us() // SECOND_US


def _encode(plan: Plan) -> bytes:
    retired: list[JSONObject] = [
        {**old.jwk, "generation": old.generation, "until_s": old.until_s} for old in plan.retired
    ]
    return records.encode({"current": plan.current, "since_s": plan.since_s, "retired": list(retired)})


def _public_of(old: JSONObject) -> JSONObject:
    return {name: old[name] for name in PUBLIC}


def _members(old: Retired) -> dict[str, str | list[str]]:
    return {name: str(value) for name, value in old.jwk.items()}
