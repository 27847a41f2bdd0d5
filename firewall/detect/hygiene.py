"""Text hygiene (SCAN-01): characters that a reader does not see or is deceived by.

Deterministic; complete on what it defines: Unicode tags, variation selectors that carry data,
zero-width characters, bidirectional controls, C0/C1 controls and terminal escapes, private use,
words that mix scripts. Kept: emoji sequences (joiner, selector, the three flag tag sequences),
joiners of scripts that need them, bidi isolates in right-to-left text, single ideographic
variation selectors. Sources: Unicode 16 §23, UTS #39, UTS #51 ED-13, ECMA-48 §5.4.

`clean` removes exactly what the rules flag: a cleaned text has no hygiene finding (tested).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from firewall.detect.rule import BEFORE, Judge, Rule, Seen, Verdict, byte_expression

# Latin look-alikes in Cyrillic and Greek (UTS #39 confusables, the single-letter part).
CONFUSABLES: Final[dict[str, str]] = dict(
    zip(
        "аеорсухіјѕһԁԛԝӏѵкмтвнАВЕКМНОРСТУХІЈЅԚԜҮαενορτυχικΑΒΕΖΗΙΚΜΝΟΡΤΥΧϲϳɑɡıℓ",
        "aeopcyxijshdqwlvkmtbhABEKMHOPCTYXIJSQWYaevoptuxikABEZHIKMNOPTYXcjagil",
        strict=True,
    )
)
FLAG_TAGS: Final = frozenset({"gbeng", "gbsct", "gbwls"})


def _latin(char: str) -> bool:
    return ("A" <= char <= "Z") or ("a" <= char <= "z") or "\u00c0" <= char <= "\u024f"


def _greek_or_cyrillic(char: str) -> bool:
    return "\u0370" <= char <= "\u03ff" or "\u0400" <= char <= "\u052f"


def _emoji(char: str) -> bool:
    return (
        "\U0001f000" <= char <= "\U0001faff"
        or "\u2190" <= char <= "\u2bff"
        or "\u2600" <= char <= "\u27bf"
        or char in "\ufe0f\u203c\u2049\u2122\u2139\u3030\u303d\u3297\u3299\u00a9\u00ae\u20e3"
    )


def _takes_selector(char: str) -> bool:
    """Return whether a variation selector may follow: emoji, keycap, ideograph, Mongolian, maths."""
    return (
        _emoji(char)
        or char in "#*0123456789"
        or "\u2e80" <= char <= "\u9fff"
        or "\uf900" <= char <= "\ufaff"
        or "\U00020000" <= char <= "\U0003ffff"
        or "\u1800" <= char <= "\u18af"
        or "\u2200" <= char <= "\u22ff"
        or "\u1000" <= char <= "\u109f"
    )


def _needs_joiner(char: str) -> bool:
    """Return whether a letter's script uses ZWNJ and ZWJ: Arabic, Syriac, N'Ko, Indic to Khmer, Mongolian."""
    return (
        "\u0600" <= char <= "\u08ff"
        or "\u0900" <= char <= "\u109f"
        or "\u1780" <= char <= "\u18af"
        or "\ufb50" <= char <= "\ufeff"
    )


def _right_to_left(text: str) -> bool:
    return any("\u0590" <= c <= "\u08ff" or "\ufb1d" <= c <= "\ufdff" or "\ufe70" <= c <= "\ufefc" for c in text)


def tag_text(text: str) -> str:
    """Return what the tag characters of a text say in ASCII (U+E0020–E007E)."""
    return "".join(chr(ord(c) - 0xE0000) for c in text if 0xE0020 <= ord(c) <= 0xE007E)


def _tags(seen: Seen) -> Sequence[Verdict]:
    run = seen.text
    if seen.before(8)[-1:] == "\U0001f3f4" and run.endswith("\U000e007f") and tag_text(run) in FLAG_TAGS:
        return ()
    return (Verdict("hygiene.tag_characters", 90 if len(run) > 3 else 70),)


def _selectors(seen: Seen) -> Sequence[Verdict]:
    run = seen.text
    if len(run) >= 2:
        return (Verdict("hygiene.variation_selectors", 80 if len(run) > 4 else 50),)
    before = seen.before(8)[-1:]
    return () if before and _takes_selector(before) else (Verdict("hygiene.variation_selectors", 40),)


def _zero_width(seen: Seen) -> Sequence[Verdict]:
    run = seen.text
    before, after = seen.before(8)[-1:], seen.after(8)[:1]
    if len(run) == 1:
        if run == "\u200d" and before and after and _emoji(before) and _emoji(after):
            return ()
        if run in "\u200c\u200d\u034f\u180e" and before and _needs_joiner(before):
            return ()
        if run in "\u200e\u200f\u061c" and (_right_to_left(seen.before()) or _right_to_left(seen.after())):
            return ()
        if run in "\u115f\u1160\u3164\uffa0" and "\u1100" <= (before or after) <= "\ud7ff":
            return ()
    return (Verdict("hygiene.zero_width", 70 if len(run) > 2 else 40 if before.isalnum() and after.isalnum() else 25),)


def _bidi(seen: Seen) -> Sequence[Verdict]:
    run = seen.text
    override = "\u202d" in run or "\u202e" in run
    if not override and (_right_to_left(seen.before()) or _right_to_left(seen.after())):
        return ()
    return (Verdict("hygiene.bidi_controls", 80 if override else 50),)


def _escape(seen: Seen) -> Sequence[Verdict]:
    run = seen.value
    if run.endswith(b"m") and b"[" in run[:3]:
        codes = run.rstrip(b"m").rpartition(b"[")[2].replace(b":", b";").split(b";")
        return (Verdict("hygiene.ansi_escape", 80 if b"8" in codes and codes[0] not in (b"38", b"48") else 25),)
    return (Verdict("hygiene.ansi_escape", 70),)


def _mixed(seen: Seen) -> Sequence[Verdict]:
    word = seen.text
    foreign = [c for c in word if _greek_or_cyrillic(c)]
    latin = sum(_latin(c) for c in word)
    # A unit or a symbol (µm, Δx, λ1) holds one foreign letter that looks like none of ours.
    if len(word) < 3 or not latin or not foreign or not all(c in CONFUSABLES for c in foreign):
        return ()
    return (Verdict("hygiene.mixed_script", 60),)


def _rule(name: str, severity: int, pattern: bytes, judge: Judge | None = None, probe: tuple[bytes, ...] = ()) -> Rule:
    return Rule(f"hygiene.{name}", "SCAN-01", "hygiene", severity, "hygiene", pattern, judge=judge, probe=probe)


_VS: Final = rb"(?:\xef\xb8[\x80-\x8f]|\xf3\xa0(?:[\x84-\x86][\x80-\xbf]|\x87[\x80-\xaf]))"
_ZW: Final = (
    rb"(?:\xe2\x80[\x8b-\x8f]|\xe2\x81[\xa0-\xa4]|\xef\xbb\xbf|\xc2\xad|\xe1\xa0\x8e|\xd8\x9c|\xcd\x8f"
    rb"|\xe1\x85[\x9f\xa0]|\xe3\x85\xa4|\xef\xbe\xa0|\xef\xbf[\xb9-\xbb]|\xe1\x9e[\xb4\xb5])"
)
_LETTER: Final = rb"(?:[A-Za-z]|[\xc3-\xc9][\x80-\xbf]|[\xcd-\xd3][\x80-\xbf]|\xd4[\x80-\xaf])"
_MIX: Final = (
    rb"(?:[A-Za-z](?:[\xcd-\xd3][\x80-\xbf]|\xd4[\x80-\xaf])|(?:[\xcd-\xd3][\x80-\xbf]|\xd4[\x80-\xaf])[A-Za-z])"
)

RULES: Final = (
    _rule("tag_characters", 90, rb"(?:\xf3\xa0[\x80\x81][\x80-\xbf]){1,60}", _tags),
    _rule("variation_selectors", 50, _VS + rb"{1,60}", _selectors),
    _rule("zero_width", 40, _ZW + rb"{1,60}", _zero_width),
    _rule("bidi_controls", 80, rb"(?:\xe2\x80[\xaa-\xae]|\xe2\x81[\xa6-\xaf]){1,60}", _bidi),
    _rule(
        "ansi_escape",
        70,
        rb"(?:\x1b\[|\xc2\x9b)[0-?]{0,40}[ -/]{0,8}[@-~]|(?:\x1b\]|\xc2\x9d)[^\x07\x1b\n]{0,200}(?:\x07|\x1b\\|\xc2\x9c)|\x1b[ -/]{0,4}[0-Z\\^-~]",
        _escape,
    ),
    # ESC stands here too: one that opens no whole sequence is flagged by itself.
    _rule("control_characters", 60, rb"(?:[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]){1,60}"),
    _rule(
        "private_use",
        20,
        rb"(?:\xee[\x80-\xbf][\x80-\xbf]|\xef[\x80-\xa3][\x80-\xbf]|\xf3[\xb0-\xbf][\x80-\xbf][\x80-\xbf]|\xf4[\x80-\x8f][\x80-\xbf][\x80-\xbf]){1,60}",
    ),
    _rule("mixed_script", 60, _LETTER + rb"{0,40}" + _MIX + _LETTER + rb"{0,40}", _mixed, (_MIX,)),
)

_COMPILED: Final = [byte_expression(rule.pattern) for rule in RULES]
_SUSPECT: Final = byte_expression(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_FOLD: Final = str.maketrans(CONFUSABLES)
_ROUNDS: Final = 4


def _spans(data: bytes) -> list[tuple[int, int, bool]]:
    """Return (start, end, fold) of everything flagged, byte offsets, unordered."""
    out: list[tuple[int, int, bool]] = []
    for rule, pattern in zip(RULES, _COMPILED, strict=True):
        for match in pattern.finditer(data):
            start, end = match.span()
            if rule.verdicts(Seen(data, start, end, 0, len(data), start)):
                out.append((start, end, rule.id == "hygiene.mixed_script"))
    return out


def clean(text: str) -> str:
    """Return text without what the hygiene rules flag; look-alike letters in mixed words become Latin.

    Removing may join what stood apart, so it is done until nothing is flagged; a text that still
    changes after four rounds loses every character that a rule can match. Plain ASCII returns at once.
    """
    if text.isascii() and _SUSPECT.search(text.encode()) is None:
        return text
    data = text.encode("utf-8", "replace")
    for _ in range(_ROUNDS):
        spans = _spans(data)
        if not spans:
            return data.decode("utf-8", "replace")
        out: list[bytes] = []
        at = 0
        for start, end, fold in sorted(spans):
            if start < at:
                start = at
            if end <= at:
                continue
            out.append(data[at:start])
            if fold:
                out.append(data[start:end].decode("utf-8", "replace").translate(_FOLD).encode())
            at = end
        out.append(data[at:])
        data = b"".join(out)
    for rule, pattern in zip(RULES, _COMPILED, strict=True):
        if rule.id != "hygiene.mixed_script":
            data = pattern.sub(b"", data)
    return data.decode("utf-8", "replace").translate(_FOLD)


def suspicious(text: str) -> bool:
    """Return whether any hygiene rule flags something in a text."""
    if text.isascii() and _SUSPECT.search(text.encode()) is None:
        return False
    return bool(_spans(text.encode("utf-8", "replace")))


assert BEFORE >= 8
