"""Deterministic damage to good input: bytes, structure, and the tokens that parsers stumble over."""

from __future__ import annotations

import random
from collections.abc import Sequence

TOKENS = (
    b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"null", b"true", b"-0", b"1e309", b"1e-400", b"9007199254740993",
    b"NaN", b"\\u0000", b"\\ud800", b"\\ud83d\\ude00", b"\x00", b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xef\xbb\xbf",
    b"\xe2\x80\xae", b"\xf3\xa0\x81\x81", b"\r\n", b"\n\n", b"\r", b"\t", b" ", b"data:", b"id:", b"__proto__", b"%2e%2e",
    b"%00", b"../", b"//", b"@", b"#", b"?", b"=?base64?", b"?=", b"..", b".", b"*", b"&", b"=", b"+", b"{}", b"[]", b'""',
    b'"jsonrpc"', b'"method"', b'"params"', b'"_meta"', b"2026-07-28", b"2025-11-25", b"&a", b"*a", b"!!python/object:os.system",
)  # fmt: skip


def mutated(good: Sequence[bytes], chance: random.Random) -> bytes:
    """Return one damaged input."""
    data = bytearray(chance.choice(good))
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(9):
            case 0 if data:
                data[at % len(data)] ^= 1 << chance.randrange(8)
            case 1 | 2:
                data[at:at] = chance.choice(TOKENS)
            case 3:
                end = min(len(data), at + chance.randrange(1, 16))
                del data[at:end]
            case 4:
                end = min(len(data), at + chance.randrange(1, 24))
                data[at:at] = data[at:end]
            case 5:
                other = chance.choice(good)
                cut = chance.randrange(len(other) + 1)
                data[at:] = other[cut:]
            case 6:
                end = min(len(data), at + chance.randrange(1, 8))
                data[at:end] = chance.choice(TOKENS)
            case 7:
                data[at:at] = chance.choice(TOKENS) * chance.choice((2, 40, 200, 3000))
            case _:
                data[at:at] = chance.randbytes(chance.randrange(1, 9))
    return bytes(data[: 1 << 16])
