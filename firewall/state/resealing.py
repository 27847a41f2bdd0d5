"""Replacement of the envelope secret, and of every key and row under it, while workers run.

    begun ──▶ secret made ──▶ each tenant has a new key ──▶ each row sealed anew ──(5 minutes)──▶ old ones removed

- What is left to do is read off the keys and rows themselves; the plan in the store only says that a rotation is
  under way, and under which secret it ends. So it can be killed anywhere: whoever steps next goes on there, a worker's
  timer or the next command.
- Nothing is unreadable in between: old keys and secrets stay until no row is under them, and for `SETTLES_S` after
  every tenant had its new key. What a worker sealed under an old key just before is stored long before that, found and
  sealed anew; one that stood still for longer was ended by its watchdog.
- A row that does not open (its key is lost, it was damaged) is counted and left alone, and so is a key that no
  secret here opens: whoever puts the lost secret back has both again.
- An older secret beside a newer one without a plan (a backup was restored, its secret put back) is a rotation too.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, Literal

import orjson

from firewall.core.errors import ConfigFault, Conflict
from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import Clock, Store
from firewall.state.envelope import Envelopes
from firewall.state.keys import KeyRing

NAME: Final = "envelope"
SETTLES_S: Final = 300
STEP_S: Final = 1.0  # of one step; whoever waits for it hears how far it is
_LEASE_US: Final = 5_000_000  # two at once do no harm but work twice
_SECOND_US: Final = 1_000_000
_TENANT: Final = "_node"
_PLAN: Final = "plan"
_LEASE: Final = "lease"

State = Literal["idle", "sealing", "settling"]


@dataclass(frozen=True, slots=True)
class Plan:
    """A rotation. generation: of the secret that it ends under; made: that secret was written.

    told: the record has it. turned_us: since when every tenant has a key of it, 0 before. rows: sealed anew.
    finished_us: 0 while it is under way. Times in Unix microseconds.
    """

    generation: int
    by: str
    begun_us: int
    made: bool = False
    told: bool = False
    turned_us: int = 0
    rows: int = 0
    finished_us: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is. rows: sealed ones in all; left: to be sealed anew; unreadable: of these, not to be opened here.

    generations: of the secrets that are there, oldest first. retires_s: when older ones can go (Unix seconds), 0 for
    unknown or none.
    """

    state: State
    generation: int
    by: str
    begun_s: int
    rows: int
    left: int
    unreadable: int
    generations: tuple[int, ...]
    retires_s: int = 0


@dataclass(slots=True)
class _Look:
    """What one pass over the rows under older keys came to."""

    sealed: int = 0
    left: int = 0
    unreadable: int = 0


class EnvelopeRotation:
    """One per worker; they agree through the store. Thread-safe as its store is: every step is a compare-and-set.

    record(event, facts): see `identity.settings.Record`.
    """

    def __init__(
        self,
        ring: KeyRing,
        store: Store,
        envelopes: Envelopes,
        clock: Clock,
        record: Callable[[str, JSONObject], None],
    ) -> None:
        self._ring = ring
        self._plans = store.collection("envelope_rotation")
        self._envelopes = envelopes
        self._clock = clock
        self._record = record

    def rotate(self, *, by: str) -> Progress:
        """Begin a rotation, or go on with the one that is under way, for one step. by: who asked, for the record.

        One whose secret is lost is given up for a new one. Raises as `step`.
        """
        version, plan = self._read()
        present = self._ring.generations("secret", NAME)
        if plan is None or plan.finished_us or (plan.made and plan.generation not in present):
            generation = max((*present, plan.generation if plan else 0)) + 1
            with suppress(Conflict):  # another worker began one at this moment: that one goes on
                self._write(Plan(generation, by, self._clock.now_us()), version)
        return self.step()

    def step(self) -> Progress:
        """Go on with what is under way for about `STEP_S`; return how far it is.

        Raises ConfigFault("key_unavailable") for a rotation whose secret is not there any more, StateUnavailable,
        AuditUnavailable.
        """
        found = self._leased() if self.is_under_way() else None
        return self.progress() if found is None else self._told(found)

    def keep(self) -> bool:
        """Go on with what is under way, if anything is; return whether to come back soon. For a timer; raises as `step`."""
        if not self.is_under_way():
            return False
        found = self._leased()
        return found is None or found.left > 0

    def is_under_way(self) -> bool:
        """Return whether there is something to do: a plan, or an older secret beside the newest."""
        _, plan = self._read()
        return (plan is not None and not plan.finished_us) or len(self._ring.generations("secret", NAME)) > 1

    def progress(self) -> Progress:
        """Return how far it is, read off the rows; changes nothing."""
        return self._told(self._look(seals=False) if self.is_under_way() else _Look())

    # -- one step ---------------------------------------------------------------------------------------

    def _leased(self) -> _Look | None:
        """Take one step, None where another worker is at it."""
        until_us = self._clock.now_us() + _LEASE_US
        try:
            self._plans.put(_TENANT, _LEASE, b"", expires_us=until_us, if_version=0)
        except Conflict:
            return None
        try:
            return self._go_on()
        except Conflict:
            return None  # its lease ran out, and another worker went on
        finally:
            self._plans.delete(_TENANT, _LEASE)

    def _go_on(self) -> _Look:
        """Do what is next until all is done, time is over, or it is time to wait."""
        ends_ns = self._clock.monotonic_ns() + int(STEP_S * 1e9)
        version, plan = self._ready()
        if self._turn() or not plan.turned_us:
            plan = replace(plan, turned_us=self._clock.now_us())
            version = self._write(plan, version)
        found = self._look(seals=True, ends_ns=ends_ns)
        if found.sealed:
            plan = replace(plan, rows=plan.rows + found.sealed)
            version = self._write(plan, version)
        if not found.left and self._clock.now_us() >= plan.turned_us + SETTLES_S * _SECOND_US:
            self._finish(plan, version)
        return found

    def _ready(self) -> tuple[int, Plan]:
        """Return the plan and its version, with its secret on the disk and its beginning in the record."""
        version, plan = self._read()
        present = self._ring.generations("secret", NAME)
        newest = max(present, default=0)
        if plan is None or plan.finished_us or plan.generation < newest:
            plan = Plan(newest, "restore", self._clock.now_us(), made=True)
            version = self._write(plan, version)
        if not plan.made:
            self._ring.make("secret", NAME, plan.generation)
            plan = replace(plan, made=True)
            version = self._write(plan, version)
        elif plan.generation not in present:
            raise ConfigFault(
                "key_unavailable",
                f"secret-{NAME}.{plan.generation}: a rotation to it is under way",
                fix="put the file back into keys/ from its copy, or begin anew: bartizan keys rotate --envelope",
            )
        if not plan.told:
            # Recorded twice where we are killed in between, which is better than never.
            self._record("identity.envelope.rotated", {"generation": plan.generation, "by": plan.by})
            plan = replace(plan, told=True)
            version = self._write(plan, version)
        return version, plan

    def _turn(self) -> bool:
        """Give every tenant a key under the newest secret; return whether any had none."""
        turned = False
        for tenant in self._envelopes.tenants():
            if not self._envelopes.is_turned(tenant):
                self._envelopes.turn(tenant)
                turned = True
        return turned

    def _look(self, *, seals: bool, ends_ns: int = 0) -> _Look:
        """Go through the rows under older keys. seals: seal them anew, until ``ends_ns``, then only count them."""
        found = _Look()
        for tenant, row in self._envelopes.older():
            if found.sealed and self._clock.monotonic_ns() >= ends_ns:  # one at least: no step is for nothing
                found.left += 1
            elif not self._envelopes.opens(tenant, row):
                found.unreadable += 1
            elif seals:
                self._envelopes.reseal(tenant, row)
                found.sealed += 1
            else:
                found.left += 1
        return found

    def _finish(self, plan: Plan, version: int) -> None:
        """Remove what nothing is under any more, first keys and then secrets, and say so."""
        if self._look(seals=False).left:
            return  # it changed while we looked: the next step has it
        for tenant, key_id in list(self._envelopes.older_keys()):
            self._envelopes.forget(tenant, key_id)
        for generation in self._ring.generations("secret", NAME):
            if generation < plan.generation:
                with suppress(ConfigFault):
                    self._ring.retire("secret", NAME, generation)
        if min(self._ring.generations("secret", NAME)) < plan.generation:
            return  # it could not be removed: tried again
        self._record("identity.envelope.retired", {"generation": plan.generation, "rows": plan.rows})
        self._write(replace(plan, finished_us=self._clock.now_us()), version)

    def _told(self, found: _Look) -> Progress:
        _, plan = self._read()
        generations = tuple(self._ring.generations("secret", NAME))
        if plan is None or plan.finished_us:
            state: State = "sealing" if len(generations) > 1 else "idle"
            turned_us = 0
        else:
            state = "sealing" if found.left or not plan.turned_us else "settling"
            turned_us = plan.turned_us
        return Progress(
            state=state,
            generation=max((*generations, 0 if plan is None or plan.finished_us else plan.generation)),
            by=plan.by if plan is not None else "",
            begun_s=plan.begun_us // _SECOND_US if plan is not None else 0,
            rows=self._envelopes.count(),
            left=found.left,
            unreadable=found.unreadable,
            generations=generations,
            retires_s=turned_us // _SECOND_US + SETTLES_S if state == "settling" else 0,
        )

    # -- the plan ---------------------------------------------------------------------------------------

    def _read(self) -> tuple[int, Plan | None]:
        entry = self._plans.get(_TENANT, _PLAN)
        return (0, None) if entry is None else (entry.version, Plan(**orjson.loads(entry.value)))

    def _write(self, plan: Plan, version: int) -> int:
        return self._plans.put(_TENANT, _PLAN, orjson.dumps(plan), if_version=version)
