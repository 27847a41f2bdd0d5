"""One question → one decision, through the same guard as everything else, recorded like everything else.

``approve`` is no: a person's approval is bound to bytes that only our own road sends. ``transform`` is no unless
the enforcer registered for every duty in it (DESIGN §6b-10). What cannot be asked at all is recorded here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from firewall.adapters.authzen.action import House, action_of, server_of
from firewall.adapters.authzen.message import Evaluation
from firewall.adapters.authzen.settings import Enforcer
from firewall.adapters.authzen.subject import People, Unfit, principal_of
from firewall.core.decision import EFFECT_NAMES, Effect
from firewall.core.errors import FAULTS, AuditUnavailable, BartizanError
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.permit import Permit, Refusal
from firewall.core.ports import AuditLog, Ids
from firewall.core.principal import Principal
from firewall.enforce.guard import Guard

PROTOCOL: Final = "mcp"
ENFORCERS: Final = "authzen"  # by this name an operator stops all of them, as an upstream
_WORDS_LOST: Final = "This enforcer did not register for what the decision asks of it."


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Decides for registered enforcers.

    on_internal: told of an exception that should not have been. issuers: see `subject.principal_of`, names.
    """

    guard: Guard
    house: House
    people: People
    audit: AuditLog
    ids: Ids
    on_internal: Callable[[BaseException], None] = lambda _e: None
    issuers: Mapping[str, str] = field(default_factory=dict)

    async def decide(
        self, question: Evaluation, enforcer: Enforcer, caller: Principal, *, client_ip: str = ""
    ) -> JSONObject:
        """Return the Decision object of one question. Never raises but on cancellation; every failure is a no."""
        try:
            return await self._decide(question, enforcer, caller, client_ip)
        except Unfit as unfit:
            return self._unfit(question, caller, unfit)
        except BartizanError as error:
            told = "audit_unavailable" if isinstance(error, AuditUnavailable) else "policy_unavailable"
            return _no(self.ids.new("d"), FAULTS[told].text, error={"status": 503, "message": FAULTS[told].text})
        except Exception as error:  # noqa: BLE001  every failure is a no
            self.on_internal(error)
            told_text = FAULTS["internal"].text
            return _no(self.ids.new("d"), told_text, error={"status": 500, "message": told_text})

    async def _decide(self, question: Evaluation, enforcer: Enforcer, caller: Principal, client_ip: str) -> JSONObject:
        if self.guard.kill_switch.stopped(caller, "", ENFORCERS):
            raise Unfit("killed", FAULTS["killed"].text)
        spec, item = server_of(question, self.house)
        audience = f"{self.house.public_url}/mcp/{spec.name}"
        principal = principal_of(
            question,
            enforcer,
            caller,
            self.people,
            issuer=self.house.public_url,
            audience=audience,
            names=self.issuers,
        )
        action = action_of(question, spec, item, principal, self.house)
        exchange = self.guard.new_exchange(principal, PROTOCOL, client_ip=client_ip)
        outcome = "refused"
        try:
            verdict = await self.guard.check_remote(action, exchange)
            if isinstance(verdict, Refusal):
                return self._refused(verdict)
            # An allow asks nothing of the message; its labels are raised here, with the caller.
            duties = {o.type for o in verdict.decision.obligations if verdict.decision.effect is Effect.TRANSFORM}
            lost = duties - enforcer.obligations
            cleared = self.guard.commit(verdict, exchange)
            if isinstance(cleared, Refusal):
                return self._refused(cleared)
            await self.guard.settle(cleared)
            if lost:
                return _no(verdict.decision_id, _WORDS_LOST, effect="transform")
            outcome = "ok"
            return self._permitted(verdict)
        finally:
            self.guard.close(exchange, outcome=outcome)

    def _permitted(self, permit: Permit) -> JSONObject:
        decision = permit.decision
        context: JSONObject = {
            "decision_id": permit.decision_id,
            "effect": EFFECT_NAMES[decision.effect],
            "policy_revision": decision.revision,
        }
        if decision.obligations:
            duties: list[JSON] = [{"type": o.type, **o.params} for o in decision.obligations]
            context["obligations"] = duties
        return {"decision": True, "context": context}

    def _refused(self, refusal: Refusal) -> JSONObject:
        told = refusal.fault
        if told.code == "approval_pending":
            return _no(refusal.decision_id, told.text, effect="approve", requires="approval")
        if refusal.step_up is not None:
            asked = refusal.step_up
            cure: JSONObject = {"acr_values": asked.acr, "max_age": asked.max_age_s}
            return _no(refusal.decision_id, told.text, requires="step_up", step_up=cure)
        if told.code == "scope_missing":
            return _no(refusal.decision_id, told.text, requires="scope", scope=" ".join(refusal.challenge))
        if refusal.detail is not None:
            details: list[JSON] = [refusal.detail.as_json()]
            return _no(refusal.decision_id, told.text, requires="authorization_details", authorization_details=details)
        if told.status >= 500:
            return _no(refusal.decision_id, told.text, error={"status": told.status, "message": told.text})
        return _no(refusal.decision_id, told.text)

    def _unfit(self, question: Evaluation, caller: Principal, unfit: Unfit) -> JSONObject:
        decision_id = self.ids.new("d")
        record: JSONObject = {
            "kind": "authzen",
            "tenant": caller.tenant,
            "decision_id": decision_id,
            "client": caller.client_id,
            "code": unfit.code,
        }
        try:
            self.audit.append(record)
        except AuditUnavailable:
            text = FAULTS["audit_unavailable"].text
            return _no(decision_id, text, error={"status": 503, "message": text})
        return _no(decision_id, unfit.detail, error={"status": unfit.status, "message": unfit.detail})


def _no(decision_id: str, text: str, *, effect: str = "deny", **more: JSON) -> JSONObject:
    """Return a no with fixed words; rules and reasons are for our own operators."""
    context: JSONObject = {"decision_id": decision_id, "effect": effect, "reason_user": {"en": text}, **more}
    return {"decision": False, "context": context}
