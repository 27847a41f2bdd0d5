"""People: what needs two of them has somebody who can be the second."""

from __future__ import annotations

from collections.abc import Iterator

from firewall.admin.doctor.check import Check, Patient
from firewall.identity import records
from firewall.state.sqlite import SQLiteStore


def people(patient: Patient) -> Iterator[Check]:
    """Where acts need two people, at least two can agree: nobody agrees to what they asked for themselves."""
    config = patient.config
    path = config.state / "state.db"
    if not config.admin.four_eyes or not path.exists():
        return
    store = SQLiteStore(path, clock=patient.clock)
    try:
        found = [records.decode(entry.value) for entry in store.collection("users").scan(config.tenant)]
    finally:
        store.close()
    approvers = sum("approver" in records.texts(one, "roles") and one.get("disabled") is not True for one in found)
    acts = ", ".join(config.admin.four_eyes)
    if approvers == 0:
        mend = "bartizan users add NAME --role approver"
        yield Check("people", "fail", f"nobody has the role approver, so these are never done: {acts}", mend)
    elif approvers == 1:
        mend = "give the role to another person, for the day the one is away or asks for something"
        yield Check("people", "warn", f"one person alone has the role approver; two people do: {acts}", mend)
    else:
        yield Check("people", "ok", f"{approvers} approvers; two people do: {acts}")
