"""The choke point: every message of every protocol, both ways, passes here (DESIGN §3).

    kill switch → limits → inspect → label → decide (one query) → obligations → record

- `Guard.prepare` and `Guard.conclude` are synchronous; between them stands the policy engine:
  embedded (`check`, no await) or an OPA server (`check_remote`).
- A Permit becomes Cleared only by `commit`: its record's write has returned. A refusal is
  recorded too; when no record can be written the answer is ``audit_unavailable`` and nothing moves.
- Messages that are there together and differ in their bodies alone are asked about once (`clear_alike`, ADR
  0036); each is inspected and recorded, and whatever is not plain goes through `clear`.
- Every way out that is not a Permit is a Refusal. An unexpected exception is a Refusal with
  ``internal``. There is no switch that turns any of this off.
- INVARIANT (DESIGN §6b-2): a label is raised before the bytes that caused it are released.
- INVARIANT (DESIGN §6b-5): what a transformation made is judged like what came in. Taking hidden
  characters out can put a key or a protected path together, so a body whose arguments changed, or
  which shows what its original did not, is asked about again, at most `ROUNDS` times in all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from firewall.core.action import Action
from firewall.core.bounds import KIB
from firewall.core.decision import EFFECT_NAMES, Decision, Effect
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
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.label import CLEAN, Label, join, label_of
from firewall.core.permit import Cleared, Permit, Refusal, take_mint
from firewall.core.points import INFO, Point
from firewall.core.policy_input import PolicyInput
from firewall.core.ports import (
    AuditLog,
    Clock,
    Ids,
    Labels,
    PolicyEngine,
    Receipt,
    RemotePolicyEngine,
    Scanner,
    Telemetry,
)
from firewall.core.principal import Principal
from firewall.core.step_up import StepUp
from firewall.core.value import value
from firewall.decide.contract import parse_decision
from firewall.decide.question import ask
from firewall.enforce.kill_switch import KillSwitch
from firewall.enforce.limits import Limits
from firewall.enforce.obligations import apply, check_coupled, check_stream, rebound
from firewall.enforce.records import PermitRecords, decision_record, outcome_of, outcome_record
from firewall.enforce.token_rules import Unmet, asked_of_sign_in, unmet
from firewall.wire import strict_json

_MINT: Final = take_mint()
ASIDE_BYTES: Final = 64 * KIB  # a body beyond it is inspected in a thread, so that others are served meanwhile
# The points of whole answers: one of these is the end of its exchange, if nothing goes wrong after it.
SETTLING: Final = frozenset(
    {
        Point.MCP_TOOL_RESULT,
        Point.MCP_RESOURCE_RESULT,
        Point.MCP_PROMPT_RESULT,
        Point.MCP_COMPLETION_RESULT,
        Point.MCP_ERROR,
    }
)
_PERMITS: Final = Effect.TRANSFORM  # the severest effect of a permit
ROUNDS: Final = 3  # decisions about one message; one that still changes then is refused


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """durability: ``batch`` forwards after the record's write; ``disk`` awaits its fdatasync.

    step_up: upstream → the sign-in that it asks of its callers.
    """

    durability: Literal["batch", "disk"] = "batch"
    step_up: Mapping[str, StepUp] = field(default_factory=dict)


@value
class Question:
    """An inspected Action and the policy input made from it; what stands between prepare and conclude.

    given: the findings came from the caller, which knew what of the body is text. payload: the body as it
    will be sent if nothing changes it, b"" when it is not encoded yet. earlier, spent_us, noted: decision, its
    microseconds and findings of the rounds before, when a transformation made this question.
    """

    action: Action
    exchange: Exchange
    decision_id: str
    findings: tuple[Finding, ...]
    label: Label
    asked: PolicyInput
    given: bool = False
    payload: bytes = b""
    rounds: int = 1
    spent_us: int = 0
    earlier: Decision | None = None
    noted: tuple[Finding, ...] = ()


class Guard:
    """The PEP. One per worker; all collaborators are ports."""

    def __init__(
        self,
        *,
        engine: PolicyEngine | RemotePolicyEngine,
        scanner: Scanner,
        labels: Labels,
        limits: Limits,
        kill_switch: KillSwitch,
        audit: AuditLog,
        telemetry: Telemetry,
        clock: Clock,
        ids: Ids,
        settings: GuardSettings = GuardSettings(),
        on_internal: Callable[[BaseException], None] = lambda _e: None,
    ) -> None:
        self._engine = engine
        self._remote = hasattr(engine, "decide_remote")
        self.scanner = scanner
        self._labels = labels
        self._limits = limits
        self.kill_switch = kill_switch
        self._audit = audit
        self._telemetry = telemetry
        self._clock = clock
        self._ids = ids
        self._to_disk = settings.durability == "disk"
        self._step_up = settings.step_up
        self._on_internal = on_internal
        self._receipts: dict[str, Receipt] = {}
        self._permits = PermitRecords()

    # -- one exchange ------------------------------------------------------------------------------

    def new_exchange(
        self, principal: Principal, protocol: str, *, client_ip: str = "", traceparent: bytes = b""
    ) -> Exchange:
        """Open the bookkeeping of one request; close it with `close` in ``finally``.

        traceparent: W3C Trace Context 1 header value, or b""; a malformed one is ignored.
        """
        exchange = Exchange(self._ids.new("x"), principal, protocol, self._clock.monotonic_ns(), client_ip)
        if traceparent:
            exchange.follow(traceparent)
        return exchange

    def close(self, exchange: Exchange, *, outcome: str, error: str = "") -> None:
        """Write the outcome record, once, of an exchange that had an intent, or that nothing else tells of. Never raises.

        A message that broke a rule of its protocol was never decided about: its outcome is its only
        record, so that the id in its error can be explained.

        Where the answer's own record settled the exchange, only another end than ``ok`` is written.

        outcome: ``ok | refused | upstream_fault | cancelled | internal``.
        """
        if exchange.closed:
            return
        exchange.closed = True
        self._telemetry.exchange(exchange, outcome=outcome, error=error)
        if outcome == "ok" and (exchange.settled or not exchange.intent_uid):
            return
        if not exchange.intent_uid and exchange.decisions:
            return  # the record of its refusal says it all
        duration = (self._clock.monotonic_ns() - exchange.started_ns) // 1000
        try:
            self._audit.append(outcome_record(exchange, outcome=outcome, error=error, duration_us=duration))
        except AuditUnavailable:
            # The intent stands without an outcome, and `audit verify` reports it: never guess one.
            return

    @property
    def labels(self) -> Labels:
        """Where flow labels of callers are kept: what hands a caller on hands its label on."""
        return self._labels

    def standing(self, principal: Principal) -> tuple[str, Label]:
        """Return the policy revision and the caller's label now: an answer that is kept depends on both."""
        return self._engine.revision, self._labels.current(principal)

    def barred(self, principal: Principal, upstreams: Sequence[str]) -> tuple[str, ...]:
        """Return those of some upstreams that a stop closes to a caller now; unknown counts as closed."""
        return tuple(name for name in upstreams if self.kill_switch.stopped(principal, name))

    # -- one decision -------------------------------------------------------------------------------

    async def clear(self, action: Action, exchange: Exchange) -> Cleared | Refusal:
        """Decide, record and return sendable bytes, or the refusal. Never raises but on cancellation."""
        aside: tuple[Finding, ...] | None = None
        try:
            payload = strict_json.dumps(action.body)
            if len(payload) > ASIDE_BYTES and INFO[action.point].content:
                # The kill switch and the limits come first here too: who is refused costs no inspection.
                refusal = self._gate(action, exchange, self._ids.new("d"))
                if refusal is not None:
                    return refusal
                aside = await self.inspect(action, action.body)
                payload = b""  # others ran meanwhile: what is sent is encoded after what was inspected
        except Exception as error:  # noqa: BLE001  every failure is a deny
            return self._failed(action, exchange, error)
        if self._remote:
            verdict = await self.check_remote(action, exchange, aside=aside)
        else:
            verdict = self.check(action, exchange, aside=aside, payload=payload)
        if isinstance(verdict, Refusal):
            return verdict
        cleared = self.commit(verdict, exchange)
        if self._to_disk and isinstance(cleared, Cleared):
            try:
                await self.settle(cleared)
            except AuditUnavailable:
                return Refusal(FAULTS["audit_unavailable"], verdict.decision_id)
        return cleared

    def clear_alike(self, like: Action, bodies: Sequence[JSON], exchange: Exchange) -> list[Cleared] | None:
        """Clear messages that are there together and differ in nothing but their bodies; None where that will not do.

        like: the Action of any of them; on its way back, not the end of its exchange, without arguments. Each
        body is inspected, has a decision id and a record of its own, and every record is written before this
        returns. Only the question is asked once: where nothing is found, policy is shown the same of each.

        None: something is found, to be changed or refused, or could not be done. Nothing may be sent then; each
        message is to be given to `clear`, which says what becomes of it. Never raises.
        """
        point, tenant = like.point, like.principal.tenant
        if self._remote or self._to_disk or like.arguments:
            return None
        if INFO[point].direction == "request" or point in SETTLING:
            return None
        try:
            if self._stopped(like):
                return None
            payloads = [strict_json.dumps(body) for body in bodies]
            if sum(map(len, payloads)) > ASIDE_BYTES:
                return None
            if INFO[point].content and any(self.scanner.scan_all(bodies, point, tenant)):
                return None
            label = self._labels.current(like.principal)
            started = self._clock.monotonic_ns()
            asked = self._ask(like, (), label, exchange)
            answer = self._engine.decide(point, asked)  # type: ignore[union-attr]
            eval_us = (self._clock.monotonic_ns() - started) // 1000
            decision = parse_decision(answer, revision=self._engine.revision, engine=self._engine.name)
            if not decision.permits or decision.obligations:
                return None
            ids = [self._ids.new("d") for _ in bodies]
            record = decision_record(
                like,
                exchange,
                phase="outcome",
                decision_id="",
                decision=decision,
                fault="",
                findings=(),
                label=label,
                digest="",
                size=0,
                eval_us=eval_us,
            )
            digest = self._audit.hmac
            receipts = self._audit.append_all(
                [
                    {**record, "decision_id": one, "args": {"hmac": digest(tenant, sent), "bytes": len(sent)}}
                    for one, sent in zip(ids, payloads, strict=True)
                ]
            )
            out = [
                Cleared(_MINT, body, sent, like.headers(body), one, receipt.uid, like.of(body))
                for body, sent, one, receipt in zip(bodies, payloads, ids, receipts, strict=True)
            ]
        except Exception:  # noqa: BLE001  `clear` meets it again, and denies
            return None
        rules = tuple(r.rule for r in decision.reasons)
        self._telemetry.decision(point, EFFECT_NAMES[decision.effect], rules, eval_us, len(out))
        exchange.upstream = like.resource.upstream
        exchange.decisions += ids
        return out

    async def inspect(self, action: Action, body: JSON) -> tuple[Finding, ...]:
        """Return what a scan finds in a body at an Action's point; a large one is read in a thread."""
        scan, tenant = self.scanner.scan, action.principal.tenant
        if len(strict_json.dumps(body)) <= ASIDE_BYTES:
            return tuple(scan(body, action.point, tenant))
        return tuple(await asyncio.to_thread(scan, body, action.point, tenant))

    async def settle(self, cleared: Cleared) -> None:
        """Return when the record of a Cleared is on disk. Raises AuditUnavailable."""
        await self._settle(cleared.record_uid)

    async def _settle(self, uid: str) -> None:
        receipt = self._receipts.pop(uid, None)
        if receipt is not None:
            await self._audit.durable(receipt)

    def check(
        self,
        action: Action,
        exchange: Exchange,
        seen: Sequence[Finding] | None = None,
        *,
        aside: tuple[Finding, ...] | None = None,
        payload: bytes = b"",
    ) -> Permit | Refusal:
        """Decide with the embedded engine; no await, no I/O but the refusal's record.

        seen: findings of a stream's inspector, in place of a scan of the body. aside: those of a scan
        of the body that `clear` made beside the loop, after the kill switch and the limits. payload: the
        body, encoded a moment ago.
        """
        step: Question | Permit | Refusal | None = None
        try:
            step = self.prepare(action, exchange, seen, aside, payload)
            while isinstance(step, Question):
                started = self._clock.monotonic_ns()
                answer = self._engine.decide(action.point, step.asked)  # type: ignore[union-attr]
                step = self.conclude(step, answer, (self._clock.monotonic_ns() - started) // 1000)
            return step
        except Exception as error:  # noqa: BLE001  every failure is a deny
            return self._failed(action, exchange, error, step.findings if isinstance(step, Question) else ())

    async def check_remote(
        self,
        action: Action,
        exchange: Exchange,
        seen: Sequence[Finding] | None = None,
        *,
        aside: tuple[Finding, ...] | None = None,
    ) -> Permit | Refusal:
        """Decide with the engine, wherever it is."""
        if not self._remote:
            return self.check(action, exchange, seen, aside=aside)
        step: Question | Permit | Refusal | None = None
        try:
            step = self.prepare(action, exchange, seen, aside)
            while isinstance(step, Question):
                started = self._clock.monotonic_ns()
                answer = await self._engine.decide_remote(action.point, step.asked.json)  # type: ignore[union-attr]
                step = self.conclude(step, answer, (self._clock.monotonic_ns() - started) // 1000)
            return step
        except Exception as error:  # noqa: BLE001  every failure is a deny
            return self._failed(action, exchange, error, step.findings if isinstance(step, Question) else ())

    def _stopped(self, action: Action) -> bool:
        """Whether a stop covers the caller, the upstream, or the protocol's whole room (``llm``, ``a2a``, ``mcp``)."""
        return self.kill_switch.stopped(action.principal, action.resource.upstream, action.protocol.name)

    def _gate(self, action: Action, exchange: Exchange, decision_id: str) -> Refusal | None:
        """Kill switch and limits: what comes before everything that costs."""
        upstream = exchange.upstream = action.resource.upstream
        if self.kill_switch.stopped(action.principal, upstream, action.protocol.name):
            return self._refuse(action, exchange, FAULTS["killed"], decision_id)
        if INFO[action.point].direction == "request":
            wait = self._limits.take(action.principal, self._clock.now_us())
            if wait:
                return self._refuse(action, exchange, FAULTS["over_limit"], decision_id, retry_after_s=wait)
        return None

    def prepare(
        self,
        action: Action,
        exchange: Exchange,
        seen: Sequence[Finding] | None = None,
        aside: tuple[Finding, ...] | None = None,
        payload: bytes = b"",
    ) -> Question | Refusal:
        """Kill switch, limits, inspection, label and policy input; raises PolicyFault("input_invalid")."""
        decision_id = self._ids.new("d")
        principal, info, now_us = action.principal, INFO[action.point], self._clock.now_us()
        upstream = exchange.upstream = action.resource.upstream
        # Also after a body was read in a thread: the switch may have been pulled meanwhile.
        if self.kill_switch.stopped(principal, upstream, action.protocol.name):
            return self._refuse(action, exchange, FAULTS["killed"], decision_id)
        if aside is None and info.direction == "request":
            wait = self._limits.take(principal, now_us)
            if wait:
                return self._refuse(action, exchange, FAULTS["over_limit"], decision_id, retry_after_s=wait)
        if principal.details or self._step_up:
            refusal = self._by_token(action, exchange, decision_id, now_us)
            if refusal is not None:
                return refusal
        if aside is not None:
            findings = aside
        elif seen is not None:
            findings = tuple(seen)
        elif info.content:
            findings = tuple(self.scanner.scan(action.body, action.point, principal.tenant))
        else:
            findings = ()
        for finding in findings:
            self._telemetry.finding(finding.rule, action.point)
        label = self._labels.current(principal)
        revision = self._engine.revision
        asked = ask(action, findings, label=label, exchange=exchange, now_us=now_us, revision=revision)
        return Question(action, exchange, decision_id, findings, label, asked, seen is not None, payload)

    def _by_token(self, action: Action, exchange: Exchange, decision_id: str, now_us: int) -> Refusal | None:
        """What the caller's token and sign-in do not reach is refused before policy, which cannot widen it."""
        short = unmet(action, self._step_up, now_us // 1_000_000)
        if short is None:
            return None
        return self._refuse(
            action,
            exchange,
            FAULTS[short.fault],
            decision_id,
            challenge=short.challenge,
            rules=(short.rule,),
            step_up=short.step_up,
            short=short,
        )

    def _ask(self, action: Action, findings: tuple[Finding, ...], label: Label, exchange: Exchange) -> PolicyInput:
        return ask(
            action,
            findings,
            label=label,
            exchange=exchange,
            now_us=self._clock.now_us(),
            revision=self._engine.revision,
        )

    def conclude(self, question: Question, answer: bytes, eval_us: int) -> Permit | Refusal | Question:
        """Turn the engine's answer into a Permit with its final body, a Refusal, or the next question.

        Raises PolicyFault (decision_invalid, obligation_failed), StateUnavailable.
        """
        action = question.action
        latest = parse_decision(answer, revision=self._engine.revision, engine=self._engine.name)
        rules = tuple([r.rule for r in latest.reasons]) if latest.reasons else ()
        self._telemetry.decision(action.point, EFFECT_NAMES[latest.effect], rules, eval_us)
        decision, frame = latest, question.asked.frame
        if question.earlier is not None:
            decision, frame = _joined(question.earlier, latest), b""
        spent_us = question.spent_us + eval_us
        if latest.effect > _PERMITS:
            return self._refuse_by(question, decision, spent_us, rules)
        body, raised, follow = action.body, CLEAN, None
        if latest.obligations:
            applied = apply(action, latest.obligations, question.findings)
            body, raised = applied.body, applied.label
            if applied.cured and not applied.changed:
                raise PolicyFault("obligation_failed", "nothing changed")
            if applied.changed:
                check_coupled(action, body)
                follow = self._uncovered(question, body, applied.cured)
        payload = question.payload if body is action.body and question.payload else strict_json.dumps(body)
        label = question.label
        if raised:
            label = join(label, raised)
            if label != question.label:
                self._labels.raise_(action.principal, raised)
        if follow is not None:
            return self._next(question, decision, spent_us, *follow, label)
        findings = (*question.noted, *question.findings) if question.noted else question.findings
        return Permit(_MINT, action, body, payload, decision, question.decision_id, findings, label, spent_us, frame)

    def _uncovered(
        self, question: Question, body: JSON, cured: frozenset[tuple[str, str]]
    ) -> tuple[Action, tuple[Finding, ...]] | None:
        """Return the Action and findings to ask about, when a changed body says what nobody has judged.

        Raises PolicyFault when what was to be removed is still there.
        """
        action, tenant = question.action, question.action.principal.tenant
        arguments = rebound(action.arguments, action.body, body)
        if not cured and arguments is action.arguments:
            return None
        again = self.scanner.scan(body, action.point, tenant)
        if any((f.rule, f.pointer) in cured for f in again):
            raise PolicyFault("obligation_failed", "a removed value was found again")
        known = {(f.rule, f.pointer) for f in question.findings}
        if question.given:  # the caller left some of these out, knowing what they are
            known |= {(f.rule, f.pointer) for f in self.scanner.scan(action.body, action.point, tenant)}
        fresh = [f for f in again if (f.rule, f.pointer) not in known]
        if not fresh and arguments is action.arguments:
            return None
        asked = {(f.rule, f.pointer) for f in question.findings}
        still = [f for f in again if (f.rule, f.pointer) in asked]
        return replace(action, body=body, arguments=arguments), (*still, *fresh)

    def _next(
        self,
        question: Question,
        decision: Decision,
        spent_us: int,
        action: Action,
        findings: tuple[Finding, ...],
        label: Label,
    ) -> Question:
        if question.rounds >= ROUNDS:
            raise PolicyFault("obligation_failed", "a transformation does not come to rest")
        return replace(
            question,
            action=action,
            findings=findings,
            label=label,
            payload=b"",
            asked=self._ask(action, findings, label, question.exchange),
            rounds=question.rounds + 1,
            spent_us=spent_us,
            earlier=decision,
            noted=(*question.noted, *question.findings),
        )

    def commit(self, permit: Permit, exchange: Exchange) -> Cleared | Refusal:
        """Write the permit's record and return sendable bytes. Never raises.

        An unwritable record, or a header that cannot be made, is a Refusal.
        """
        action, payload = permit.action, permit.payload
        settles = None
        try:
            if exchange.intent_uid and action.point in SETTLING and not exchange.settled:
                exchange.bytes_out += len(payload)
                duration = (self._clock.monotonic_ns() - exchange.started_ns) // 1000
                settles = outcome_of(exchange, outcome="ok", error="", duration_us=duration)
            digest = self._audit.hmac(action.principal.tenant, payload)
            receipt = self._audit.append(self._permits.record(permit, exchange, digest, settles))
            uid = receipt.uid
            if self._to_disk:
                self._receipts[uid] = receipt
            if settles is not None:
                exchange.settled = True
            if not exchange.intent_uid and INFO[action.point].direction == "request":
                exchange.intent_uid = uid
            exchange.decisions.append(permit.decision_id)
            body = permit.body
            return Cleared(_MINT, body, payload, action.headers(body), permit.decision_id, uid, action)
        except AuditUnavailable:
            return Refusal(FAULTS["audit_unavailable"], permit.decision_id)
        except Exception as error:  # noqa: BLE001  every failure is a deny
            return self._failed(action, exchange, error, permit.findings)

    async def decide_stream(
        self, action: Action, exchange: Exchange, findings: Sequence[Finding]
    ) -> Decision | Refusal:
        """Decide about findings in a stream's text; labels are raised and the decision recorded.

        The obligations of a transform are the stream guard's to apply to the waiting pieces.
        """
        try:
            question = self.prepare(action, exchange, findings)
            if isinstance(question, Refusal):
                return question
            started = self._clock.monotonic_ns()
            if self._remote:
                answer = await self._engine.decide_remote(action.point, question.asked.json)  # type: ignore[union-attr]
            else:
                answer = self._engine.decide(action.point, question.asked)  # type: ignore[union-attr]
            eval_us = (self._clock.monotonic_ns() - started) // 1000
            decision = parse_decision(answer, revision=self._engine.revision, engine=self._engine.name)
            rules = tuple(r.rule for r in decision.reasons)
            self._telemetry.decision(action.point, EFFECT_NAMES[decision.effect], rules, eval_us)
            if not decision.permits:
                return self._refuse_by(question, decision, eval_us, rules)
            check_stream(decision.obligations, question.findings)
            marks = [o.params["label"] for o in decision.obligations if o.type == "taint"]
            if marks:
                self._labels.raise_(action.principal, label_of(marks))
            uid = self._record(
                action,
                exchange,
                "outcome",
                question.decision_id,
                decision,
                "",
                question.findings,
                b"",
                eval_us=eval_us,
            )
            await self._settle(uid)
            return decision
        except AuditUnavailable:
            return Refusal(FAULTS["audit_unavailable"], exchange.id)
        except Exception as error:  # noqa: BLE001  every failure is a deny
            return self._failed(action, exchange, error)

    def stopped(self, action: Action, exchange: Exchange) -> Refusal | None:
        """Return the recorded refusal when the kill switch was pulled since a stream began, else None."""
        if not self._stopped(action):
            return None
        return self._refuse(action, exchange, FAULTS["killed"], self._ids.new("d"))

    def _clear_piece(self, body: JSON, exchange: Exchange, decision_id: str) -> Cleared:
        """Return one piece of a stream that `stream_guard` has inspected and released.

        For `stream_guard` alone; `tests/enforce/test_choke_point.py` fails on any other caller.
        """
        return Cleared(_MINT, body, strict_json.dumps(body), (), decision_id, exchange.intent_uid)

    # -- refusals -----------------------------------------------------------------------------------------

    def _refuse_by(self, question: Question, decision: Decision, eval_us: int, rules: tuple[str, ...]) -> Refusal:
        if decision.effect is Effect.APPROVE:
            told = FAULTS["approval_pending"]
        elif asked_of_sign_in(decision.step_up_scopes) is not None:
            told = FAULTS["step_up_required"]
        elif decision.step_up_scopes:
            told = FAULTS["scope_missing"]
        elif any(r.effect is Effect.DENY and r.code == "quarantined" for r in decision.reasons):
            told = FAULTS["quarantined"]
        elif question.action.point is Point.MCP_TOOL_CALL and _only(decision, "schema_mismatch"):
            told = FAULTS["arguments_mismatch"]  # the model can mend them (SEP-1303)
        else:
            told = FAULTS["denied"]
        return self._refuse(
            question.action,
            question.exchange,
            told,
            question.decision_id,
            decision=decision,
            eval_us=eval_us,
            findings=question.findings,
            challenge=decision.step_up_scopes,
            rules=rules,
            step_up=asked_of_sign_in(decision.step_up_scopes),
        )

    def _refuse(
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
        exchange.decisions.append(decision_id)
        phase = "refused" if INFO[action.point].direction == "request" else "outcome"
        because = short.because if short else None
        try:
            uid = self._record(
                action,
                exchange,
                phase,
                decision_id,
                decision,
                told.code,
                findings,
                b"",
                eval_us=eval_us,
                because=because,
            )
            self._receipts.pop(uid, None)  # a refusal sends nothing, so nothing waits for its disk
        except AuditUnavailable:
            return Refusal(FAULTS["audit_unavailable"], decision_id)
        return Refusal(told, decision_id, challenge, retry_after_s, rules, step_up, short.detail if short else None)

    def _failed(
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
        return self._refuse(action, exchange, told, self._ids.new("d"), findings=findings, rules=(f"core.{code}",))

    def _append(self, record: JSONObject) -> str:
        receipt = self._audit.append(record)
        if self._to_disk:
            self._receipts[receipt.uid] = receipt
        return receipt.uid

    def _record(
        self,
        action: Action,
        exchange: Exchange,
        phase: str,
        decision_id: str,
        decision: Decision | None,
        fault: str,
        findings: Sequence[Finding],
        payload: bytes,
        *,
        eval_us: int = 0,
        settles: JSONObject | None = None,
        label: Label | None = None,
        because: JSONObject | None = None,
    ) -> str:
        tenant = action.principal.tenant
        record: JSONObject = decision_record(
            action,
            exchange,
            phase=phase,
            decision_id=decision_id,
            decision=decision,
            fault=fault,
            findings=findings,
            label=self._labels.current(action.principal) if label is None else label,
            digest=self._audit.hmac(tenant, payload) if payload else "",
            size=len(payload),
            eval_us=eval_us,
            settles=settles,
            because=because,
        )
        return self._append(record)


def _joined(earlier: Decision, decision: Decision) -> Decision:
    """Return what the rounds of one message decided together."""
    return replace(
        decision,
        effect=max(earlier.effect, decision.effect),
        risk=max(earlier.risk, decision.risk),
        reasons=(*earlier.reasons, *decision.reasons),
        obligations=(*earlier.obligations, *decision.obligations),
        shadow=(*earlier.shadow, *decision.shadow),
    )


def _only(decision: Decision, code: str) -> bool:
    """Return whether every reason against is of this code: then its cause may be told."""
    against = [r.code for r in decision.reasons if r.effect is Effect.DENY]
    return bool(against) and all(found == code for found in against)
