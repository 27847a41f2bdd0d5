"""Judges of values, against numbers published for tests."""

from __future__ import annotations

import pytest

from firewall.detect import values


@pytest.mark.parametrize(
    "number", ["4111 1111 1111 1111", "5555555555554444", "378282246310005", "6011-1111-1111-1117", "3530111333300000"]
)
def test_published_test_cards_pass(number: str) -> None:
    assert values.card_number(number)


@pytest.mark.parametrize(
    "number", ["4111 1111 1111 1112", "0000000000000000", "1234567890123456", "411111111111", "9" * 16]
)
def test_a_card_with_a_wrong_digit_scheme_or_length_does_not(number: str) -> None:
    assert not values.card_number(number)


@pytest.mark.parametrize(
    "text",
    [
        "GB82 WEST 1234 5698 7654 32",
        "DE89370400440532013000",
        "fr1420041010050500013m02606",
        "NO9386011117947",
        "MT84MALT011000012345MTLCAST001S",
    ],
)
def test_ibans_of_the_registry_pass(text: str) -> None:
    assert values.iban(text)


@pytest.mark.parametrize(
    "text",
    ["GB82WEST12345698765433", "DE8937040044053201300", "ZZ82WEST12345698765432", "GB00", "GB82WEST1234569876543é"],
)
def test_an_iban_with_a_wrong_check_length_or_country_does_not(text: str) -> None:
    assert not values.iban(text)


def test_a_change_of_any_single_digit_breaks_luhn_and_verhoeff() -> None:
    for good, check in (("4111111111111111", values.luhn), ("2363", values.verhoeff)):
        assert check(good)
        for i, digit in enumerate(good):
            for other in "0123456789":
                assert other == digit or not check(good[:i] + other + good[i + 1 :])


def test_social_security_numbers_stay_in_issued_ranges() -> None:
    assert values.ssn("536-22-1234")
    assert not any(
        map(values.ssn, ["000-12-3456", "666-12-3456", "900-12-3456", "123-00-4567", "123-45-0000", "078-05-1120"])
    )


def test_national_numbers_have_their_check_digits() -> None:
    assert values.cpf("529.982.247-25")
    assert not values.cpf("529.982.247-26")
    assert not values.cpf("111.111.111-11")
    assert values.dni("12345678Z")
    assert values.dni("X1234567L")
    assert not values.dni("12345678A")
    assert values.nhs("943 476 5919")
    assert not values.nhs("943 476 5918")
    assert values.insee("2 55 08 14 168 025 38")
    assert not values.insee("2 55 08 14 168 025 39")


def test_entropy_is_in_bits_per_character() -> None:
    assert values.entropy("") == 0
    assert values.entropy("aaaa") == 0
    assert values.entropy("ab" * 8) == 1
    assert values.entropy("0123456789abcdef") == 4


def test_what_documents_write_in_place_of_a_secret_is_a_placeholder() -> None:
    assert all(
        map(
            values.is_placeholder, ["YOUR_API_KEY", "ghp_xxxxxxxxxxxxxxxxxx", "${TOKEN}", "aaaaaaaaaaaaa", "sk-EXAMPLE"]
        )
    )
    assert not values.is_placeholder("p9X2vLq7Rt4Ks8Wd")
