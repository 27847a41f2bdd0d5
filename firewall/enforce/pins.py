"""Pins: the approved digest of every definition that can reach a model (PIN-01).

A definition is a tool, a prompt, a resource (its description, not its content), a template, a
server's instructions, the set of what it lists of a kind, or an agent's card. Its state is a fact
for policy; the rules that refuse ``new`` and ``changed`` are in `policies/`. First contact with an
upstream may pin what it shows (trust on first use) when its review found nothing; afterwards only
a person approves. INVARIANT: an observation never moves a pin.

Where a lock is in force (`lock`), it alone says what is approved; approvals are still kept, for the
next export. What happens to a change is the upstream's `OnChange`:

- ``block``: it is withheld until a person approves it.
- ``ask``: the same, and it stands first wherever an operator looks.
- ``warn``: it passes as ``warned`` while its review finds nothing; every decision on it says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import orjson

from firewall.core.errors import Conflict
from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import Clock, Collection, Entry, SharedMarks
from firewall.enforce.lock import Lock

PinStatus = Literal["approved", "new", "changed", "warned"]
OnChange = Literal["block", "warn", "ask"]
Kind = Literal["tool", "prompt", "resource", "template", "instructions", "set", "card"]
# A server and an agent may share a name: what happens to one says nothing about the other's pins.
OF_A_SERVER: Final[tuple[Kind, ...]] = ("tool", "prompt", "resource", "template", "instructions", "set")
OF_AN_AGENT: Final[tuple[Kind, ...]] = ("card",)
MEETING_US: Final = 3_000_000  # a worker that died while it met a server holds nobody up for longer
_CONTACT: Final = "contact"  # no definition: that a server was met
_NAME_CHARS: Final = 200  # of a name in a record


@dataclass(frozen=True, slots=True)
class PinRules:
    """What configuration says. on_change: upstream → what a change means, ``block`` where none is named.

    lock: the only approvals that count; None where every approval of the book does.
    """

    on_change: Mapping[str, OnChange] = field(default_factory=dict)
    lock: Lock | None = None


@dataclass(frozen=True, slots=True)
class Pin:
    """approved: the digest that was approved ("" when none); seen: the newest one observed.

    by: who approved (``first-contact`` for trust on first use); since_us: when, or when it was seen
    first; reasons: rule ids of the review of what was seen. locked: what a lock in force approves
    ("" nothing), None without one. on_change: of its upstream.
    """

    upstream: str
    kind: Kind
    name: str
    approved: str
    seen: str
    by: str
    since_us: int
    reasons: tuple[str, ...] = ()
    locked: str | None = None
    on_change: OnChange = "block"

    @property
    def in_force(self) -> str:
        """The digest that counts as approved, "" when none does."""
        return self.approved if self.locked is None else self.locked

    @property
    def status(self) -> PinStatus:
        """Compare what was seen with what is approved."""
        if not self.in_force:
            return "new"
        if self.in_force == self.seen:
            return "approved"
        return "warned" if self.on_change == "warn" and not self.reasons else "changed"

    @property
    def asks(self) -> bool:
        """Whether an operator is to be asked about it before all others."""
        return self.on_change == "ask" and self.status == "changed"


def _silent(_record: JSONObject) -> None:
    return


class Pins:
    """The book of pins over a collection; every key carries tenant, upstream, kind and name."""

    def __init__(
        self,
        book: Collection,
        marks: SharedMarks,
        clock: Clock,
        rules: PinRules = PinRules(),
        record: Callable[[JSONObject], object] = _silent,
    ) -> None:
        """record: told of every change that was seen (``kind: pins``); raises what the audit log raises."""
        self._book = book
        self._marks = marks
        self._clock = clock
        self._rules = rules
        self._record = record
        # A number that changes whenever a pin was approved anywhere on the node: the node's own, read several
        # times per request. Raises StateUnavailable.
        self.epoch = marks.epoch

    def status(self, tenant: str, upstream: str, kind: Kind, name: str, digest: str) -> PinStatus:
        """Return how a digest compares with the pin; reads only."""
        lock = self._rules.lock
        if lock is not None:
            locked = lock.digest(upstream, kind, name)
            if not locked or locked == digest:
                return "approved" if locked else "new"
        entry = self._book.get(tenant, _key(upstream, kind, name))
        if entry is None:
            return "new" if lock is None else "changed"
        pin = self._pin(entry)
        # What its review found is known of what was seen last, and of nothing else.
        return (pin if pin.seen == digest else replace(pin, seen=digest, reasons=("review.unknown",))).status

    def first_contact(self, tenant: str, upstream: str) -> bool:
        """Return whether this server was never met, and nothing of it was ever pinned or seen."""
        return not any(self._of(tenant, upstream, (*OF_A_SERVER, _CONTACT)))

    def meet(self, tenant: str, upstream: str) -> bool:
        """Return whether this is the first contact with a server, to one caller of the node only.

        Noted by itself, because a server may show nothing the first time: what it shows later is
        then no first contact. `forget` of a server's pins forgets it.
        """
        known = not self.first_contact(tenant, upstream)
        begun = b"{}" if known else str(self._clock.now_us()).encode()
        try:
            self._book.put(tenant, _key(upstream, _CONTACT, ""), begun, if_version=0)
        except Conflict:
            return False
        return not known

    def met(self, tenant: str, upstream: str) -> None:
        """Say that a first contact is over: everything that it showed is noted."""
        self._book.put(tenant, _key(upstream, _CONTACT, ""), b"{}")

    def meeting(self, tenant: str, upstream: str) -> bool:
        """Return whether another worker's first contact is under way (for `MEETING_US` at most)."""
        entry = self._book.get(tenant, _key(upstream, _CONTACT, ""))
        return entry is not None and entry.value.isdigit() and self._clock.now_us() - int(entry.value) < MEETING_US

    def observe(
        self,
        tenant: str,
        upstream: str,
        kind: Kind,
        name: str,
        digest: str,
        *,
        trust: bool = False,
        reasons: tuple[str, ...] = (),
    ) -> PinStatus:
        """Note what an upstream shows now; return its status.

        trust: pin it if nothing is pinned yet (first contact with a clean review, decided by
        `meet` before the first observation); never overwrites an approved digest.
        """
        key = _key(upstream, kind, name)
        while True:
            entry = self._book.get(tenant, key)
            if entry is None:
                approved = digest if trust and not reasons else ""
                by = "first-contact" if approved else ""
                pin = self._ruled(Pin(upstream, kind, name, approved, digest, by, self._clock.now_us(), reasons))
            else:
                old = self._pin(entry)
                # Another worker may have noted it a moment before the first contact that we hold.
                trusted = trust and not reasons and not old.approved and old.seen == digest
                if old.seen == digest and old.reasons == reasons and not trusted:
                    return old.status
                approved, by = (digest, "first-contact") if trusted else (old.approved, old.by)
                pin = self._ruled(Pin(upstream, kind, name, approved, digest, by, old.since_us, reasons))
            try:
                self._book.put(tenant, key, _value(pin), if_version=entry.version if entry else 0)
            except Conflict:
                continue
            if pin.status in ("changed", "warned") and (entry is None or old.seen != digest):
                self._told(tenant, pin)
            if entry is not None and pin.by != old.by:
                self._marks.bump()  # who noted it a moment before holds it for new
            return pin.status

    def approve(self, tenant: str, upstream: str, kind: Kind, name: str, digest: str, *, by: str) -> Pin:
        """Make ``digest`` the pin. Raises Conflict unless it is what was seen last.

        The digest is an argument so that a person approves exactly what was shown to them.
        """
        key = _key(upstream, kind, name)
        entry = self._book.get(tenant, key)
        if entry is None:
            raise Conflict("nothing of that name was seen")
        old = self._pin(entry)
        if old.seen != digest:
            raise Conflict("the definition changed again since it was shown")
        pin = self._ruled(Pin(upstream, kind, name, digest, digest, by, self._clock.now_us(), old.reasons))
        self._book.put(tenant, key, _value(pin), if_version=entry.version)
        self._marks.bump()
        return pin

    def forget(self, tenant: str, upstream: str, kinds: tuple[Kind, ...]) -> int:
        """Drop the pins of these kinds of an upstream (it was revoked); return how many."""
        keys = [entry.key for entry in self._of(tenant, upstream, kinds)]
        for key in keys:
            self._book.delete(tenant, key)
        if kinds == OF_A_SERVER:
            self._book.delete(tenant, _key(upstream, _CONTACT, ""))
        self._marks.bump()
        return len(keys)

    def list(self, tenant: str, upstream: str = "") -> Iterator[Pin]:
        """Yield pins, of one upstream or of all."""
        for entry in self._book.scan(tenant, f"{upstream}/" if upstream else ""):
            if entry.key.split("/", 2)[1] != _CONTACT:
                yield self._pin(entry)

    def _of(self, tenant: str, upstream: str, kinds: tuple[str, ...]) -> Iterator[Entry]:
        for kind in kinds:
            yield from self._book.scan(tenant, _key(upstream, kind, ""))

    def _pin(self, entry: Entry) -> Pin:
        raw = orjson.loads(entry.value)
        raw["reasons"] = tuple(raw["reasons"])
        return self._ruled(Pin(**raw))

    def _ruled(self, pin: Pin) -> Pin:
        """Return a pin with what configuration says of it."""
        rules = self._rules
        on_change = rules.on_change.get(pin.upstream, "block")
        if rules.lock is None and on_change == "block":
            return pin
        locked = rules.lock.digest(pin.upstream, pin.kind, pin.name) if rules.lock is not None else None
        return replace(pin, locked=locked, on_change=on_change)

    def _told(self, tenant: str, pin: Pin) -> None:
        shown = "".join(c if c.isprintable() else "?" for c in pin.name[:_NAME_CHARS])
        self._record(
            {
                "kind": "pins",
                "tenant": tenant,
                "by": "gateway",
                "verb": "asks" if pin.asks else pin.status,
                "object": f"{pin.upstream}/{pin.kind}/{shown}",
                "from": pin.in_force,
                "to": pin.seen,
                "reasons": list(pin.reasons),
            }
        )


def _key(upstream: str, kind: str, name: str) -> str:
    return f"{upstream}/{kind}/{name}"


def _value(pin: Pin) -> bytes:
    return orjson.dumps(
        {
            "upstream": pin.upstream,
            "kind": pin.kind,
            "name": pin.name,
            "approved": pin.approved,
            "seen": pin.seen,
            "by": pin.by,
            "since_us": pin.since_us,
            "reasons": list(pin.reasons),
        }
    )
