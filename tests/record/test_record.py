"""The record's shape."""

from __future__ import annotations

from typing import Any

import pytest

from firewall.core.errors import Malformed
from firewall.record.record import validate_record

from .conftest import decision, outcome


def test_the_records_of_the_guard_are_valid() -> None:
    validate_record(decision())
    validate_record(outcome())
    validate_record(decision(findings=[{"rule": "r", "severity": 1, "pointer": "/a", "value": ""}], labels=["pii"]))


@pytest.mark.parametrize(
    "more",
    [
        {"v": 2},
        {"kind": "other"},
        {"phase": "later"},
        {"tenant": None},
        {"args": {"hmac": "h", "bytes": 1.5}},
        {"args": {"value": "secret"}},
        {"decision": {"eval_us": True}},
        {"findings": [{"rule": "r", "text": "leak"}]},
        {"labels": [1]},
        {"chain": "alice"},
        {"extra": {"ключ": 1}},
        {"extra": [[{"n": 2**53}]]},
        {"extra": {"deep": [0.5]}},
    ],
)
def test_a_record_of_another_shape_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        validate_record(decision(**more))


def test_a_record_without_its_members_is_refused() -> None:
    for name in ("tenant", "exchange", "decision_id", "point", "action"):
        record = decision()
        del record[name]
        with pytest.raises(Malformed):
            validate_record(record)
