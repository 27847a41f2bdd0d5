"""One message, asked about until what is left of it rests (DESIGN §6b-5): the question, and the next one.

What a transformation made is judged like what came in: taking hidden characters out can put a key or a protected
path together. So a body whose arguments changed, or which shows what its original did not, is asked about again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from firewall.core.action import Action
from firewall.core.decision import Decision
from firewall.core.errors import PolicyFault
from firewall.core.exchange import Exchange
from firewall.core.finding import Finding
from firewall.core.jsonvalue import JSON
from firewall.core.label import Label
from firewall.core.policy_input import PolicyInput
from firewall.core.ports import Scanner
from firewall.core.value import value
from firewall.enforce.obligations import rebound

ROUNDS: Final = 3  # decisions about one message; one that still changes then is refused

Ask = Callable[[Action, tuple[Finding, ...], Label, Exchange], PolicyInput]


@value
class Earlier:
    """What the rounds before decided together. rounds: how many; spent_us: of evaluation; findings: theirs."""

    rounds: int
    decision: Decision
    spent_us: int
    findings: tuple[Finding, ...]


@value
class Question(PolicyInput):
    """A policy input, and the inspected Action that it was made from; what stands between prepare and conclude.

    given: the findings came from the caller, which knew what of the body is text. payload: the body as it
    will be sent if nothing changes it, b"" when it is not encoded yet. earlier: when a transformation made this.
    """

    action: Action
    exchange: Exchange
    decision_id: str
    findings: tuple[Finding, ...]
    label: Label
    given: bool
    payload: bytes
    earlier: Earlier | None = None


def uncovered(
    scanner: Scanner, question: Question, body: JSON, cured: frozenset[tuple[str, str]]
) -> tuple[Action, tuple[Finding, ...]] | None:
    """Return the Action and findings to ask about, when a changed body says what nobody has judged.

    Raises PolicyFault when what was to be removed is still there.
    """
    action, tenant = question.action, question.action.principal.tenant
    arguments = rebound(action.arguments, action.body, body)
    if not cured and arguments is action.arguments:
        return None
    again = scanner.scan(body, action.point, tenant)
    if any((f.rule, f.pointer) in cured for f in again):
        raise PolicyFault("obligation_failed", "a removed value was found again")
    known = {(f.rule, f.pointer) for f in question.findings}
    if question.given:  # the caller left some of these out, knowing what they are
        known |= {(f.rule, f.pointer) for f in scanner.scan(action.body, action.point, tenant)}
    fresh = [f for f in again if (f.rule, f.pointer) not in known]
    if not fresh and arguments is action.arguments:
        return None
    asked = {(f.rule, f.pointer) for f in question.findings}
    still = [f for f in again if (f.rule, f.pointer) in asked]
    return replace(action, body=body, arguments=arguments), (*still, *fresh)


def following(
    question: Question,
    decision: Decision,
    spent_us: int,
    action: Action,
    findings: tuple[Finding, ...],
    label: Label,
    ask: Ask,
) -> Question:
    """Return the next question about a message that was changed. Raises PolicyFault after `ROUNDS` of them."""
    before = question.earlier
    rounds, noted = (before.rounds, before.findings) if before is not None else (0, ())
    if rounds + 1 >= ROUNDS:
        raise PolicyFault("obligation_failed", "a transformation does not come to rest")
    asked = ask(action, findings, label, question.exchange)
    return Question(
        asked.before,
        asked.after,
        asked.frame,
        asked.request_id,
        asked.time_us,
        asked.arguments,
        action,
        question.exchange,
        question.decision_id,
        findings,
        label,
        question.given,
        b"",
        Earlier(rounds + 1, decision, spent_us, (*noted, *question.findings)),
    )


def joined(earlier: Decision, decision: Decision) -> Decision:
    """Return what the rounds of one message decided together."""
    return replace(
        decision,
        effect=max(earlier.effect, decision.effect),
        risk=max(earlier.risk, decision.risk),
        reasons=(*earlier.reasons, *decision.reasons),
        obligations=(*earlier.obligations, *decision.obligations),
        shadow=(*earlier.shadow, *decision.shadow),
    )
