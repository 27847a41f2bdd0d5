"""Writes what the guard decided: records, refusals, and refusals for want of a record.

A refusal is recorded too; when no record can be written the answer is ``audit_unavailable``, and nothing moves.
What is committed with bytes to send is `guard.Guard.commit`'s, which alone holds the mint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from firewall.core.action import Action
from firewall.core.decision import Decision, Effect
from firewall.core.errors import (
    FAULTS,
    AuditUnavailable,
    BartizanError,
    Fault,
    Malformed,
    PolicyFault,
    StateUnavailable,
)
from firewall.core.exchange import Exchange
from firewall.core.finding import Finding
from firewall.core.permit import Refusal
from firewall.core.points import INFO, Point
from firewall.core.ports import AuditLog, Ids, Labels, Receipt, Telemetry
from firewall.core.step_up import StepUp
from firewall.enforce.records import decision_record
from firewall.enforce.rounds import Question
from firewall.enforce.token_rules import Unmet, asked_of_sign_in


class Recorder:
    """Records and refuses for one guard. receipts: of records whose disk somebody waits for, by uid."""

    def __init__(
        self,
        audit: AuditLog,
        labels: Labels,
        telemetry: Telemetry,
        ids: Ids,
        *,
        to_disk: bool,
        on_internal: Callable[[BaseException], None],
    ) -> None:
        """to_disk: bytes wait for the fdatasync of their record."""
        self._audit = audit
        self._labels = labels
        self._telemetry = telemetry
        self._ids = ids
        self._to_disk = to_disk
        self._on_internal = on_internal
        self.receipts: dict[str, Receipt] = {}

    async def settle(self, uid: str) -> None:
        """Return when a record is on disk. Raises AuditUnavailable."""
        receipt = self.receipts.pop(uid, None)
        if receipt is not None:
            await self._audit.durable(receipt)

    def write(
        self,
        action: Action,
        exchange: Exchange,
        phase: str,
        decision_id: str,
        *,
        decision: Decision | None,
        fault: str,
        findings: Sequence[Finding],
        eval_us: int,
        short: Unmet | None = None,
    ) -> str:
        """Record a decision that sends nothing; return the record's uid. Raises AuditUnavailable."""
        receipt = self._audit.append(
            decision_record(
                action,
                exchange,
                phase=phase,
                decision_id=decision_id,
                decision=decision,
                fault=fault,
                findings=findings,
                label=self._labels.current(action.principal),
                digest="",
                size=0,
                eval_us=eval_us,
                because=short.because if short else None,
            )
        )
        if self._to_disk:
            self.receipts[receipt.uid] = receipt
        return receipt.uid

    def refuse(
        self,
        action: Action,
        exchange: Exchange,
        told: Fault,
        decision_id: str,
        *,
        decision: Decision | None = None,
        eval_us: int = 0,
        findings: tuple[Finding, ...] = (),
        challenge: tuple[str, ...] = (),
        rules: tuple[str, ...] = (),
        retry_after_s: int = 0,
        step_up: StepUp | None = None,
        short: Unmet | None = None,
    ) -> Refusal:
        """Record a refusal and return it."""
        exchange.decisions.append(decision_id)
        phase = "refused" if INFO[action.point].direction == "request" else "outcome"
        try:
            uid = self.write(
                action,
                exchange,
                phase,
                decision_id,
                decision=decision,
                fault=told.code,
                findings=findings,
                eval_us=eval_us,
                short=short,
            )
            self.receipts.pop(uid, None)  # a refusal sends nothing, so nothing waits for its disk
        except AuditUnavailable:
            return Refusal(FAULTS["audit_unavailable"], decision_id)
        return Refusal(told, decision_id, challenge, retry_after_s, rules, step_up, short.detail if short else None)

    def refuse_short(self, action: Action, exchange: Exchange, decision_id: str, short: Unmet) -> Refusal:
        """Refuse what the caller's token and sign-in do not reach."""
        return self.refuse(
            action,
            exchange,
            FAULTS[short.fault],
            decision_id,
            challenge=short.challenge,
            rules=(short.rule,),
            step_up=short.step_up,
            short=short,
        )

    def refuse_by(self, question: Question, decision: Decision, eval_us: int, rules: tuple[str, ...]) -> Refusal:
        """Refuse what a decision does not permit."""
        return self.refuse(
            question.action,
            question.exchange,
            _told(question.action.point, decision),
            question.decision_id,
            decision=decision,
            eval_us=eval_us,
            findings=question.findings,
            challenge=decision.step_up_scopes,
            rules=rules,
            step_up=asked_of_sign_in(decision.step_up_scopes),
        )

    def failed(
        self, action: Action, exchange: Exchange, error: Exception, findings: tuple[Finding, ...] = ()
    ) -> Refusal:
        """The last resort: whatever went wrong is a deny, recorded with what was found, told in fixed words."""
        if isinstance(error, PolicyFault):
            told = (
                FAULTS["denied"]
                if error.code in ("input_invalid", "obligation_failed")
                else FAULTS["policy_unavailable"]
            )
        elif isinstance(error, (StateUnavailable, Malformed)):
            told = FAULTS["policy_unavailable"]
        else:
            told = FAULTS["internal"]
        self._on_internal(error)
        code = error.code if isinstance(error, BartizanError) else "internal"
        self._telemetry.decision(action.point, "error", (code,), 0)
        return self.refuse(action, exchange, told, self._ids.new("d"), findings=findings, rules=(f"core.{code}",))


def _told(point: Point, decision: Decision) -> Fault:
    """Return in which words a denial is told."""
    if decision.effect is Effect.APPROVE:
        return FAULTS["approval_pending"]
    if asked_of_sign_in(decision.step_up_scopes) is not None:
        return FAULTS["step_up_required"]
    if decision.step_up_scopes:
        return FAULTS["scope_missing"]
    if any(r.effect is Effect.DENY and r.code == "quarantined" for r in decision.reasons):
        return FAULTS["quarantined"]
    if point is Point.MCP_TOOL_CALL and _only(decision, "schema_mismatch"):
        return FAULTS["arguments_mismatch"]  # the model can mend them (SEP-1303)
    return FAULTS["denied"]


def _only(decision: Decision, code: str) -> bool:
    """Return whether every reason against is of this code: then its cause may be told."""
    against = [r.code for r in decision.reasons if r.effect is Effect.DENY]
    return bool(against) and all(found == code for found in against)
