"""Views: what a disguised text says. Found phrases count in every view, once decoded, never twice.

fold      NFKC, invisible characters removed, look-alike letters Latin, typographic quotes plain
tags      the ASCII that tag characters spell
base64, hex, percent, entity, escape, spaced    a run decoded, when it decodes to text
"""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable
from html import unescape
from typing import Final
from unicodedata import normalize
from urllib.parse import unquote_to_bytes

from firewall.detect.hygiene import CONFUSABLES, clean
from firewall.detect.rule import RUN, Rule

DECODED_CHARS: Final = 64 * 1024

_PLAIN: Final = str.maketrans(
    {
        **CONFUSABLES,
        "’": "'",
        "‘": "'",
        "“": '"',
        "”": '"',
        "–": "-",
        "—": "-",
        "\u00a0": " ",
        "…": "...",
        "\u2028": "\n",
        "\u2029": "\n",
    }
)
_MAPPED: Final = frozenset(map(chr, _PLAIN))
_MARKS: Final = frozenset(map(chr, range(0x300, 0x370)))
_NO_MARKS: Final = dict.fromkeys(range(0x300, 0x370))
# Normalising sorts a run of marks by insertion (CPython): quadratic in the run, and one call holds
# the interpreter. A piece bounds both.
PIECE_CHARS: Final = 512
_CUT_BACK: Final = 32
GROWN: Final = 16  # one code point that normalising adds costs as much as this many that were there


def _free(_n: int) -> None:
    return


def fold(text: str, *, dirty: bool = True, spend: Callable[[int], None] = _free) -> str:
    """Return the view of a non-ASCII text in which disguises of letters are undone.

    A word in one foreign script stays readable to the rules of that language only where its letters
    are not look-alikes; so this view is scanned beside the text, never in its place.

    dirty: False where no hygiene rule finds anything in the text, so that nothing has to be removed.
    spend: told, before it is done, what each piece costs: code points read, and those that NFKC
    added times `GROWN`. It ends the work by raising.
    """
    plain = clean(text) if dirty else text
    if len(plain) <= PIECE_CHARS:
        return _fold(plain, spend)
    out: list[str] = []
    at = 0
    while at < len(plain):
        end = at + PIECE_CHARS
        # A letter and its marks stay together where there is any plain character to cut at.
        back = next((i for i in range(end, end - _CUT_BACK, -1) if plain[i : i + 1].isascii()), end)
        out.append(_fold(plain[at:back], spend))
        at = back
    return "".join(out)


def _fold(piece: str, spend: Callable[[int], None]) -> str:
    spend(len(piece))
    if piece.isascii():
        return piece
    plain = normalize("NFKC", piece)
    if len(plain) > len(piece):
        spend(GROWN * (len(plain) - len(piece)))
    if not _MAPPED.isdisjoint(plain):
        plain = plain.translate(_PLAIN)
    apart = normalize("NFD", plain)
    # Marks on one letter in five and more are a disguise, or a language that loses nothing by a second look.
    if not _MARKS.isdisjoint(apart):
        bare = apart.translate(_NO_MARKS)
        if (len(apart) - len(bare)) * 5 > len(bare):
            return bare
    return plain


def _text(data: bytes) -> str:
    """Return decoded bytes when they are text: UTF-8, nine in ten printable, at least six letters."""
    try:
        text = data[:DECODED_CHARS].decode()
    except UnicodeDecodeError:
        return ""
    printable = sum(c.isprintable() or c in "\n\r\t" for c in text)
    return text if printable * 10 >= len(text) * 9 and sum(c.isalpha() for c in text) >= 6 else ""


def from_base64(run: bytes) -> str:
    """Return the text of a base64 or base64url run, "" when it is none."""
    compact = run.translate(bytes.maketrans(b"-_", b"+/"), b"\r\n= ")[: DECODED_CHARS * 4 // 3]
    compact = compact[: len(compact) - (len(compact) % 4 == 1)]
    try:
        return _text(b64decode(compact + b"=" * (-len(compact) % 4), validate=True))
    except (Base64Error, ValueError):
        return ""


def from_hex(run: bytes) -> str:
    """Return the text of a hexadecimal run, "" when it is none."""
    compact = run.replace(b"\\x", b"").replace(b" ", b"").replace(b":", b"")[: DECODED_CHARS * 2]
    try:
        return _text(bytes.fromhex(compact[: len(compact) & ~1].decode("ascii")))
    except ValueError:
        return ""


def from_percent(run: bytes) -> str:
    """Return the text of a percent-encoded run (``+`` is a space)."""
    return _text(unquote_to_bytes(run[: DECODED_CHARS * 3].replace(b"+", b" ")))


def from_entities(run: bytes) -> str:
    """Return the text of a run with HTML character references."""
    return unescape(run[: DECODED_CHARS * 4].decode("utf-8", "replace"))


def from_escapes(run: bytes) -> str:
    r"""Return the text of a run of \uXXXX escapes."""
    out: list[str] = []
    for part in run[: DECODED_CHARS * 6].split(b"\\u")[1:]:
        try:
            out.append(chr(int(part[:4], 16)) + part[4:].decode("utf-8", "replace"))
        except ValueError:
            return ""
    return "".join(out)


def from_spaced(run: bytes) -> str:
    """Return the words of letters set apart by single spaces."""
    text = run.decode("utf-8", "replace").replace("   ", "\0").replace("  ", "\0")
    return text.replace(" ", "").replace("\0", " ")


def _rule(name: str, pattern: bytes, *probe: bytes) -> Rule:
    return Rule(f"decode.{name}", "SCAN-02", "injection", 0, "decode", pattern, probe=probe)


# Four letters set apart. One expression would be awake at every space; each of these has a literal to look for.
_SPACED: Final = tuple(
    b"(?i) [a-z0-9@$!] [a-z0-9@$!] [a-z0-9@$!] \\x%02x " % last for last in b"abcdefghijklmnopqrstuvwxyz0123456789@$!"
)

# Runs are long here: they are looked for in whole strings only, never in streams.
RULES: Final = (
    _rule("base64", rb"[A-Za-z0-9+/_-]{24,}={0,2}", *RUN),
    _rule("hex", rb"(?i)\b[0-9a-f]{32,}", *RUN),
    _rule("hex", rb"(?i)(?:\\x[0-9a-f]{2}){10,}", rb"(?i)\\x[0-9a-f]{2}\\x[0-9a-f]{2}\\x"),
    _rule("hex", rb"(?i)\b(?:[0-9a-f]{2}[ :]){15,}[0-9a-f]{2}", rb"(?i)(?:(?: [0-9a-f]{2}){8}|(?::[0-9a-f]{2}){8})"),
    _rule(
        "percent",
        rb"(?i)[\w.+!'()*,;:@&=$/?-]*(?:%[0-9a-f]{2}[\w.+!'()*,;:@&=$/?-]*){3}(?:%[0-9a-f]{2}|[\w.+!'()*,;:@&=$/?-])*",
        rb"(?i)%[0-9a-f]{2}",
    ),
    _rule("entity", rb"(?i)[^\n<>]{0,80}(?:&#x?[0-9a-f]{2,6};[^\n<>&]{0,40}){3}[^\n<>]*", rb"(?i)&#x?[0-9a-f]{2,6};"),
    _rule(
        "escape",
        rb"(?i)(?:\\u[0-9a-f]{4}[ ,.]?){6}(?:\\u[0-9a-f]{4}[ ,.]?)*",
        rb"(?i)\\u[0-9a-f]{4}[ ,.]?\\u[0-9a-f]{4}",
    ),
    _rule("spaced", rb"(?:[A-Za-z0-9@$!] {1,3}){11}(?:[A-Za-z0-9@$!.,] {1,3})*[A-Za-z0-9.]?", *_SPACED),
)
DECODERS: Final[dict[str, Callable[[bytes], str]]] = {
    "decode.base64": from_base64,
    "decode.hex": from_hex,
    "decode.percent": from_percent,
    "decode.entity": from_entities,
    "decode.escape": from_escapes,
    "decode.spaced": from_spaced,
}
