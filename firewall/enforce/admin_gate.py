"""Acts of the people who run the house: each is one Action at ``admin.act``, decided and recorded like a message.

Beside the guard, not through it: the kill switch and the rate limits are for agents, and a stop must never keep
anybody from releasing it. What is left is the same question to the same engine, parsed as strictly:

    roles and proof (admin) ──▶ decide ──▶ allow: done · approve: a second person · anything else: not done

INVARIANT: whatever goes wrong here (no answer, a document that is no decision, no record) is a denial.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from firewall.core.action import Action, Protocol, Resource
from firewall.core.decision import EFFECT_NAMES, Decision, Effect
from firewall.core.errors import AuditUnavailable, BartizanError, PolicyFault
from firewall.core.exchange import Exchange
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.label import CLEAN
from firewall.core.points import Point
from firewall.core.ports import AuditLog, Clock, Ids, PolicyEngine, RemotePolicyEngine, Telemetry
from firewall.core.principal import Principal
from firewall.decide.contract import parse_decision
from firewall.decide.question import encode_input
from firewall.enforce.records import decision_record, outcome_record
from firewall.wire import strict_json

LISTED: Final = "core.four_eyes"  # configuration asks for a second person where policy did not


@dataclass(frozen=True, slots=True)
class AdminAct:
    """What somebody wants done. act: of the admin room's matrix. wish: with which values. met: the state it changes.

    asked: configuration wants a second person for it. approvers: accounts that could be one.
    approval, shown: the request that a second person agreed to, and the rules that it showed them; "" and () before.
    exchange: the id under which it was asked for, "" for a new one.
    """

    act: str
    wish: JSONObject
    met: JSON
    asked: bool
    approvers: int
    approval: str = ""
    shown: tuple[str, ...] = ()
    exchange: str = ""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What policy says: allow, approve or deny, by which rules; fault: the code of a denial without a decision."""

    effect: Effect
    rules: tuple[str, ...]
    decision_id: str
    exchange: Exchange
    fault: str = ""


class AdminGate:
    """Asks policy about the acts of people. One per worker, beside its guard and with the same engine."""

    def __init__(
        self,
        engine: PolicyEngine | RemotePolicyEngine,
        audit: AuditLog,
        telemetry: Telemetry,
        clock: Clock,
        ids: Ids,
        *,
        on_internal: Callable[[BaseException], None] = lambda _e: None,
    ) -> None:
        self._engine = engine
        self._audit = audit
        self._telemetry = telemetry
        self._clock = clock
        self._ids = ids
        self._on_internal = on_internal

    async def decide(self, who: Principal, act: AdminAct) -> Ruling:
        """Decide about one act and record it; never raises but on cancellation.

        An obligation cannot be met by an act of a person, so a decision with a duty to change something is a denial.
        """
        exchange = Exchange(act.exchange or self._ids.new("x"), who, "admin", self._clock.monotonic_ns())
        decision_id = self._ids.new("d")
        action = _action(who, act)
        decision: Decision | None = None
        eval_us, fault = 0, ""
        try:
            decision, eval_us = await self._ask(action, act, exchange)
        except Exception as error:  # noqa: BLE001  every failure is a deny
            self._on_internal(error)
            fault = error.code if isinstance(error, BartizanError) else "internal"
            self._telemetry.decision(action.point, "error", (fault,), 0)
        effect = Effect.DENY if decision is None or decision.effect is Effect.TRANSFORM else decision.effect
        rules = tuple(r.rule for r in decision.reasons if r.effect >= Effect.TRANSFORM) if decision is not None else ()
        if effect is Effect.ALLOW and act.asked and not act.approval:
            effect, rules = Effect.APPROVE, (LISTED,)
        told = {Effect.ALLOW: "", Effect.APPROVE: "approval_pending"}.get(effect, fault or "denied")
        try:
            self._record(action, exchange, decision_id, decision, eval_us, told)
        except AuditUnavailable:
            return Ruling(Effect.DENY, (), decision_id, exchange, "audit_unavailable")
        return Ruling(effect, rules, decision_id, exchange, fault)

    def close(self, ruling: Ruling, *, error: str = "") -> None:
        """Record how an allowed act ended: done, or the code of what went wrong. Never raises."""
        exchange = ruling.exchange
        duration = (self._clock.monotonic_ns() - exchange.started_ns) // 1000
        outcome = "refused" if error else "ok"
        try:
            self._audit.append(outcome_record(exchange, outcome=outcome, error=error, duration_us=duration))
        except AuditUnavailable:
            return  # the intent stands without an outcome, and `audit verify` reports it

    async def _ask(self, action: Action, act: AdminAct, exchange: Exchange) -> tuple[Decision, int]:
        """Return the decision and its microseconds. Raises PolicyFault."""
        engine = self._engine
        approval: JSON = {"id": act.approval, "rules": list(act.shown)} if act.approval else None
        question = encode_input(
            action,
            (),
            label=CLEAN,
            exchange=exchange,
            now_us=self._clock.now_us(),
            revision=engine.revision,
            approval=approval,
        )
        started = self._clock.monotonic_ns()
        if hasattr(engine, "decide_remote"):
            answer = await engine.decide_remote(action.point, question)
        else:
            answer = engine.decide(action.point, question)
        eval_us = (self._clock.monotonic_ns() - started) // 1000
        decision = parse_decision(answer, revision=engine.revision, engine=engine.name)
        rules = tuple(r.rule for r in decision.reasons)
        self._telemetry.decision(action.point, EFFECT_NAMES[decision.effect], rules, eval_us)
        if decision.effect is Effect.APPROVE and not rules:
            raise PolicyFault("decision_invalid", "an approval without a rule to be shown")
        return decision, eval_us

    def _record(
        self,
        action: Action,
        exchange: Exchange,
        decision_id: str,
        decision: Decision | None,
        eval_us: int,
        told: str,
    ) -> None:
        payload = strict_json.dumps(action.body)
        record = decision_record(
            action,
            exchange,
            phase="refused" if told else "intent",
            decision_id=decision_id,
            decision=decision,
            fault=told,
            findings=(),
            label=CLEAN,
            digest=self._audit.hmac(action.principal.tenant, payload),
            size=len(payload),
            eval_us=eval_us,
        )
        uid = self._audit.append(record).uid
        exchange.decisions.append(decision_id)
        if not told:
            exchange.intent_uid = uid


def _action(who: Principal, act: AdminAct) -> Action:
    facts: JSONObject = {
        "tenants": [who.tenant],
        "second": "asked" if act.asked else "free",
        "approvers": act.approvers,
    }
    arguments: JSONObject = {"wish": act.wish, "met": act.met}
    resource = Resource("admin_act", act.act, "", facts)
    return Action(Point.ADMIN_ACT, who, act.act, resource, Protocol("admin", "1", "http"), arguments, arguments)
