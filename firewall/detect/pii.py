"""PII rules (SCAN-05): shapes with a check digit, or with a word that says what they are.

A shape without either (a bare run of digits) is not reported: measured on tool arguments it is
wrong more often than right. Names and places need a model and are not found here (tier 2).
"""

from __future__ import annotations

from typing import Final

from firewall.detect.rule import DIGITS, Confirm, Rule, Seen
from firewall.detect.values import card_number, cpf, digits, dni, iban, insee, nhs, of, ssn, verhoeff

PHONE_WORDS: Final = (
    "phone",
    "tel",
    "mobile",
    "cell",
    "fax",
    "call",
    "dial",
    "ring",
    "whatsapp",
    "sms",
    "answering",
    "messages to",
    "hotline",
    "reach me",
    "registered",
)
NOT_PHONE_KEYS: Final = (
    "uuid",
    "id",
    "order",
    "version",
    "commit",
    "hash",
    "sha",
    "date",
    "time",
    "total",
    "amount",
    "price",
    "ts",
)


def _no_digit_beside(seen: Seen) -> bool:
    before, after = seen.before(1), seen.after(1)
    return not (before[-1:].isdigit() or after[:1].isdigit())


def email(seen: Seen) -> bool:
    """An address, unless it is the user part of a repository's ssh URL."""
    local, _, domain = seen.text.partition("@")
    return (
        local.lower() != "git"
        and ".." not in local
        and not domain.lower().endswith((".png", ".jpg", ".svg", ".gif", ".js", ".css", ".local"))
    )


def phone_international(seen: Seen) -> bool:
    """``+`` and 8 to 15 digits (E.164) with at most one pair of brackets."""
    return 8 <= len(digits(seen.text)) <= 15 and not seen.before(1)[-1:].isalnum()


def phone_national(seen: Seen) -> bool:
    """A national form, under a name or behind a word that says phone."""
    count = len(digits(seen.text.split("x")[0]))
    groups = [len(group) for group in seen.text.split("-")]
    if not 7 <= count <= 12 or not _no_digit_beside(seen) or groups in ([4, 2, 2], [3, 2, 4], [4, 2, 4]):
        return False  # a date or a social security number
    if "." in seen.text and len(seen.text.split(".")) == 4:
        return False  # an address or a version
    if seen.key:
        if any(word in seen.key for word in PHONE_WORDS):
            return True
        if seen.whole and seen.key in NOT_PHONE_KEYS:
            return False
    if seen.key and seen.whole and seen.value.startswith((b"0", b"(0")) and count in (10, 11):
        return True
    context = seen.before(40).lower()
    return any(word in context for word in PHONE_WORDS)


def phone_grouped(seen: Seen) -> bool:
    """Three groups with separators and brackets, as only phones are written."""
    before, after = seen.before(2)[-1:], seen.after(2)[:1]
    return (
        10 <= len(digits(seen.text.split("x")[0])) <= 14
        and not before.isalnum()
        and before not in (".", "-", "+", "/", "=")
        and not after.isdigit()
    )


def public_ip(seen: Seen) -> bool:
    """Four octets that are a global unicast address, not a version number."""
    parts = seen.text.split(".")
    if any(len(p) > 1 and p[0] == "0" for p in parts) or any(int(p) > 255 for p in parts):
        return False
    a, b = int(parts[0]), int(parts[1])
    private = (
        a in (0, 10, 127)
        or a >= 224
        or (a == 172 and 16 <= b <= 31)
        or (a == 192 and b == 168)
        or (a == 169 and b == 254)
        or (a == 100 and 64 <= b <= 127)
    )
    beside = seen.before(1)[-1:] + seen.after(1)[:1]
    version = "version" in seen.key or "ersion" in seen.before(12)
    return not private and not version and not any(c.isalnum() or c in "._-" for c in beside.strip())


def near(check: Confirm, *words: str) -> Confirm:
    """Return a check that also asks for one of the words in the key or up to 48 bytes before."""

    def confirm(seen: Seen) -> bool:
        context = seen.key + " " + seen.before(48).lower()
        return any(word in context for word in words) and check(seen)

    return confirm


def _pii(name: str, severity: int, pattern: str, confirm: Confirm | None = None, probe: tuple[bytes, ...] = ()) -> Rule:
    return Rule(
        f"pii.{name}",
        "SCAN-05",
        "pii",
        severity,
        "pii",
        pattern.encode(),
        confirm,
        probe=probe or (DIGITS if name in _NUMBERS else ()),
    )


def _beside(check: Confirm) -> Confirm:
    return lambda seen: _no_digit_beside(seen) and check(seen)


_NUMBERS: Final = frozenset(
    {
        "iban",
        "credit_card",
        "us_ssn",
        "phone",
        "uk_nino",
        "uk_nhs",
        "es_dni",
        "fr_insee",
        "br_cpf",
        "in_aadhaar",
        "it_fiscal_code",
    }
)

RULES: Final = (
    _pii(
        "email",
        30,
        r"[A-Za-z0-9][A-Za-z0-9._%+'-]{0,63}@(?:[A-Za-z0-9-]{1,40}\.){1,3}[A-Za-z]{2,18}",
        email,
        (rb"@[A-Za-z0-9-]{1,40}\.",),
    ),
    _pii("iban", 60, r"(?i)\b([A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]{4}){2,7}(?:[ -]?[A-Z0-9]{1,4})?)\b", of(iban)),
    _pii("credit_card", 70, r"\b([0-9](?:[ -]?[0-9]){11,18})\b", _beside(of(card_number))),
    _pii("us_ssn", 70, r"\b([0-9]{3}-[0-9]{2}-[0-9]{4})\b", _beside(of(ssn))),
    _pii("us_ssn", 60, r"\b([0-9]{3} ?[0-9]{2} ?[0-9]{4})\b", near(_beside(of(ssn)), "ssn", "social security")),
    _pii("phone", 40, r"(\+[1-9][0-9]{0,3}(?:[ .()/-]{0,2}[0-9]){6,13}(?:x[0-9]{1,6})?)", phone_international),
    _pii("phone", 40, r"((?:\([0-9]{3}\) ?|\b[0-9]{3}[-. ])[0-9]{3}[-. ][0-9]{4}(?: ?x[0-9]{1,6})?)", phone_grouped),
    _pii("phone", 40, r"(\b00?1-[0-9]{3}-[0-9]{3}-[0-9]{4}(?:x[0-9]{1,6})?)", phone_grouped),
    _pii("phone", 40, r"(\(0[0-9]{2,5}\) ?[0-9]{3,8}(?:[ -]?[0-9]{2,4})?)", None),
    _pii("phone", 30, r"((?:\b|\()0?[0-9]{1,5}\)?(?:[ ./-]{0,2}[0-9]{2,4}){2,4}(?:x[0-9]{1,6})?)", phone_national),
    _pii(
        "ip_address",
        15,
        r"\b([0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3})\b",
        public_ip,
        DIGITS,
    ),
    _pii("ip_address", 15, r"(?i)\b((?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4})\b", None, (rb"(?i)(?::[0-9a-f]{1,4}){4}:",)),
    _pii(
        "uk_nino",
        60,
        r"(?i)\b([A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D])\b",
        near(lambda _s: True, "nino", "national insurance", "ni number", "insurance"),
    ),
    _pii("uk_nhs", 60, r"\b([0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{4})\b", near(_beside(of(nhs)), "nhs")),
    _pii("es_dni", 60, r"(?i)\b([XYZ0-9][0-9]{7}-?[A-Z])\b", near(of(dni), "dni", "nie", "nif", "identidad")),
    _pii(
        "fr_insee",
        60,
        r"\b([12] ?[0-9]{2} ?[0-9]{2} ?(?:[0-9]{2}|2[AB]) ?[0-9]{3} ?[0-9]{3} ?[0-9]{2})\b",
        _beside(of(insee)),
    ),
    _pii("it_fiscal_code", 60, r"\b([A-Z]{6}[0-9]{2}[A-EHLMPRST][0-9]{2}[A-Z][0-9]{3}[A-Z])\b"),
    _pii("br_cpf", 60, r"\b([0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2})\b", _beside(of(cpf))),
    _pii(
        "in_aadhaar",
        60,
        r"\b([2-9][0-9]{3} ?[0-9]{4} ?[0-9]{4})\b",
        near(_beside(of(lambda v: verhoeff(digits(v)))), "aadhaar", "aadhar", "uidai"),
    ),
    _pii("passport_mrz", 80, r"(P<[A-Z]{3}[A-Z]{2,30}<<[A-Z<]{5,37})"),
    _pii(
        "birth_date",
        50,
        r"(?i)\b(?:dob|date of birth|birth ?date|born(?: on)?)\b[^0-9a-z]{1,4}((?:[0-9]{1,4}[-/.][0-9]{1,2}[-/.][0-9]{2,4}))",
    ),
)
