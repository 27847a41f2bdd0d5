"""Requests that wait for a second person: durable, exact, short-lived, decided once.

    pending ──▶ approved ──▶ done | failed        denied · withdrawn · expired

What is asked is kept as the very values that will be used, under one digest together with the state that they
meet; whoever agrees names that digest. One compare-and-set decides between several who answer at once, so
the deed is begun by one of them at most; one that was cut short stays ``approved`` and is never begun again.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from firewall.admin.caller import Caller, Refused
from firewall.core.errors import Conflict, Malformed
from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import Clock, Entry, Store
from firewall.identity import records
from firewall.identity.records import SECOND_US
from firewall.identity.settings import TokenBytes
from firewall.wire import canonical

State = Literal["pending", "approved", "done", "failed", "denied", "withdrawn", "expired"]
STATES: Final[tuple[State, ...]] = get_args(State)
PENDING: Final = 1_000  # of a tenant
PENDING_OF_ONE: Final = 50  # of one asker
KEPT_OF_ONE: Final = 1_000  # of one asker, decided ones too
KEPT_US: Final = 30 * 24 * 3600 * SECOND_US
PREFIX: Final = "a_"


@dataclass(frozen=True, slots=True)
class Approval:
    """One request. Times in Unix microseconds.

    act, wish: what is to be done, with which values. met: digest of the state that the asker saw. digest: of all
    that a second person agrees to. by, decided_by: identities (`Caller.identity`); *_name: as records show them.
    rules: what policy
    asks a second person by, which that person is shown and agrees to. exchange: under which it was decided.
    roles, via: how the asker came; what they may is looked up again before anything is done. outcome: the code
    of what went wrong, "" otherwise.
    """

    approval_id: str
    tenant: str
    act: str
    wish: JSONObject
    met: str
    digest: str
    by: str
    by_name: str
    roles: tuple[str, ...]
    via: str
    asked_us: int
    expires_us: int
    state: State = "pending"
    decided_by: str = ""
    decided_name: str = ""
    decided_us: int = 0
    outcome: str = ""
    rules: tuple[str, ...] = ()
    exchange: str = ""


class Approvals:
    """The book of requests of all tenants. Raises StateUnavailable."""

    def __init__(self, store: Store, clock: Clock, token_bytes: TokenBytes, *, lifetime_s: int) -> None:
        self._book = store.collection("approvals")
        self._clock = clock
        self._token_bytes = token_bytes
        self._lifetime_us = lifetime_s * SECOND_US

    def ask(
        self,
        caller: Caller,
        act: str,
        wish: JSONObject,
        met: str,
        *,
        rules: tuple[str, ...] = (),
        exchange: str = "",
    ) -> Approval:
        """Keep a request; the same one that waits already is returned instead.

        Raises Malformed("approvals_full"), Refused("second_script").
        """
        if caller.via == "bearer" and not caller.subject:
            raise Refused("second_script", fix="a person must ask: this bearer is nobody's")
        digest = digest_of(caller.tenant, caller.identity, act, wish, met, rules)
        kept = list(self.list(caller.tenant))
        waiting = [a for a in kept if a.state == "pending"]
        for known in waiting:
            if known.digest == digest:
                return known
        if len(waiting) >= PENDING or sum(a.by == caller.identity for a in waiting) >= PENDING_OF_ONE:
            raise Malformed("approvals_full", fix="decide or withdraw some that wait: bartizan approvals list")
        # Whoever asks and withdraws again and again would fill the book and slow down everybody who reads it.
        if sum(a.by == caller.identity for a in kept) >= KEPT_OF_ONE:
            raise Malformed("approvals_full", fix="too many requests of yours in thirty days")
        now_us = self._clock.now_us()
        made = Approval(
            PREFIX + base64.b32encode(self._token_bytes(20)).decode().lower(),
            caller.tenant,
            act,
            wish,
            met,
            digest,
            caller.identity,
            caller.name,
            tuple(caller.roles),
            caller.via,
            now_us,
            now_us + self._lifetime_us,
            rules=rules,
            exchange=exchange,
        )
        self._book.put(made.tenant, made.approval_id, _encode(made), expires_us=now_us + KEPT_US, if_version=0)
        return made

    def get(self, tenant: str, approval_id: str) -> Approval:
        """Return a request as it is now. Raises Malformed("approval_unknown")."""
        return self._read(tenant, approval_id)[0]

    def list(self, tenant: str) -> Iterator[Approval]:
        """Yield a tenant's requests of the last thirty days."""
        for entry in self._book.scan(tenant, PREFIX):
            yield self._now(_decode(tenant, entry))

    def open_to(self, caller: Caller, approval_id: str, digest: str) -> Approval:
        """Return the request that this person may agree to now; what cannot be agreed to is no word to record.

        Raises Refused: second_self, second_script; Conflict (decided, expired, or not what was shown).
        """
        return self._open_to(caller, approval_id, digest)[0]

    def approve(self, caller: Caller, approval_id: str, digest: str) -> Approval:
        """Take a second person's word, once; the deed is then the caller's of this method to do. Raises as `open_to`."""
        found, version = self._open_to(caller, approval_id, digest)
        return self._decided(found, version, "approved", caller)

    def deny(self, caller: Caller, approval_id: str, digest: str) -> Approval:
        """End a request by a second person's word. Raises as `approve`."""
        _second(caller)
        found, version = self._open(caller.tenant, approval_id, digest)
        return self._decided(found, version, "denied", caller)

    def withdraw(self, caller: Caller, approval_id: str) -> Approval:
        """End one's own request. Raises Refused("role"), Conflict."""
        found, version = self._open(caller.tenant, approval_id, None)
        if found.by != caller.identity:
            raise Refused("role", fix="only who asked withdraws; an approver denies")
        return self._decided(found, version, "withdrawn", caller)

    def finish(self, approval: Approval, outcome: str) -> Approval:
        """Note how the deed of an approved request went. Raises Conflict when somebody noted it before."""
        found, version = self._read(approval.tenant, approval.approval_id)
        if found.state != "approved":
            raise Conflict("finished already")
        return self._put(replace(found, state="failed" if outcome else "done", outcome=outcome), version)

    def _open_to(self, caller: Caller, approval_id: str, digest: str) -> tuple[Approval, int]:
        _second(caller)
        found, version = self._open(caller.tenant, approval_id, digest)
        if found.by == caller.identity:
            raise Refused("second_self", fix="another person with the role approver must agree")
        return found, version

    def _open(self, tenant: str, approval_id: str, digest: str | None) -> tuple[Approval, int]:
        found, version = self._read(tenant, approval_id)
        if found.state != "pending":
            raise Conflict(f"the request is {found.state}")
        if digest is not None and digest != found.digest:
            raise Conflict("this is not what was asked")
        if digest_of(tenant, found.by, found.act, found.wish, found.met, found.rules) != found.digest:
            raise Conflict("the request does not fit its digest")
        return found, version

    def _decided(self, found: Approval, version: int, state: State, caller: Caller) -> Approval:
        made = replace(
            found, state=state, decided_by=caller.identity, decided_name=caller.name, decided_us=self._clock.now_us()
        )
        return self._put(made, version)

    def _put(self, made: Approval, version: int) -> Approval:
        expires_us = made.asked_us + KEPT_US
        self._book.put(made.tenant, made.approval_id, _encode(made), expires_us=expires_us, if_version=version)
        return made

    def _read(self, tenant: str, approval_id: str) -> tuple[Approval, int]:
        entry = self._book.get(tenant, approval_id) if approval_id.startswith(PREFIX) else None
        if entry is None:
            raise Malformed("approval_unknown", fix="see `bartizan approvals list`")
        return self._now(_decode(tenant, entry)), entry.version

    def _now(self, approval: Approval) -> Approval:
        if approval.state == "pending" and self._clock.now_us() >= approval.expires_us:
            return replace(approval, state="expired")
        return approval


def digest_of(tenant: str, by: str, act: str, wish: JSONObject, met: str, rules: tuple[str, ...]) -> str:
    """Return the digest of what is agreed to: who wants what done, where, how, in which state, against which rules."""
    return canonical.digest({"tenant": tenant, "by": by, "act": act, "wish": wish, "met": met, "rules": list(rules)})


def _second(caller: Caller) -> None:
    if caller.via == "bearer" or not caller.subject:
        raise Refused("second_script", fix="a person must decide, in a session of their own")


def _encode(approval: Approval) -> bytes:
    value: JSONObject = {
        "act": approval.act,
        "wish": approval.wish,
        "met": approval.met,
        "digest": approval.digest,
        "by": approval.by,
        "by_name": approval.by_name,
        "roles": list(approval.roles),
        "via": approval.via,
        "asked_us": approval.asked_us,
        "expires_us": approval.expires_us,
        "state": approval.state,
        "decided_by": approval.decided_by,
        "decided_name": approval.decided_name,
        "decided_us": approval.decided_us,
        "outcome": approval.outcome,
        "rules": list(approval.rules),
        "exchange": approval.exchange,
    }
    return records.encode(value)


def _decode(tenant: str, entry: Entry) -> Approval:
    value = records.decode(entry.value)
    wish, state = value.get("wish"), records.text(value, "state")
    return Approval(
        approval_id=entry.key,
        tenant=tenant,
        act=records.text(value, "act"),
        wish=wish if isinstance(wish, dict) else {},
        met=records.text(value, "met"),
        digest=records.text(value, "digest"),
        by=records.text(value, "by"),
        by_name=records.text(value, "by_name"),
        roles=records.texts(value, "roles"),
        via=records.text(value, "via"),
        asked_us=records.number(value, "asked_us"),
        expires_us=records.number(value, "expires_us"),
        state=next((s for s in STATES if s == state), "failed"),  # what cannot be read is not pending
        decided_by=records.text(value, "decided_by"),
        decided_name=records.text(value, "decided_name"),
        decided_us=records.number(value, "decided_us"),
        outcome=records.text(value, "outcome"),
        rules=records.texts(value, "rules"),
        exchange=records.text(value, "exchange"),
    )
