"""What a check says, and the run over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from firewall.config import Config
from firewall.core.errors import BartizanError
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.ports import Clock

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: ``warn`` works but should be known, ``fail`` does not work; ``mend`` says what to do.

    evidence: what it was seen by; never a secret.
    """

    name: str
    status: Status
    text: str
    mend: str = ""
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class Patient:
    """What is examined. running: a node serves this state directory now. reach: upstreams may be called."""

    config: Config
    clock: Clock
    running: bool = False
    reach: bool = False


def count(number: int, what: str) -> str:
    """Return how many of something there are, in words: ``1 provider``, ``2 providers``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


Examination = Callable[[Patient], Iterable[Check]]


def examine(config: Config, *, clock: Clock, running: bool = False, reach: bool = False) -> list[Check]:
    """Return every check, in the order of the house: machine first. Blocks; seconds at most."""
    from firewall.admin.doctor import machine, node, oauth  # they import this module

    patient = Patient(config, clock, running, reach)
    found: list[Check] = []
    for name, look in (*machine.EXAMINATIONS, *node.EXAMINATIONS, *oauth.EXAMINATIONS):
        found.extend(_guarded(name, look, patient))
    return found


def as_json(checks: Iterable[Check]) -> JSONObject:
    """Return checks as a document; ``ok`` when none failed."""
    listed = list(checks)
    rows: list[JSON] = [asdict(c) for c in listed]
    return {"ok": all(c.status != "fail" for c in listed), "checks": rows}


def _guarded(name: str, look: Examination, patient: Patient) -> Iterator[Check]:
    try:
        yield from look(patient)
    except BartizanError as error:
        yield Check(name, "fail", " ".join(part for part in (error.code, error.detail) if part), error.fix)
    except Exception as error:  # noqa: BLE001 - whatever breaks here is what the doctor was asked about
        yield Check(name, "fail", f"the check itself failed: {type(error).__name__}", "report this as a bug")
