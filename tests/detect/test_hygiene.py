"""Hygiene: complete on what it defines, and kind to scripts and emoji."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firewall.detect.hygiene import clean, suspicious, tag_text
from tests.detect.conftest import Scan
from tests.detect.samples import HIDDEN

FLAGGED = {
    "tags": ("a" + HIDDEN, "hygiene.tag_characters", "a"),
    "one tag": ("a\U000e0041b", "hygiene.tag_characters", "ab"),
    "flag of nowhere": ("\U0001f3f4\U000e0041\U000e007f", "hygiene.tag_characters", "\U0001f3f4"),
    "zero width": ("pass\u200bword", "hygiene.zero_width", "password"),
    "joiner between letters": ("pass\u200dword", "hygiene.zero_width", "password"),
    "soft hyphen": ("ig\u00adnore", "hygiene.zero_width", "ignore"),
    "byte order mark inside": ("a\ufeffb", "hygiene.zero_width", "ab"),
    "filler": ("a\u3164b", "hygiene.zero_width", "ab"),
    "selectors that carry bytes": ("😀\ufe01\U000e0101\U000e0102", "hygiene.variation_selectors", "😀"),
    "selector after a letter": ("a\ufe0fb", "hygiene.variation_selectors", "ab"),
    "override": ("abc\u202edef\u202c", "hygiene.bidi_controls", "abcdef"),
    "isolate in Latin text": ("a\u2066b\u2069c", "hygiene.bidi_controls", "abc"),
    "colour": ("\x1b[31mred\x1b[0m", "hygiene.ansi_escape", "red"),
    "concealed": ("\x1b[8mread the key\x1b[0m", "hygiene.ansi_escape", "read the key"),
    "title": ("\x1b]0;pwn\x07text", "hygiene.ansi_escape", "text"),
    "clipboard": ("\x1b]52;c;cm0gLXJm\x1b\\text", "hygiene.ansi_escape", "text"),
    "C1": ("a\u0085b\u009b31mc", "hygiene.control_characters", "abc"),
    "null": ("a\x00b", "hygiene.control_characters", "ab"),
    "backspace": ("rm\x08\x08ls", "hygiene.control_characters", "rmls"),
    "lone escape": ("a\x1b", "hygiene.control_characters", "a"),
    "private use": ("a\ue000b", "hygiene.private_use", "ab"),
    "supplementary private use": ("a\U000f0000b", "hygiene.private_use", "ab"),
    "look-alikes": ("Plеаѕе do", "hygiene.mixed_script", "Please do"),
    "Greek look-alike": ("Gοοgle", "hygiene.mixed_script", "Google"),
}

KEPT = {
    "plain": "The quick brown fox.\n\tTabbed.\r\n",
    "accents": "Größe, naïve, Łódź, Ångström",
    "cyrillic": "Привет, мир. Схема работает.",
    "greek": "Αθήνα και άλλα",
    "units": "5 µm, 3 Ω, Δx and λ1 and π/2",
    "emoji family": "👩\u200d👩\u200d👧\u200d👦 fine",
    "emoji selector": "❤️ ☎️ 1️⃣ ©️",
    "flag of Scotland": "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    "persian joiner": "می\u200cخواهم",
    "hindi joiner": "क्\u200dष",
    "isolates in hebrew": "שלום \u2066abc\u2069 עולם",
    "mark in arabic": "مرحبا\u200f 5",
    "ideographic selector": "葛\U000e0100城",
    "chinese": "你好,世界。",
}


@pytest.mark.parametrize("name", FLAGGED)
def test_deceiving_text_is_found_and_cleaned(name: str, result: Scan) -> None:
    text, rule, expected = FLAGGED[name]
    assert rule in {f.rule for f in result(text)}
    assert suspicious(text)
    assert clean(text) == expected


@pytest.mark.parametrize("name", KEPT)
def test_honest_text_is_neither_flagged_nor_changed(name: str, result: Scan) -> None:
    assert [f for f in result(KEPT[name]) if f.category == "hygiene"] == []
    assert clean(KEPT[name]) == KEPT[name]


def test_a_span_covers_exactly_what_is_hidden(result: Scan) -> None:
    (found,) = [f for f in result("héllo " + HIDDEN + " end") if f.rule == "hygiene.tag_characters"]
    assert found.span == (6, 6 + len(HIDDEN))
    assert found.severity >= 80
    assert found.pointer == "/result/content/0/text"


def test_tags_are_read_as_ascii() -> None:
    assert tag_text("x\U000e0041\U000e0042\U000e007fy") == "AB"


PIECES = st.sampled_from(
    [t for t, _, _ in FLAGGED.values()]
    + list(KEPT.values())
    + ["\x1b", "[", "3", "m", "\u200d", "a", "о", "\ufe0f", "\u202e", "ש"]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(PIECES, st.text(max_size=4)), max_size=8).map("".join))
def test_a_cleaned_text_has_nothing_left_and_stays_the_same(text: str) -> None:
    once = clean(text)
    assert not suspicious(once)
    assert clean(once) == once


def test_joining_by_removal_does_not_hide_a_new_sequence() -> None:
    """``ESC`` NUL ``[31m``: taking NUL away must not leave a working escape."""
    assert clean("\x1b\x00[31mred") == "[31mred"
    assert not suspicious(clean("\x1b\x1b[0m[31m\x00"))
