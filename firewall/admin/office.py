"""Does what people ask, has it wait for a second person, or refuses it, as policy says (``admin.act``, ADR 0037).

    office.do(caller, act, wish) ─▶ roles ─▶ policy ─▶ allow ───▶ Done
                                                   ├─▶ approve ─▶ Parked ──another person──▶ office.approve
                                                   └─▶ deny ────▶ Refused             decided again, done once

Resuming is deciding again (DESIGN §6b-4): the asker's roles are looked up anew, policy is asked again with the rules
that the second person was shown, the state must still be what the asker saw, and the deed runs through the same
verb of the desk, which makes all its own checks. ``admin.four_eyes`` is a floor that no policy takes back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Final, TypeVar, cast

from firewall.admin.access import Access
from firewall.admin.accounts_desk import user_json
from firewall.admin.approvals import Approval, Approvals, State
from firewall.admin.caller import Caller, Refused, Via
from firewall.admin.desk import Desk, entry_json, pin_json
from firewall.admin.parts import AdminParts
from firewall.admin.rights import Role, known
from firewall.admin.sessions import BEARER_ROLES
from firewall.core.decision import Effect
from firewall.core.errors import AuditUnavailable, BartizanError, Conflict, Malformed, PolicyFault
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.principal import Actor, Principal
from firewall.detect.visible import visible
from firewall.enforce.admin_gate import LISTED as LISTED_RULE
from firewall.enforce.admin_gate import AdminAct, Ruling
from firewall.enforce.pins import Kind as PinKind
from firewall.enforce.registry import Kind, Verb
from firewall.identity.records import SECOND_US
from firewall.wire import canonical

T = TypeVar("T")

LISTED: Final = 200


@dataclass(frozen=True, slots=True)
class Done:
    """What came of an act."""

    value: JSONObject


@dataclass(frozen=True, slots=True)
class Parked:
    """An act that waits for a second person."""

    approval: Approval


@dataclass(frozen=True, slots=True)
class Deed:
    """How an act is done. words: one line for people. meets: the state that it changes, as the asker sees it."""

    do: Callable[[Desk, Caller, JSONObject], Awaitable[JSONObject]]
    words: Callable[[JSONObject], str]
    meets: Callable[[Desk, Caller, JSONObject], JSON]


class Office:
    """Every act that can need two people goes through here, from pages, API and command line alike."""

    def __init__(self, parts: AdminParts, access: Access, desk: Desk) -> None:
        self._parts = parts
        self._access = access
        self._desk = desk
        settings = parts.settings
        self.approvals = Approvals(parts.store, parts.clock, parts.token_bytes, lifetime_s=settings.approval_s)

    def listed(self, caller: Caller, state: State | None = None) -> list[Approval]:
        """Return requests of the caller's tenant: those that wait first, then the newest, two hundred at most."""
        found = [a for a in self.approvals.list(caller.tenant) if state in (None, a.state)]
        return sorted(found, key=lambda a: (a.state != "pending", -a.asked_us))[:LISTED]

    async def do(self, caller: Caller, act: str, wish: JSONObject) -> Done | Parked:
        """Do an act now, or keep it for a second person. Raises Refused, PolicyFault, and what the desk raises."""
        self._access.permit(caller, act)
        before = self._met(caller, act, wish)
        ruling = await self._rule(caller, act, wish, before)
        if ruling.effect is Effect.APPROVE:
            return self._park(caller, act, wish, ruling)
        return Done(await self._deed(caller, act, wish, ruling, None if before is None else canonical.digest(before)))

    async def add_user(
        self, caller: Caller, name: str, password: str, roles: tuple[str, ...], scopes: tuple[str, ...]
    ) -> Done | Parked:
        """Add a person; where that needs two, the account waits without any right for the second. Raises as `do`."""
        act = "users.admin"
        self._access.permit(caller, act)
        wish: JSONObject = {"verb": "set", "name": name, "roles": list(roles), "scopes": list(scopes)}
        ruling = await self._rule(caller, act, wish, None)
        if ruling.effect is Effect.APPROVE:
            await self._desk.prepare_user(caller, name, password)  # a password never lies in the book of requests
            return self._park(caller, act, wish, ruling)
        adding = self._desk.add_user(self._as(caller, ruling), name, password, roles, scopes)
        return Done(user_json(await self._settled(ruling, adding)))

    async def approve(self, caller: Caller, approval_id: str, digest: str) -> Approval:
        """Agree as a second person, and do what was asked. Returns the request, done or failed.

        Raises Refused: role, fresh, second_self, second_script; Conflict; Malformed("approval_unknown").
        """
        self._access.permit(caller, "approvals.decide")
        self._record(caller, "approval.approve", self.approvals.open_to(caller, approval_id, digest))
        approval = self.approvals.approve(caller, approval_id, digest)
        outcome = ""
        try:
            asker = replace(self._asker(approval), second=caller.name)
            self._access.permit(asker, approval.act)
            before = self._met(asker, approval.act, approval.wish)
            ruling = await self._rule(asker, approval.act, approval.wish, before, approval)
            if ruling.effect is Effect.APPROVE:  # by a rule that nobody was shown: it lifts nothing
                raise Refused("second_stale", fix="ask again: policy wants more than the second person agreed to")
            await self._deed(asker, approval.act, approval.wish, ruling, approval.met)
        except BartizanError as error:
            outcome = error.code
        done = self.approvals.finish(approval, outcome)
        self._record(caller, "approval.failed" if outcome else "approval.done", done)
        return done

    # -- policy ------------------------------------------------------------------------------------------

    async def _rule(
        self, caller: Caller, act: str, wish: JSONObject, met: JSON, approval: Approval | None = None
    ) -> Ruling:
        """Return what policy says: allow or approve. Raises Refused("admin_denied"), PolicyFault, AuditUnavailable."""
        approvers = sum("approver" in user.roles for user in self._parts.identity.users.list(caller.tenant))
        # The owner makes people while there is no approver yet: somebody must be the first. A disabled one
        # counts, or else whoever disables the last one has nobody to ask.
        founding = caller.role == "owner" and act == "users.admin" and not approvers
        asked = AdminAct(act, wish, met, act in self._parts.settings.four_eyes and not founding, approvers)
        if approval is not None:
            asked = replace(asked, approval=approval.approval_id, shown=approval.rules, exchange=approval.exchange)
        ruling = await self._parts.gate.decide(self._principal(caller), asked)
        if ruling.fault == "audit_unavailable":
            raise AuditUnavailable(ruling.fault)
        if ruling.fault:
            raise PolicyFault("policy_unavailable", ruling.fault, fix=f"see `bartizan explain {ruling.decision_id}`")
        if ruling.effect is Effect.DENY:
            raise Refused("admin_denied", self._told(ruling), fix=f"see `bartizan explain {ruling.decision_id}`")
        return ruling

    def _told(self, ruling: Ruling) -> str:
        """Return the rules behind a ruling with their titles: operators may read these (DESIGN §8)."""
        titles = {rule.id: rule.title for rule in self._parts.policy.rules}
        known = {**titles, LISTED_RULE: "Configuration names it", "core.default_deny": "No rule permits it"}
        return "policy: " + "; ".join(f"{rule} ({known[rule]})" if rule in known else rule for rule in ruling.rules)

    def _met(self, caller: Caller, act: str, wish: JSONObject) -> JSON:
        """Return the state that an act would change, None where there is none: the desk says why then."""
        try:
            return DEEDS[act].meets(self._desk, caller, wish)
        except (Malformed, Conflict):
            return None

    def _park(self, caller: Caller, act: str, wish: JSONObject, ruling: Ruling) -> Parked:
        met = canonical.digest(DEEDS[act].meets(self._desk, caller, wish))
        approval = self.approvals.ask(caller, act, wish, met, rules=ruling.rules, exchange=ruling.exchange.id)
        self._record(caller, "approval.asked", approval)
        return Parked(approval)

    async def _deed(self, caller: Caller, act: str, wish: JSONObject, ruling: Ruling, met: str | None) -> JSONObject:
        """Do what policy allowed, in the state that was judged. Raises Conflict, and what the desk raises."""
        deed, name = DEEDS[act], self._as(caller, ruling)

        async def do() -> JSONObject:
            if met is not None and canonical.digest(deed.meets(self._desk, caller, wish)) != met:
                raise Conflict("it changed since it was asked")
            return await deed.do(self._desk, name, wish)

        return await self._settled(ruling, do())

    async def _settled(self, ruling: Ruling, doing: Awaitable[T]) -> T:
        """Await a deed and record how it ended."""
        error = "internal"
        try:
            value = await doing
            error = ""
        except BartizanError as fault:
            error = fault.code
            raise
        finally:
            self._parts.gate.close(ruling, error=error)
        return value

    def _as(self, caller: Caller, ruling: Ruling) -> Caller:
        return replace(caller, exchange=ruling.exchange.id)

    def _principal(self, caller: Caller) -> Principal:
        """Return a person, a script or the owner as policy sees them; it is no agent's and opens nothing else."""
        kind = "user" if caller.subject else "local" if caller.via == "socket" else "service"
        subject = caller.subject or caller.identity
        return Principal(
            tenant=caller.tenant,
            issuer="local",
            subject=subject,
            client_id="admin",
            scopes=frozenset(),
            audience="admin",
            chain=(Actor(subject, kind),),
            expires_at=self._parts.clock.now_us() // SECOND_US + 60,
            kind=kind,
            auth_method=caller.via,
            auth_time=caller.proved_us // SECOND_US,
            roles=caller.roles,
        )

    # -- a second person's other words -------------------------------------------------------------------

    def deny(self, caller: Caller, approval_id: str, digest: str) -> Approval:
        """Refuse as a second person; nothing is done."""
        self._access.permit(caller, "approvals.decide")
        denied = self.approvals.deny(caller, approval_id, digest)
        self._record(caller, "approval.denied", denied)
        return denied

    def withdraw(self, caller: Caller, approval_id: str) -> Approval:
        """End one's own request."""
        self._access.permit(caller, "approvals.withdraw")
        ended = self.approvals.withdraw(caller, approval_id)
        self._record(caller, "approval.withdrawn", ended)
        return ended

    def _asker(self, approval: Approval) -> Caller:
        """Return who asked, with what they may do now; the proof they gave when they asked still counts."""
        proved_us = self._parts.clock.now_us()
        if approval.by == "owner":
            return Caller(approval.by_name, approval.tenant, ("owner",), "socket", proved_us=proved_us)
        subject = approval.by.removeprefix("user:")
        user = self._parts.identity.users.get(approval.tenant, subject)
        if user is None:
            raise Refused("role")
        roles: tuple[Role, ...] = known(user.roles)
        if approval.via == "bearer":
            # A script asked in this person's name: it stays as small as its bearer was.
            roles = tuple(r for r in known(approval.roles) if not BEARER_ROLES[r].isdisjoint(user.roles))
        if not roles:
            raise Refused("role")
        via: Via = "bearer" if approval.via == "bearer" else "session"
        return Caller(user.name, user.tenant, roles, via, user.subject, proved_us=proved_us)

    def _record(self, caller: Caller, verb: str, approval: Approval) -> None:
        record: JSONObject = {
            "kind": "admin",
            "tenant": caller.tenant,
            "by": caller.name,
            "verb": verb,
            "object": approval.act,
            "approval": approval.approval_id,
            "asked_by": approval.by_name,
            "digest": approval.digest,
            "exchange": approval.exchange,
        }
        if approval.outcome:
            record["outcome"] = approval.outcome
        self._parts.audit.append(record)


def approval_json(approval: Approval) -> JSONObject:
    """Return a request as API and pages show it."""
    deed = DEEDS.get(approval.act)
    return {
        "id": approval.approval_id,
        "tenant": approval.tenant,
        "act": approval.act,
        "words": deed.words(approval.wish) if deed else approval.act,
        "wish": approval.wish,
        "digest": approval.digest,
        "rules": list(approval.rules),
        "exchange": approval.exchange,
        "by": approval.by_name,
        "asked_us": approval.asked_us,
        "expires_us": approval.expires_us,
        "state": approval.state,
        "decided_by": approval.decided_name,
        "decided_us": approval.decided_us,
        "outcome": approval.outcome,
    }


# -- the deeds ------------------------------------------------------------------------------------------------


def _text(wish: Mapping[str, JSON], name: str) -> str:
    value = wish.get(name, "")
    if not isinstance(value, str):
        raise Malformed("params_invalid", name)
    return value


def _texts(wish: Mapping[str, JSON], name: str) -> tuple[str, ...]:
    value = wish.get(name, [])
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise Malformed("params_invalid", name)
    return tuple(cast("list[str]", value))


async def _approve_pin(desk: Desk, caller: Caller, wish: JSONObject) -> JSONObject:
    kind = cast("PinKind", _text(wish, "kind"))  # the desk checks it
    upstream, name = _text(wish, "upstream"), _text(wish, "name")
    return pin_json(desk.approve_pin(caller, upstream, kind, name, _text(wish, "digest")))


def _pin_met(desk: Desk, caller: Caller, wish: JSONObject) -> JSON:
    upstream, kind, name = _text(wish, "upstream"), _text(wish, "kind"), _text(wish, "name")
    for pin in desk.pins(caller, upstream):
        if (pin.kind, pin.name) == (kind, name):
            if pin.seen != _text(wish, "digest"):
                raise Conflict("the definition changed since it was shown")
            return {"approved": pin.approved, "seen": pin.seen, "reasons": list(pin.reasons)}
    raise Malformed("pin_unknown", fix="see `bartizan pins status`")


async def _approve_entry(desk: Desk, caller: Caller, wish: JSONObject) -> JSONObject:
    verb: Verb = "approve"
    return entry_json(desk.move(caller, cast("Kind", _text(wish, "kind")), _text(wish, "name"), verb))


def _entry_met(desk: Desk, caller: Caller, wish: JSONObject) -> JSON:
    for entry in desk.registry(caller):
        if (entry.kind, entry.name) == (_text(wish, "kind"), _text(wish, "name")):
            return {"spec": entry.spec, "state": entry.state}
    raise Malformed("registry_unknown", fix="see `bartizan servers list` and `bartizan agents list`")


async def _lift(desk: Desk, caller: Caller, wish: JSONObject) -> JSONObject:
    stood = desk.release(
        caller,
        _text(wish, "scope"),
        _text(wish, "name"),
        reason=_text(wish, "reason"),
        everywhere=wish.get("everywhere") is True,
    )
    return {"released": stood}


def _stop_met(desk: Desk, caller: Caller, wish: JSONObject) -> JSON:
    """The stops as they stand: one that was pulled anew is another one."""
    scope, name, tenant = desk.stop_scope(
        caller, _text(wish, "scope"), _text(wish, "name"), wish.get("everywhere") is True
    )
    rows: list[JSON] = [
        {"by": s.by, "since_us": s.since_us}
        for s in desk.stops(caller)
        if (s.tenant, s.scope, s.name) == (tenant, scope, name)
    ]
    if not rows:
        raise Malformed("stop_unknown", fix="see `bartizan kill list`")
    return rows


async def _people(desk: Desk, caller: Caller, wish: JSONObject) -> JSONObject:
    name, verb = _text(wish, "name"), _text(wish, "verb")
    if verb == "enable":
        return user_json(desk.enable_user(caller, name, enabled=True))
    if verb == "set":
        return user_json(desk.set_user(caller, name, _texts(wish, "roles"), _texts(wish, "scopes")))
    if verb == "remove":
        return desk.remove_user(caller, name)
    if verb == "link":
        return asdict(
            desk.link_account(caller, name, _text(wish, "issuer"), _text(wish, "subject"), _text(wish, "realm"))
        )
    raise Malformed("params_invalid", "verb")


def _person_met(desk: Desk, caller: Caller, wish: JSONObject) -> JSON:
    return user_json(desk.user(caller, _text(wish, "name")))


def _people_words(wish: JSONObject) -> str:
    name = visible(_text(wish, "name"))
    if wish.get("verb") == "enable":
        return f"let {name} in again"
    if wish.get("verb") == "remove":
        return f"remove {name} for good, and free the name"
    if wish.get("verb") == "link":
        there = f"{_text(wish, 'subject')} of {_text(wish, 'issuer')} {_text(wish, 'realm')}"
        return f"let {visible(there.strip())} in as {name}"
    roles, scopes = ", ".join(_texts(wish, "roles")) or "none", " ".join(_texts(wish, "scopes")) or "none"
    return f"let {name} in with the roles {visible(roles)} and the scopes {visible(scopes)}"


DEEDS: Final[Mapping[str, Deed]] = {
    "pins.approve": Deed(
        _approve_pin,
        lambda w: (
            f"approve {_text(w, 'kind')} {visible(_text(w, 'name'))} of {visible(_text(w, 'upstream'))} as {_text(w, 'digest')}"
        ),
        _pin_met,
    ),
    "registry.approve": Deed(
        _approve_entry, lambda w: f"approve the {_text(w, 'kind')} entry {visible(_text(w, 'name'))}", _entry_met
    ),
    "kill.lift": Deed(
        _lift,
        lambda w: (
            f"release the stop of {_text(w, 'scope')} {visible(_text(w, 'name'))}".rstrip()
            + (" for every tenant" if w.get("everywhere") is True else "")
        ),
        _stop_met,
    ),
    "users.admin": Deed(_people, _people_words, _person_met),
}
