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
- INVARIANT (DESIGN §6b-5): what a transformation made is judged like what came in (`rounds`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from firewall.core.action import Action
from firewall.core.bounds import KIB
from firewall.core.decision import EFFECT_NAMES, Decision, Effect
from firewall.core.errors import FAULTS, AuditUnavailable, PolicyFault
from firewall.core.exchange import Exchange
from firewall.core.finding import Finding
from firewall.core.jsonvalue import JSON
from firewall.core.label import CLEAN, Label, join, label_of
from firewall.core.permit import Cleared, Permit, Refusal, take_mint
from firewall.core.points import INFO, SETTLING
from firewall.core.policy_input import PolicyInput
from firewall.core.ports import AuditLog, Clock, Ids, Labels, PolicyEngine, RemotePolicyEngine, Scanner, Telemetry
from firewall.core.principal import Principal
from firewall.core.step_up import StepUp
from firewall.decide.contract import parse_decision
from firewall.decide.question import ask, parts
from firewall.enforce.kill_switch import KillSwitch
from firewall.enforce.limits import Limits
from firewall.enforce.obligations import apply, check_coupled, check_stream
from firewall.enforce.recorder import Recorder
from firewall.enforce.records import PermitRecords, decision_record, outcome_of, outcome_record
from firewall.enforce.rounds import Question, following, joined, uncovered
from firewall.enforce.token_rules import unmet
from firewall.wire import strict_json

_MINT: Final = take_mint()
ASIDE_BYTES: Final = 64 * KIB  # a body beyond it is inspected in a thread, so that others are served meanwhile
_PERMITS: Final = Effect.TRANSFORM  # the severest effect of a permit


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """durability: ``batch`` forwards after the record's write; ``disk`` awaits its fdatasync.

    step_up: upstream → the sign-in that it asks of its callers.
    """

    durability: Literal["batch", "disk"] = "batch"
    step_up: Mapping[str, StepUp] = field(default_factory=dict)


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
        self._recorder = Recorder(audit, labels, telemetry, ids, to_disk=self._to_disk, on_internal=on_internal)
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
        step: Question | Permit | Refusal | None = None
        try:
            payload = strict_json.dumps(action.body)
            if len(payload) > ASIDE_BYTES and INFO[action.point].content:
                # The kill switch and the limits come first here too: who is refused costs no inspection.
                step = self._gate(action, exchange, self._ids.new("d"), self._clock.now_us())
                if step is not None:
                    return step
                aside = await self.inspect(action, action.body)
                payload = b""  # others ran meanwhile: what is sent is encoded after what was inspected
            step = self.prepare(action, exchange, None, aside, payload)
            while isinstance(step, Question):
                started = self._clock.monotonic_ns()
                if self._remote:
                    answer = await self._engine.decide_remote(action.point, step.json)  # type: ignore[union-attr]
                else:
                    answer = self._engine.decide(action.point, step)  # type: ignore[union-attr]
                step = self.conclude(step, answer, (self._clock.monotonic_ns() - started) // 1000)
        except Exception as error:  # noqa: BLE001  every failure is a deny
            findings = step.findings if isinstance(step, Question) else ()
            return self._recorder.failed(action, exchange, error, findings)
        if isinstance(step, Refusal):
            return step
        cleared = self.commit(step, exchange)
        if self._to_disk and isinstance(cleared, Cleared):
            try:
                await self.settle(cleared)
            except AuditUnavailable:
                return Refusal(FAULTS["audit_unavailable"], cleared.decision_id)
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
        await self._recorder.settle(cleared.record_uid)

    def check(self, action: Action, exchange: Exchange, seen: Sequence[Finding] | None = None) -> Permit | Refusal:
        """Decide with the embedded engine; no await, no I/O but the refusal's record.

        seen: findings of a stream's inspector, in place of a scan of the body.
        """
        step: Question | Permit | Refusal | None = None
        try:
            step = self.prepare(action, exchange, seen)
            while isinstance(step, Question):
                started = self._clock.monotonic_ns()
                answer = self._engine.decide(action.point, step)  # type: ignore[union-attr]
                step = self.conclude(step, answer, (self._clock.monotonic_ns() - started) // 1000)
            return step
        except Exception as error:  # noqa: BLE001  every failure is a deny
            findings = step.findings if isinstance(step, Question) else ()
            return self._recorder.failed(action, exchange, error, findings)

    async def check_remote(
        self, action: Action, exchange: Exchange, seen: Sequence[Finding] | None = None
    ) -> Permit | Refusal:
        """Decide with the engine, wherever it is."""
        if not self._remote:
            return self.check(action, exchange, seen)
        step: Question | Permit | Refusal | None = None
        try:
            step = self.prepare(action, exchange, seen)
            while isinstance(step, Question):
                started = self._clock.monotonic_ns()
                answer = await self._engine.decide_remote(action.point, step.json)  # type: ignore[union-attr]
                step = self.conclude(step, answer, (self._clock.monotonic_ns() - started) // 1000)
            return step
        except Exception as error:  # noqa: BLE001  every failure is a deny
            findings = step.findings if isinstance(step, Question) else ()
            return self._recorder.failed(action, exchange, error, findings)

    def _stopped(self, action: Action) -> bool:
        """Whether a stop covers the caller, the upstream, or the protocol's whole room (``llm``, ``a2a``, ``mcp``)."""
        return self.kill_switch.stopped(action.principal, action.resource.upstream, action.protocol.name)

    def _gate(self, action: Action, exchange: Exchange, decision_id: str, now_us: int) -> Refusal | None:
        """Kill switch and limits, as `prepare` asks them: what comes before everything that costs."""
        upstream = exchange.upstream = action.resource.upstream
        if self.kill_switch.stopped(action.principal, upstream, action.protocol.name):
            return self._recorder.refuse(action, exchange, FAULTS["killed"], decision_id)
        if INFO[action.point].direction == "request":
            wait = self._limits.take(action.principal, now_us)
            if wait:
                return self._recorder.refuse(action, exchange, FAULTS["over_limit"], decision_id, retry_after_s=wait)
        return None

    def prepare(
        self,
        action: Action,
        exchange: Exchange,
        seen: Sequence[Finding] | None = None,
        aside: tuple[Finding, ...] | None = None,
        payload: bytes = b"",
    ) -> Question | Refusal:
        """Kill switch, limits, inspection, label and policy input; raises PolicyFault("input_invalid").

        seen: findings of a stream's inspector, in place of a scan of the body. aside: those of a scan of the body that
        was made beside the loop, after the kill switch and the limits. payload: the body, encoded a moment ago.
        """
        decision_id = self._ids.new("d")
        principal, info, now_us = action.principal, INFO[action.point], self._clock.now_us()
        upstream = exchange.upstream = action.resource.upstream
        # Also after a body was read in a thread: the switch may have been pulled meanwhile.
        if self.kill_switch.stopped(principal, upstream, action.protocol.name):
            return self._recorder.refuse(action, exchange, FAULTS["killed"], decision_id)
        if aside is None and info.direction == "request":
            wait = self._limits.take(principal, now_us)
            if wait:
                return self._recorder.refuse(action, exchange, FAULTS["over_limit"], decision_id, retry_after_s=wait)
        if principal.details or self._step_up:
            # What the caller's token and sign-in do not reach is refused before policy, which cannot widen it.
            short = unmet(action, self._step_up, now_us // 1_000_000)
            if short is not None:
                return self._recorder.refuse_short(action, exchange, decision_id, short)
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
        frame, arguments = parts(action, findings, label=label, exchange=exchange, now_us=now_us, revision=revision)
        return Question(
            frame.before,
            frame.after,
            frame.digest,
            exchange.id,
            now_us,
            arguments,
            action,
            exchange,
            decision_id,
            findings,
            label,
            seen is not None,
            payload,
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
        decision, frame, findings, spent_us = latest, question.frame, question.findings, eval_us
        before = question.earlier
        if before is not None:
            decision, frame = joined(before.decision, latest), b""
            findings, spent_us = (*before.findings, *findings), before.spent_us + eval_us
        if latest.effect > _PERMITS:
            return self._recorder.refuse_by(question, decision, spent_us, rules)
        body, raised, follow = action.body, CLEAN, None
        if latest.obligations:
            applied = apply(action, latest.obligations, question.findings)
            body, raised = applied.body, applied.label
            if applied.cured and not applied.changed:
                raise PolicyFault("obligation_failed", "nothing changed")
            if applied.changed:
                check_coupled(action, body)
                follow = uncovered(self.scanner, question, body, applied.cured)
        payload = question.payload if body is action.body and question.payload else strict_json.dumps(body)
        label = question.label
        if raised:
            label = join(label, raised)
            if label != question.label:
                self._labels.raise_(action.principal, raised)
        if follow is not None:
            return following(question, decision, spent_us, *follow, label, self._ask)
        return Permit(_MINT, action, body, payload, decision, question.decision_id, findings, label, spent_us, frame)

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
                self._recorder.receipts[uid] = receipt
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
            return self._recorder.failed(action, exchange, error, permit.findings)

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
                answer = await self._engine.decide_remote(action.point, question.json)  # type: ignore[union-attr]
            else:
                answer = self._engine.decide(action.point, question)  # type: ignore[union-attr]
            eval_us = (self._clock.monotonic_ns() - started) // 1000
            decision = parse_decision(answer, revision=self._engine.revision, engine=self._engine.name)
            rules = tuple(r.rule for r in decision.reasons)
            self._telemetry.decision(action.point, EFFECT_NAMES[decision.effect], rules, eval_us)
            if not decision.permits:
                return self._recorder.refuse_by(question, decision, eval_us, rules)
            check_stream(decision.obligations, question.findings)
            marks = [o.params["label"] for o in decision.obligations if o.type == "taint"]
            if marks:
                self._labels.raise_(action.principal, label_of(marks))
            uid = self._recorder.write(
                action,
                exchange,
                "outcome",
                question.decision_id,
                decision=decision,
                fault="",
                findings=question.findings,
                eval_us=eval_us,
            )
            await self._recorder.settle(uid)
            return decision
        except AuditUnavailable:
            return Refusal(FAULTS["audit_unavailable"], exchange.id)
        except Exception as error:  # noqa: BLE001  every failure is a deny
            return self._recorder.failed(action, exchange, error)

    def stopped(self, action: Action, exchange: Exchange) -> Refusal | None:
        """Return the recorded refusal when the kill switch was pulled since a stream began, else None."""
        if not self._stopped(action):
            return None
        return self._recorder.refuse(action, exchange, FAULTS["killed"], self._ids.new("d"))

    def _clear_piece(self, body: JSON, exchange: Exchange, decision_id: str) -> Cleared:
        """Return one piece of a stream that `stream_guard` has inspected and released.

        For `stream_guard` alone; `tests/enforce/test_choke_point.py` fails on any other caller.
        """
        return Cleared(_MINT, body, strict_json.dumps(body), (), decision_id, exchange.intent_uid)
