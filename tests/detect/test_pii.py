"""PII: what has a check digit or a name is found, look-alikes are not."""

from __future__ import annotations

import pytest

from tests.detect.conftest import Scan


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"to": "alice.smith+x@mail.example.org"}, "pii.email"),
        ({"card": "4111-1111-1111-1111"}, "pii.credit_card"),
        ({"account": "GB82WEST12345698765432"}, "pii.iban"),
        ({"note": "SSN 536-22-1234"}, "pii.us_ssn"),
        ({"phone": "020 7946 0958"}, "pii.phone"),
        ({"x": "+1 (415) 555-0132"}, "pii.phone"),
        ({"x": "call me at 0161 496 0123"}, "pii.phone"),
        ({"client_ip": "93.184.216.34"}, "pii.ip_address"),
        ({"nhs": "943 476 5919"}, "pii.uk_nhs"),
        ({"x": "national insurance AB 12 34 56 C"}, "pii.uk_nino"),
        ({"dni": "12345678Z"}, "pii.es_dni"),
        ({"x": "529.982.247-25"}, "pii.br_cpf"),
        ({"x": "RSSMRA85T10A562S"}, "pii.it_fiscal_code"),
        ({"x": "date of birth: 12/05/1984"}, "pii.birth_date"),
        ({"x": "P<UTOERIKSSON<<ANNA<MARIA<<<<<<<<<<<<<<<<<<<"}, "pii.passport_mrz"),
    ],
)
def test_personal_data_in_arguments_is_found(arguments: dict[str, str], rule: str, call: Scan) -> None:
    assert rule in {f.rule for f in call(arguments) if f.control == "SCAN-05"}


@pytest.mark.parametrize(
    "value",
    [
        "550e8400-e29b-41d4-a716-446655440000",
        "2026-11-23T10:15:00Z",
        "315182038138",
        "1.2.3.4.5",
        "v4.15.3.1",
        "10.0.0.1",
        "4111 1111 1111 1112",
        "GB82WEST12345698765433",
        "000-12-3456",
        "git@github.com:org/repo.git",
        "icon@2x.png",
        "9f86d081884c7d659a2feaa0c55ad015",
        "529.982.247-26",
    ],
)
def test_a_look_alike_is_not(value: str, call: Scan) -> None:
    assert [f for f in call({"value": value}) if f.category == "pii"] == []


def test_identifiers_by_name_are_not_personal(call: Scan) -> None:
    assert call({"taskId": "4111111111111111", "id": "4111111111111111"}) == []
    assert call({"x": "4111111111111111"})[0].rule == "pii.credit_card"
