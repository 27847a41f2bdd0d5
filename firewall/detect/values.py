"""Judges of values: entropy, check digits, placeholders. Pure functions on short strings.

Nothing here uses a regular expression on untrusted text; everything is linear in the value, which
a rule bounds to `rule.REACH` bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import log2
from typing import Final

from firewall.detect.rule import Confirm, Seen

PLACEHOLDERS: Final = (
    "example",
    "placeholder",
    "changeme",
    "change_me",
    "your_",
    "your-",
    "yourkey",
    "yourtoken",
    "insert",
    "replace",
    "dummy",
    "sample",
    "redacted",
    "xxxx",
    "1234567890",
    "123456789",
    "abcdefgh",
    "bcdefghijk",
    "abcdef-abcdef",
    "put_your",
    "my_token",
    "mytoken",
    "deadbeef",
    "123abc",
    "abc123",
    "....",
    "****",
    "----",
    "${",
    "{{",
    "<%",
    "%(",
)


def entropy(value: str) -> float:
    """Return Shannon entropy of the value's characters, in bits per character."""
    n = len(value)
    if n == 0:
        return 0.0
    return -sum(count / n * log2(count / n) for count in Counter(value).values())


def longest_run(value: str) -> int:
    """Return the length of the longest repetition of one character."""
    best = run = 0
    last = ""
    for char in value:
        run = run + 1 if char == last else 1
        last = char
        best = max(best, run)
    return best


def is_placeholder(value: str) -> bool:
    """Return whether a value is what documents write in place of a secret."""
    low = value.lower()
    return any(word in low for word in PLACEHOLDERS) or longest_run(low) >= 9


def random_looking(bits: float) -> Confirm:
    """Return a check: entropy of at least ``bits`` per character, and no placeholder."""

    def confirm(seen: Seen) -> bool:
        text = seen.text
        return entropy(text) >= bits and not is_placeholder(text)

    return confirm


def any_but_placeholder(seen: Seen) -> bool:
    """Return whether the value is not a documentation placeholder."""
    return not is_placeholder(seen.text)


# -- check digits -----------------------------------------------------------------------------------


def digits(value: str) -> str:
    """Return the ASCII digits of a value."""
    return "".join(c for c in value if "0" <= c <= "9")


def luhn(number: str) -> bool:
    """Return whether a string of digits passes ISO/IEC 7812-1 Annex B."""
    total = 0
    for i, char in enumerate(reversed(number)):
        digit = ord(char) - 48
        if i & 1:
            digit = digit * 2 - 9 if digit > 4 else digit * 2
        total += digit
    return total % 10 == 0


# Leading digits and lengths of the card schemes (ISO/IEC 7812 issuer ranges).
def card_scheme(number: str) -> bool:
    """Return whether length and leading digits belong to a card scheme."""
    n = len(number)
    two, three, four = int(number[:2]), int(number[:3]), int(number[:4])
    return (
        (number[0] == "4" and n in (13, 16, 19))
        or ((51 <= two <= 55 or 2221 <= four <= 2720) and n == 16)
        or (two in (34, 37) and n == 15)
        or ((four == 6011 or two == 65 or 644 <= three <= 649 or two == 62) and 16 <= n <= 19)
        or (two == 35 and 16 <= n <= 19)
        or (four in (2131, 1800) and n == 15)
        or ((300 <= three <= 305 or two in (36, 38, 39)) and 14 <= n <= 19)
        or (two in (50, 56, 57, 58, 59, 60, 61, 63, 64, 66, 67, 68, 69) and 12 <= n <= 19)
    )


def card_number(value: str) -> bool:
    """Return whether a value is a payment card number: scheme, length, Luhn, not one digit only."""
    number = digits(value)
    return 12 <= len(number) <= 19 and len(set(number)) > 1 and card_scheme(number) and luhn(number)


# Lengths of the IBAN registry (ISO 13616).
IBAN_LENGTHS: Final[dict[str, int]] = {
    code: int(length)
    for code, length in (
        item.split(":")
        for item in (
            "AD:24 AE:23 AL:28 AT:20 AZ:28 BA:20 BE:16 BG:22 BH:22 BR:29 BY:28 CH:21 CR:22 CY:28 CZ:24 DE:22 DK:18 DO:28 "
            "EE:20 EG:29 ES:24 FI:18 FO:18 FR:27 GB:22 GE:22 GI:23 GL:18 GR:27 GT:28 HR:21 HU:28 IE:22 IL:23 IQ:23 IS:26 "
            "IT:27 JO:30 KW:30 KZ:20 LB:28 LC:32 LI:21 LT:20 LU:20 LV:21 LY:25 MC:27 MD:24 ME:22 MK:19 MR:27 MT:31 MU:30 "
            "NL:18 NO:15 PK:24 PL:28 PS:29 PT:25 QA:29 RO:24 RS:22 SA:24 SC:31 SE:24 SI:19 SK:24 SM:27 ST:25 SV:28 TL:23 "
            "TN:24 TR:26 UA:29 VA:22 VG:24 XK:20"
        ).split()
    )
}


def iban(value: str) -> bool:
    """Return whether a value is an IBAN: registry length and ISO 7064 mod 97-10."""
    compact = value.replace(" ", "").replace("-", "").upper()
    if IBAN_LENGTHS.get(compact[:2]) != len(compact) or not compact.isalnum() or not compact.isascii():
        return False
    return int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1


_VERHOEFF_D: Final = tuple(
    tuple(
        (i + j) % 5 if i < 5 and j < 5 else (i + j) % 5 + 5 if i < 5 else (i - j) % 5 + 5 if j < 5 else (i - j) % 5
        for j in range(10)
    )
    for i in range(10)
)
_VERHOEFF_ROW: Final = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)


def verhoeff(number: str) -> bool:
    """Return whether a string of digits passes the Verhoeff check (Aadhaar)."""
    check = 0
    for i, char in enumerate(reversed(number)):
        digit = int(char)
        for _ in range(i % 8):
            digit = _VERHOEFF_ROW[digit]
        check = _VERHOEFF_D[check][digit]
    return check == 0


def weighted(number: str, weights: tuple[int, ...], modulus: int) -> int:
    """Return the weighted digit sum modulo ``modulus``."""
    return sum(int(d) * w for d, w in zip(number, weights, strict=False)) % modulus


def cpf(value: str) -> bool:
    """Return whether a value is a Brazilian CPF (two check digits, mod 11)."""
    number = digits(value)
    if len(number) != 11 or len(set(number)) == 1:
        return False
    first = weighted(number, tuple(range(10, 1, -1)), 11)
    second = weighted(number, tuple(range(11, 1, -1)), 11)
    return int(number[9]) == (0 if first < 2 else 11 - first) and int(number[10]) == (0 if second < 2 else 11 - second)


def dni(value: str) -> bool:
    """Return whether a value is a Spanish DNI or NIE (letter = number mod 23)."""
    compact = value.replace("-", "").replace(" ", "").upper()
    head = {"X": "0", "Y": "1", "Z": "2"}.get(compact[0], compact[0])
    number = head + compact[1:-1]
    return number.isdigit() and len(number) == 8 and "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == compact[-1]


def nhs(value: str) -> bool:
    """Return whether ten digits are an NHS number (mod 11)."""
    number = digits(value)
    if len(number) != 10:
        return False
    check = 11 - weighted(number, tuple(range(10, 1, -1)), 11)
    return (0 if check == 11 else check) == int(number[9])


def insee(value: str) -> bool:
    """Return whether a value is a French social security number (97 - n mod 97)."""
    compact = value.replace(" ", "").upper().replace("2A", "19").replace("2B", "18")
    return compact.isdigit() and len(compact) == 15 and 97 - int(compact[:13]) % 97 == int(compact[13:])


def ssn(value: str) -> bool:
    """Return whether a value may be a US SSN: area, group and serial in issued ranges (SSA)."""
    number = digits(value)
    area, group, serial = number[:3], number[3:5], number[5:]
    known_fakes = {"078051120", "219099999", "123456789"}
    return (
        len(number) == 9
        and area not in ("000", "666")
        and area[0] != "9"
        and group != "00"
        and serial != "0000"
        and number not in known_fakes
    )


def of(check: Callable[[str], bool]) -> Confirm:
    """Return a Confirm from a check of the value's text."""

    def confirm(seen: Seen) -> bool:
        return check(seen.text)

    return confirm
