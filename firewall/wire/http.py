"""HTTP rules as functions: header values, tokens, hosts, paths and URLs. Nothing is repaired, only refused.

A string that two parsers could read differently has no normal form and is not acceptable here:
percent-encoded paths, dotted segments, userinfo, numeric hosts, zone ids, backslashes (DESIGN §6b-5).
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from firewall.core.bounds import TARGET_BYTES
from firewall.core.errors import Malformed

_TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ALPHANUMERIC: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_HOST: Final = _ALPHANUMERIC | {"-", ".", "_"}
# RFC 3986 3.3 pchar without "%": what a path may hold when nothing is encoded.
_PATH: Final = b"/-._~!$&'()*+,;=:@0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_QUERY: Final = _PATH + b"?%[]"
_SENTINEL: Final = ("=?base64?", "?=")
_NAME_BYTES: Final = 253
_LABEL_BYTES: Final = 63
_PORTS: Final = 65_535
DEFAULT_PORTS: Final = {"http": 80, "https": 443}


# -- header values -------------------------------------------------------------------------------


def is_token(name: bytes) -> bool:
    """Return whether a field name or method is a token (RFC 9110 5.6.2)."""
    return bool(name) and not name.translate(None, _TOKEN)


def is_field_value(value: bytes) -> bool:
    """Return whether a value has no NUL, CR or LF, no other control but TAB, and no edge white space."""
    return value == value.strip(b" \t") and all(byte >= 0x20 or byte == 0x09 for byte in value) and b"\x7f" not in value


def encode_header_value(value: str) -> bytes:
    """Return a value for ``Mcp-Name`` and its like: itself, or ``=?base64?…?=`` of its UTF-8.

    Printable ASCII without edge white space stays as it is, unless it looks like the sentinel.
    Raises Malformed: json_surrogate. Source: MCP 2026-07-28 transports, value encoding.
    """
    plain = value.isascii() and value.isprintable() and value == value.strip(" ")
    if plain and not _looks_encoded(value):
        return value.encode()
    try:
        raw = value.encode()
    except UnicodeEncodeError:
        raise Malformed("json_surrogate") from None
    return b"=?base64?" + base64.b64encode(raw) + b"?="


def decode_header_value(value: bytes) -> str:
    """Return the text that a header value stands for; the inverse of `encode_header_value`.

    Optional white space around it is not part of it (RFC 9110 5.5). Not canonical base64, bad UTF-8
    or bytes outside printable ASCII do not decode: such a value never equals a body's by accident.
    Raises Malformed: header_mismatch.
    """
    try:
        text = value.strip(b" \t").decode("ascii")
        if not _looks_encoded(text):
            if not text.isprintable():
                raise Malformed("header_mismatch")
            return text
        payload = text[len(_SENTINEL[0]) : -len(_SENTINEL[1])]
        raw = base64.b64decode(payload, validate=True)
        if base64.b64encode(raw).decode() != payload:
            raise Malformed("header_mismatch")
        return raw.decode()
    except (UnicodeDecodeError, binascii.Error):
        raise Malformed("header_mismatch") from None


def _looks_encoded(text: str) -> bool:
    start, end = _SENTINEL
    return text.startswith(start) and text.endswith(end) and len(text) >= len(start) + len(end)


def media_type(value: bytes) -> str:
    """Return the type/subtype of a Content-Type value, lower case, without parameters; "" when it has none."""
    essence = value.partition(b";")[0].strip(b" \t").lower()
    kind, slash, sub = essence.partition(b"/")
    return essence.decode() if slash and is_token(kind) and is_token(sub) else ""


def accepts(value: bytes, wanted: bytes) -> bool:
    """Return whether an Accept value allows a media type (RFC 9110 12.5.1); q=0 excludes, "" allows nothing."""
    major = wanted.partition(b"/")[0] + b"/*"
    best: tuple[int, bool] = (0, False)
    for part in value.lower().split(b","):
        essence, *params = (piece.strip(b" \t") for piece in part.split(b";"))
        rank = {wanted: 3, major: 2, b"*/*": 1}.get(essence, 0)
        if rank > best[0]:
            quality = next((p[2:] for p in params if p.startswith(b"q=")), b"1")
            best = (rank, bool(quality.strip(b"0.")))
    return best[1]


# -- hosts and paths -----------------------------------------------------------------------------


def is_normal_path(raw: bytes) -> bool:
    """Return whether a raw request path has exactly one reading.

    It starts with "/", has no empty, "." or ".." segment (one trailing "/" is allowed), no percent
    sign, no backslash, no control and nothing beyond RFC 3986 pchar.
    """
    if raw[:1] != b"/" or len(raw) > TARGET_BYTES or raw.translate(None, _PATH):
        return False
    if b"//" in raw:
        return False
    return b"/." not in raw or not any(segment in (b".", b"..") for segment in raw.split(b"/"))


@lru_cache(maxsize=512)  # clients repeat themselves; a stranger can at most push entries out
def parse_host(value: bytes) -> tuple[str, int | None]:
    """Return (host, port or None) of a Host field: lower case, no trailing dot, IPv6 without brackets.

    Raises Malformed http_desync: anything that is not a DNS name, a canonical IPv4 address or a
    bracketed canonical IPv6 address, with an optional port 1…65535 in canonical decimal.
    Source: RFC 9110 7.2, RFC 3986 3.2.2.
    """
    try:
        text = value.decode("ascii").lower()
    except UnicodeDecodeError:
        raise Malformed("http_desync") from None
    if text.startswith("["):
        literal, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise Malformed("http_desync")
        host, port = "[" + literal + "]", rest[1:] if rest else None
    else:
        host, colon, digits = text.partition(":")
        port = digits if colon else None
    return check_host(host), None if port is None else _port(port)


def check_host(host: str) -> str:
    """Return a host in normal form: lower case, IPv6 without brackets. Raises Malformed http_desync.

    A host made like a number (``127.1``, ``0x7f.1``, ``2130706433``) that is not canonical IPv4 is
    refused, since resolvers read it as an address and `ipaddress` does not.
    """
    host = host.lower()
    if host.startswith("["):
        try:
            address = ipaddress.IPv6Address(host[1:-1] if host.endswith("]") else "")
        except ValueError:
            raise Malformed("http_desync") from None
        # IPv4-mapped has two spellings that Python versions disagree about; IPv4 has its own form.
        if "%" in host or str(address) != host[1:-1] or address.ipv4_mapped is not None:
            raise Malformed("http_desync")
        return str(address)
    labels = host.split(".")
    if (
        len(host) > _NAME_BYTES
        or not all(0 < len(label) <= _LABEL_BYTES for label in labels)
        or not _HOST.issuperset(host)
    ):
        raise Malformed("http_desync")
    if any(label.startswith("-") or label.endswith("-") for label in labels):
        raise Malformed("http_desync")
    if labels[-1].isdigit() or labels[-1].startswith("0x"):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise Malformed("http_desync") from None
    return host


def _port(digits: str) -> int:
    if not digits.isdigit() or not digits.isascii() or digits[0] == "0" or len(digits) > 5 or int(digits) > _PORTS:
        raise Malformed("http_desync")
    return int(digits)


# -- URLs ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class URL:
    """An absolute http(s) URL in normal form. target: path and query as sent. host: IPv6 without brackets."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """The Host value: brackets for IPv6, port only when it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """``scheme://authority``."""
        return f"{self.scheme}://{self.authority}"

    def __str__(self) -> str:
        return self.origin + self.target


def parse_url(text: str) -> URL:
    """Return an absolute URL with one reading.

    Refused: other schemes than http and https, userinfo, fragments, backslashes, white space,
    non-ASCII (write the A-label), a path with "//", dotted or percent-encoded dot and slash segments.
    Raises Malformed: url_invalid. Source: RFC 3986; operations reference 6.2.
    """
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in DEFAULT_PORTS or not text.isascii() or len(text) > TARGET_BYTES:
        raise Malformed("url_invalid")
    end = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    authority, target = rest[:end], rest[end:]
    if not target.startswith("/"):
        target = "/" + target
    try:
        host, port = parse_host(authority.encode())
    except Malformed:
        raise Malformed("url_invalid") from None
    path = target.partition("?")[0].encode()
    if target.encode().translate(None, _QUERY) or not _is_url_path(path):
        raise Malformed("url_invalid")
    return URL(scheme, host, DEFAULT_PORTS[scheme] if port is None else port, target)


def _is_url_path(path: bytes) -> bool:
    # Percent signs are legal in other people's URLs; encoded dots, slashes and controls are not.
    pieces = path.split(b"%")
    for piece in pieces[1:]:
        try:
            byte = int(piece[:2], 16) if len(piece) >= 2 and piece[:2].isalnum() else 0
        except ValueError:
            return False
        if byte < 0x20 or byte == 0x7F or bytes([byte]) in b"./\\%":
            return False
    return is_normal_path(b"".join([pieces[0], *(piece[2:] for piece in pieces[1:])]) or b"/")
