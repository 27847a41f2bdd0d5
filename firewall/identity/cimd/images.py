"""What a picture is, by its bytes, and only what draws it: PNG, JPEG or WebP of a size that a browser can draw. Pure.

Nothing is decoded here. Headers are read, so that 64 KiB cannot unfold into gigapixels in a person's browser, and
the file is taken apart and put together again of the parts that draw: what else it carried (another file behind its
end, scripts in a comment, places and names in metadata, further frames) never leaves our origin. So no document of
another kind (SVG, HTML, an archive) is served here under the name of an image, or together with one.

Source: PNG (W3C) §5, §11; ITU-T T.81 B.1, B.2; WebP container specification (RFC 9649 §2).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final

PIXELS: Final = 1024  # per side
PARTS: Final = 1024
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_PNG_DRAWS: Final = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
# Start-of-frame markers of JPEG that browsers draw: baseline, extended, progressive; all with Huffman's coding.
_FRAMES: Final = frozenset({0xC0, 0xC1, 0xC2})
_TABLES: Final = frozenset({0xC4, 0xDB, 0xDD})  # DHT, DQT, DRI
_SCAN: Final = 0xDA
_END: Final = 0xD9
_OTHER: Final = frozenset(range(0xE0, 0xF0)) | {0xFE}  # APPn, COM
_ADOBE: Final = b"\xff\xee\x00\x0eAdobe"  # which colours the three or four components are
_ALPHA: Final = 0x10
_MOVES: Final = 0x02


@dataclass(frozen=True, slots=True)
class Picture:
    """A still picture, made of nothing but what draws it. kind: its media type."""

    kind: str
    data: bytes


def parse_picture(data: bytes) -> Picture | None:
    """Return the still picture of a file; None for anything else, one that is cut off, and sides beyond 1,024 pixels."""
    try:
        if data.startswith(_PNG):
            return Picture("image/png", _png(data))
        if data.startswith(b"\xff\xd8\xff"):
            return Picture("image/jpeg", _jpeg(data))
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return Picture("image/webp", _webp(data))
    except (_NoPicture, IndexError):
        pass
    return None


class _NoPicture(Exception):
    """It is none that we show."""


def _check_size(width: int, height: int) -> None:
    if not (0 < width <= PIXELS and 0 < height <= PIXELS):
        raise _NoPicture


def _png(data: bytes) -> bytes:
    """Keep the critical chunks and transparency. Ancillary ones hold text, profiles, times, and further frames."""
    kept, at, seen = [_PNG], len(_PNG), list[bytes]()
    for _ in range(PARTS):
        size, kind = _big(_cut(data, at, 4)), _cut(data, at + 4, 4)
        chunk = _cut(data, at, size + 12)
        if _big(chunk[-4:]) != zlib.crc32(chunk[4:-4]) or (not seen) != (kind == b"IHDR"):
            raise _NoPicture
        if kind == b"IHDR":
            _check_size(_big(chunk[8:12]), _big(chunk[12:16]))
        if kind in _PNG_DRAWS:
            kept.append(chunk)
            seen.append(kind)
        elif not kind[0] & 0x20:
            raise _NoPicture  # a critical chunk that nobody knows (§5.4)
        if kind == b"IEND":
            break
        at += len(chunk)
    if b"IDAT" not in seen or seen[-1] != b"IEND":
        raise _NoPicture
    return b"".join(kept)


def _jpeg(data: bytes) -> bytes:
    """Keep frame, tables, scans and Adobe's mark; drop every other application's segment, and what follows the end."""
    kept, at, drawn, frames = [data[:2]], 2, False, 0
    for _ in range(PARTS):
        if data[at] != 0xFF:
            raise _NoPicture
        while data[at + 1] == 0xFF:
            at += 1  # fill bytes (T.81 B.1.1.2)
        marker = data[at + 1]
        if marker == _END:
            break
        segment = _cut(data, at, 2 + _big(_cut(data, at + 2, 2)))
        if len(segment) < 4:
            raise _NoPicture
        at += len(segment)
        if marker in _FRAMES:
            frames += 1
            _check_size(_big(_cut(segment, 7, 2)), _big(_cut(segment, 5, 2)))
        elif marker == _SCAN:
            begun = at
            at = _scan_end(data, at)
            segment, drawn = segment + data[begun:at], True
        elif marker in _OTHER:
            if not (segment.startswith(_ADOBE) and len(segment) == 16):
                continue
        elif marker not in _TABLES:
            raise _NoPicture
        kept.append(segment)
    else:
        raise _NoPicture
    if not drawn or frames != 1:
        raise _NoPicture
    return b"".join((*kept, b"\xff\xd9"))


def _scan_end(data: bytes, at: int) -> int:
    """Return where the coded data of a scan ends: at a marker that is no stuffing and no restart (T.81 B.1.1.5)."""
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            raise _NoPicture
        if data[at + 1] != 0 and not 0xD0 <= data[at + 1] <= 0xD7:
            return at
        at += 2


def _webp(data: bytes) -> bytes:
    """Keep the one frame and its transparency. An animation is none that we show."""
    kept, at, drawn = list[bytes](), 12, 0
    end = min(len(data), 8 + _little(data[4:8]))
    for _ in range(PARTS):
        if at + 8 > end:
            break
        kind, size = data[at : at + 4], _little(data[at + 4 : at + 8])
        chunk = _cut(data, at, 8 + size)
        at += 8 + size + size % 2
        if kind == b"VP8X" and not kept:
            if size != 10 or chunk[8] & _MOVES:
                raise _NoPicture
            _check_size(_little(chunk[12:15]) + 1, _little(chunk[15:18]) + 1)
            chunk = chunk[:8] + bytes((chunk[8] & _ALPHA, 0, 0, 0)) + chunk[12:]
        elif kind == b"VP8 ":
            if _cut(chunk, 11, 3) != b"\x9d\x01\x2a":
                raise _NoPicture
            _check_size(_little(_cut(chunk, 14, 2)) & 0x3FFF, _little(_cut(chunk, 16, 2)) & 0x3FFF)
            drawn += 1
        elif kind == b"VP8L":
            if _cut(chunk, 8, 1) != b"\x2f":
                raise _NoPicture
            bits = _little(_cut(chunk, 9, 4))
            _check_size((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
            drawn += 1
        elif kind != b"ALPH":
            continue
        kept.append(chunk + b"\0" * (size % 2))
    if drawn != 1:
        raise _NoPicture
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def _cut(data: bytes, at: int, size: int) -> bytes:
    part = data[at : at + size]
    if len(part) != size:
        raise _NoPicture
    return part


def _big(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")
