"""What people read before they approve hides nothing and deceives nobody (SCAN-01, UI-04)."""

from __future__ import annotations

import pytest

from firewall.detect.visible import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, as it is.", "plain text, as it is."),
        ("a\u200bb", "a\\u{200b}b"),
        ("\u202eevil", "\\u{202e}evil"),
        ("\x1b[2J", "\\u{1b}[2J"),
        ("tag\U000e0041", "tag\\u{e0041}"),
        ("soft\u00adhyphen", "soft\\u{ad}hyphen"),
        ("p\u0430ypal", "p\\u{430}ypal"),
        ("\u0430\u0440\u0440\u04cf\u0435", "\\u{430}\\u{440}\\u{440}\\u{4cf}\\u{435}"),
        ("\u043f\u0430\u0440\u043e\u043b\u044c", "\u043f\u0430\u0440\u043e\u043b\u044c"),
        ("\uff41dmin", "\\u{ff41}dmin"),
        ("\U0001d41adm", "\\u{1d41a}dm"),
        ("a\u0301", "a\\u{301}"),
        ("blank\u3164name", "blank\\u{3164}name"),
        ("nbsp\u00a0here", "nbsp\\u{a0}here"),
        ("caf\u00e9 \u65e5\u672c\u8a9e", "caf\u00e9 \u65e5\u672c\u8a9e"),
        ("line\nline", "line\\u{a}line"),
    ],
)  # fmt: skip
def test_what_hides_or_looks_like_something_else_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_what_is_kept_stays() -> None:
    assert visible("a\nb\u200b", keep="\n") == "a\nb\\u{200b}"


def test_no_character_that_does_not_print_comes_through() -> None:
    every = "".join(chr(n) for n in range(0x110000) if not 0xD800 <= n < 0xE000)
    assert all(c.isprintable() for c in visible(every))
