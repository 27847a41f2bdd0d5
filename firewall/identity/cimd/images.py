"""What a picture is, by its first bytes: PNG, JPEG or WebP of a size that a browser can draw. Pure.

Nothing is decoded here; the header is read so that 64 KiB cannot unfold into gigapixels in a person's
browser, and so that a document of another kind (SVG, HTML) never leaves our origin as an image.
Source: PNG (W3C) §5.2, §11.2.1; ITU-T T.81 B.2.2; WebP container specification (RFC 9649 §2).
"""

from __future__ import annotations

from typing import Final

PIXELS: Final = 1024  # per side
_PNG: Final = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_SEGMENTS: Final = 64
# Start-of-frame markers of JPEG that hold a size: all SOFn but DHT (C4), JPG (C8), DAC (CC).
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def media_type(data: bytes) -> str:
    """Return ``image/png``, ``image/jpeg`` or ``image/webp``; "" for anything else, and for sides beyond 1,024 pixels."""
    if data.startswith(_PNG) and len(data) >= 33:
        kind, size = "image/png", (_big(data[16:20]), _big(data[20:24]))
    elif data.startswith(b"\xff\xd8\xff"):
        kind, size = "image/jpeg", _jpeg(data)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) >= 30:
        kind, size = "image/webp", _webp(data)
    else:
        return ""
    return kind if all(0 < side <= PIXELS for side in size) else ""


def _jpeg(data: bytes) -> tuple[int, int]:
    at = 2
    for _ in range(_SEGMENTS):
        if len(data) < at + 9 or data[at] != 0xFF:
            break
        if data[at + 1] in _FRAMES:
            return _big(data[at + 7 : at + 9]), _big(data[at + 5 : at + 7])
        at += 2 + _big(data[at + 2 : at + 4])
    return 0, 0


def _webp(data: bytes) -> tuple[int, int]:
    form = data[12:16]
    if form == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        return _little(data[26:28]) & 0x3FFF, _little(data[28:30]) & 0x3FFF
    if form == b"VP8L" and data[20] == 0x2F:
        bits = _little(data[21:25])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if form == b"VP8X":
        return _little(data[24:27]) + 1, _little(data[27:30]) + 1
    return 0, 0


def _big(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")
