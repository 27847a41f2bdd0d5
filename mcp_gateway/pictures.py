"""Icons and the web page of a server: addresses that a host opens by itself, so only plain ones are told. Pure.

A host fetches an icon without asking anybody: its address tells a stranger who looks, and when. So an icon is
inside its definition (``data:``, a picture that no program can hide in), or comes from the server's own host or from an
origin of ``app_domains``. Source: MCP 2025-11-25 and 2026-07-28, icons (SEP-973); mcp reference §5.9, §6 UR-1.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

from firewall.core.bounds import KIB
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.detect.egress import read_url
from mcp_gateway.apps import Rights

ICONS: Final = 16
DATA_CHARS: Final = 128 * KIB
URL_CHARS: Final = 2 * KIB
SIZES: Final = 16
_DATA: Final = tuple(f"data:image/{kind};base64," for kind in ("png", "jpeg", "jpg", "webp", "gif"))
_THEMES: Final = frozenset({"light", "dark"})


def icons(value: JSON, rights: Rights) -> list[JSON]:
    """Return the icons that may be shown, each a closed list of members. rights: of the server that names them."""
    given = value[:ICONS] if isinstance(value, list) else []
    return [shown for icon in given if (shown := _icon(icon, rights)) is not None]


def web_address(text: JSON) -> bool:
    """Return whether a text is one plain http(s) address with a host and no user in it."""
    if (
        not isinstance(text, str)
        or len(text) > URL_CHARS
        or not text.isascii()
        or not text.isprintable()
        or " " in text
    ):
        return False
    target = read_url(text)
    return target is not None and target.scheme in ("http", "https") and bool(target.host) and not target.odd


def _icon(icon: JSON, rights: Rights) -> JSONObject | None:
    src = icon.get("src") if isinstance(icon, dict) else None
    if not isinstance(icon, dict) or not isinstance(src, str) or not (_is_data(src) or _is_near(src, rights)):
        return None
    out: JSONObject = {"src": src}
    kind, sizes, theme = icon.get("mimeType"), icon.get("sizes"), icon.get("theme")
    if isinstance(kind, str):
        out["mimeType"] = kind
    if isinstance(sizes, list) and len(sizes) <= SIZES and all(isinstance(size, str) for size in sizes):
        out["sizes"] = sizes
    if theme in _THEMES:
        out["theme"] = theme
    return out


def _is_data(src: str) -> bool:
    head, comma, data = src.partition(",")
    if len(src) > DATA_CHARS or head.lower() + comma not in _DATA:
        return False
    try:
        return bool(base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError):
        return False


def _is_near(src: str, rights: Rights) -> bool:
    if not src.startswith("https://") or not web_address(src):
        return False
    target, home = read_url(src), read_url(rights.home) if rights.home else None
    if target is None:
        return False
    return (home is not None and target.host == home.host) or f"https://{target.host}" in rights.domains
