"""Text for people who decide: nothing in it hides, and nothing in it looks like something else.

Invisible, control, bidirectional and private-use characters are written as ``\\u{…}``, and so are
letters that look like Latin ones, unless their word is plainly of their own script. Sources: Unicode
16 §23, UTS #39 §4 (confusables), UTR #36 §2.
"""

from __future__ import annotations

from typing import Final

from firewall.detect.hygiene import CONFUSABLES

# Printable, but nobody sees them: fillers, and blanks that are not the space.
_UNSEEN: Final = frozenset("\u115f\u1160\u3164\uffa0\u2800\u034f\u17b4\u17b5\ufe0e\ufe0f")


def visible(text: str, keep: str = "") -> str:
    """Return text in which every hidden or deceiving character is written out.

    keep: characters that stay although they do not print, such as a line's end.
    """
    if text.isascii() and text.isprintable():
        return text
    out: list[str] = []
    word: list[str] = []
    for char in text:
        if char.isalnum() and char not in _UNSEEN:
            word.append(char)
            continue
        out.append(_word(word))
        word.clear()
        shown = (char.isprintable() and char not in _UNSEEN and not _stacks(char)) or char in keep
        out.append(char if shown else escape(char))
    out.append(_word(word))
    return "".join(out)


def escape(char: str) -> str:
    """Return a character by its number: ``\\u{202e}``."""
    return f"\\u{{{ord(char):x}}}"


def _stacks(char: str) -> bool:
    """Whether a mark lies on the character before it, or selects its form."""
    return "\u0300" <= char <= "\u036f" or "\u20d0" <= char <= "\u20ff" or "\U000e0100" <= char <= "\U000e01ef"


def _word(chars: list[str]) -> str:
    word = "".join(chars)
    if word.isascii():
        return word
    foreign = [c for c in chars if not c.isascii()]
    # One letter that is nothing but foreign shows the script; a Latin one shows a mixture.
    plain = any(c not in CONFUSABLES and not _latin_form(c) for c in foreign) and not any(
        c.isascii() and c.isalpha() for c in chars
    )
    return "".join(escape(c) if _latin_form(c) or (not plain and c in CONFUSABLES) else c for c in chars)


def _latin_form(char: str) -> bool:
    """Whether a letter or digit is a mathematical, circled or full-width form of an ASCII one."""
    return (
        "\uff10" <= char <= "\uff5a" or "\U0001d400" <= char <= "\U0001d7ff" or "\u2460" <= char <= "\u24ff"
    ) or "\U0001f130" <= char <= "\U0001f189"
