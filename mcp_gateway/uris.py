"""URIs of resources: one spelling each, checked by hand; templates of them are matched in `templates`. Pure.

- `check` accepts a URI only in its normal form (RFC 3986 §6.2.2; DESIGN §6b-5): a URI that has two
  spellings would be inspected in one and opened in the other. Dot segments are refused however often
  they were encoded.
- On the aggregated endpoint a URI that two upstreams use is told as ``bartizan+<upstream>:<URI>``. What
  stands behind the colon is the upstream's own spelling, character by character (RFC 3986 §3.3 allows
  ``:`` and empty segments there), so that unwrapping cannot change it and templates expand inside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes

from firewall.core.errors import Malformed

URI_CHARS: Final = 2048
WRAP: Final = "bartizan+"

LOWER: Final = frozenset("abcdefghijklmnopqrstuvwxyz")
ALNUM: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
UNRESERVED: Final = ALNUM | frozenset("-._~")
RESERVED: Final = frozenset(":/?#[]@!$&'()*+,;=")
SCHEME: Final = LOWER | frozenset("0123456789+-.")
_HEX: Final = frozenset("0123456789ABCDEF")
# Schemes whose authority is a host of the network, where case means nothing; elsewhere it is a name.
_HOSTED: Final = frozenset({"http", "https", "ws", "wss", "ftp", "ftps", "sftp", "ssh", "file"})
_PORTS: Final = {"http": "80", "https": "443", "ws": "80", "wss": "443", "ftp": "21"}
_DECODINGS: Final = 4
LEVELS: Final = 32  # of a sub-resource below what is watched


@dataclass(frozen=True, slots=True)
class Parts:
    """What rules may read of a URI. host: "" where the scheme has none; path: decoded once."""

    scheme: str
    host: str
    path: str


def check(uri: str) -> Parts:
    """Return the parts of a URI in normal form. Raises Malformed("uri") for any other spelling.

    Refused: more than `URI_CHARS`, characters outside RFC 3986, a scheme that is not lower case, user
    information, a default or empty port, an upper-case network host, triplets that are lower case or
    stand for unreserved characters, dot segments and control characters at any depth of encoding; of a
    file also ``file:/x``, ``file://localhost/x`` and empty segments (RFC 8089 appendix B).
    """
    scheme, colon, rest = uri.partition(":")
    if len(uri) > URI_CHARS or not colon or not rest or scheme[0:1] not in LOWER or not set(scheme) <= SCHEME:
        raise Malformed("uri")
    check_characters(uri)
    authority, path = _split(rest)
    host = ""
    if scheme in _HOSTED and authority:
        host = _host(scheme, authority)
    elif "@" in authority:
        raise Malformed("uri")
    else:
        _check_path(authority)  # elsewhere it is a name, and some servers join it to a path
    bare = path.partition("#")[0].partition("?")[0]
    _check_path(bare)
    if scheme == "file" and (not rest.startswith("//") or host == "localhost" or "//" in bare):
        raise Malformed("uri")
    _check_controls(uri)
    return Parts(scheme, host, unquote_to_bytes(path).decode("utf-8", "replace"))


def check_characters(uri: str) -> None:
    """Raise Malformed("uri") for characters outside RFC 3986, and for triplets that have another spelling."""
    at = 0
    while at < len(uri):
        char = uri[at]
        if char == "%":
            pair = uri[at + 1 : at + 3]
            if len(pair) != 2 or not set(pair) <= _HEX or chr(int(pair, 16)) in UNRESERVED:
                raise Malformed("uri")
            at += 3
            continue
        if char not in UNRESERVED and char not in RESERVED:
            raise Malformed("uri")
        at += 1


def _split(rest: str) -> tuple[str, str]:
    """Return (authority, what follows it)."""
    if not rest.startswith("//"):
        return "", rest
    end = min((i for i in (rest.find(c, 2) for c in "/?#") if i >= 0), default=len(rest))
    return rest[2:end], rest[end:]


def _host(scheme: str, authority: str) -> str:
    host, colon, port = authority.rpartition(":") if not authority.endswith("]") else (authority, "", "")
    if not colon:
        host, port = authority, ""
    elif not port.isdigit() or not port.isascii() or port.startswith("0") or port == _PORTS.get(scheme):
        raise Malformed("uri")
    if "@" in host or not host or host != host.lower() or "%" in host or host.endswith("."):
        raise Malformed("uri")
    return host


def _check_path(path: str) -> None:
    for text in _decoded(path):
        if any(segment in (".", "..") for segment in text.replace("\\", "/").split("/")):
            raise Malformed("uri")


def _check_controls(uri: str) -> None:
    for text in _decoded(uri):
        if any(ord(char) < 0x20 or ord(char) == 0x7F for char in text):
            raise Malformed("uri")


def _decoded(text: str) -> Iterator[str]:
    """Yield a text and what its triplets stand for, and theirs, until nothing changes. Raises when it does not rest."""
    yield text
    for _ in range(_DECODINGS):
        after = unquote_to_bytes(text).decode("utf-8", "replace")
        if after == text:
            return
        text = after
        yield text
    raise Malformed("uri")


@lru_cache(maxsize=16)  # asked once for each client that listens: the same of all, in turn
def above(uri: str) -> tuple[str, ...]:
    """Return the URIs that a URI may be a sub-resource of, the nearest first: itself up to a ``/``, ``?`` or ``#``.

    With the sign itself and without: ``a://b/c`` stands below ``a://b/`` and ``a://b``, and below no ``a://b/c2``.
    At most the nearest `LEVELS` signs: a server names what it likes, and each name costs every client that listens.
    """
    found: list[str] = []
    least, at = uri.find(":"), len(uri)
    for _ in range(LEVELS):
        at = max(uri.rfind(sign, least + 1, at) for sign in "/?#")
        if at < 0:
            break
        if at + 1 < len(uri):
            found.append(uri[: at + 1])
        if at > least + 1:
            found.append(uri[:at])
    return tuple(found)


def wrapped(alias: str, uri: str) -> str:
    """Return a URI or template as the aggregated endpoint tells it when it must name its upstream."""
    return f"{WRAP}{alias}:{uri}"


def unwrapped(uri: str) -> tuple[str, str] | None:
    """Return (alias, the upstream's own URI), or None for one that is not wrapped."""
    if not uri.startswith(WRAP):
        return None
    alias, colon, own = uri[len(WRAP) :].partition(":")
    return (alias, own) if colon and own else None
