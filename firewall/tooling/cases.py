"""Run the decision cases of a bundle on every engine that is at hand, and compare the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from firewall.core.errors import PolicyFault
from firewall.core.points import Point
from firewall.decide.bundle import Bundle
from firewall.decide.cases import Case
from firewall.decide.contract import parse_decision
from firewall.decide.opa_server import OpaServerEngine
from firewall.decide.regorus import RegorusEngine
from firewall.decide.sampler import same_document


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case on one engine; ``problems`` is empty when it came out as expected."""

    case: Case
    engine: str
    answer: bytes
    problems: tuple[str, ...]


def run_cases(bundle: Bundle, *, opa_address: str = "") -> list[CaseResult]:
    """Return the results of every case on: compiled (if the bundle may), interpreter, OPA (if told where).

    opa_address: of a server that has this bundle's revision (`opa_server.write_for_opa`), or "".
    An answer that differs between engines is a problem of the later one, whatever was expected.
    """
    embedded = [RegorusEngine(bundle, "interpreter")]
    if bundle.mode == "compiled":
        embedded.append(RegorusEngine(bundle, "compiled"))
    results: list[CaseResult] = []
    for engine in embedded:
        results.extend(_judge(case, engine.name, bundle.revision, _ask(engine, case)) for case in bundle.cases)
    if opa_address:
        results.extend(asyncio.run(_on_opa(bundle, opa_address)))
    return _compared(results)


async def _on_opa(bundle: Bundle, address: str) -> list[CaseResult]:
    engine = OpaServerEngine(address, bundle.revision, deadline_s=5.0)
    results: list[CaseResult] = []
    try:
        for case in bundle.cases:
            try:
                answer: bytes | PolicyFault = await engine.decide_remote(case.point, case.document)
            except PolicyFault as fault:
                answer = fault
            results.append(_judge(case, engine.name, bundle.revision, answer))
    finally:
        await engine.close()
    return results


def _ask(engine: RegorusEngine, case: Case) -> bytes | PolicyFault:
    try:
        return engine.decide(case.point, case.document)
    except PolicyFault as fault:
        return fault


def _judge(case: Case, engine: str, revision: str, answer: bytes | PolicyFault) -> CaseResult:
    if isinstance(answer, PolicyFault):
        return CaseResult(case, engine, b"", (f"{answer.code}: {answer.detail}",))
    try:
        parse_decision(answer, revision=revision, engine=engine)
    except PolicyFault as fault:
        return CaseResult(case, engine, answer, (f"{fault.code}: {fault.detail}",))
    return CaseResult(case, engine, answer, tuple(case.differences(orjson.loads(answer))))


def _compared(results: Iterable[CaseResult]) -> list[CaseResult]:
    first: dict[str, CaseResult] = {}
    compared: list[CaseResult] = []
    for result in results:
        reference = first.setdefault(result.case.source, result)
        if result.answer and reference.answer and not same_document(result.answer, reference.answer):
            problem = f"answers otherwise than {reference.engine}"
            result = CaseResult(result.case, result.engine, result.answer, (*result.problems, problem))
        compared.append(result)
    return compared


def points_without_cases(bundle: Bundle) -> list[str]:
    """Return the points that no case covers."""
    return sorted({point.value for point in Point} - {case.point.value for case in bundle.cases})
