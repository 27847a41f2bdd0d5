"""MCP's routing headers: value codec, ``Mcp-Param-*`` and ``x-mcp-header`` rules. Pure.

Source: MCP 2026-07-28 transports, standard and custom headers (SEP-2243). The codec and the walk
over schemas read untrusted text without ``re``.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Final

from firewall.core.action import Headers
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject

PREFIX: Final = b"mcp-"
VERSION: Final = b"mcp-protocol-version"
METHOD: Final = b"mcp-method"
NAME: Final = b"mcp-name"
SESSION: Final = b"mcp-session-id"
PARAM: Final = b"mcp-param-"
ROUTING: Final = frozenset({VERSION, METHOD, NAME, SESSION})

X_MCP_HEADER: Final = "x-mcp-header"
_OPEN: Final = "=?base64?"
_CLOSE: Final = "?="
_TOKEN: Final = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_TYPES: Final = frozenset({"string", "integer", "boolean"})

# Applicators of JSON Schema 2020-12 whose value is a schema; only `properties` keeps the static chain.
_SINGLE: Final = frozenset(
    {
        "items", "contains", "unevaluatedItems", "additionalProperties", "propertyNames",
        "unevaluatedProperties", "not", "if", "then", "else", "contentSchema",
    }
)  # fmt: skip
_LISTS: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_MAPS: Final = frozenset({"patternProperties", "dependentSchemas", "$defs", "definitions"})

ParamMap = Mapping[tuple[str, ...], tuple[str, str]]
"""Property path → (header token as declared, JSON Schema type)."""


def encode(value: str) -> bytes:
    """Return a header value: visible ASCII as is, anything else as ``=?base64?…?=`` (lower case, exact)."""
    plain = value.isascii() and value.isprintable() and value == value.strip()
    if plain and not (value.startswith(_OPEN) and value.endswith(_CLOSE)):
        return value.encode("ascii")
    return b"=?base64?" + base64.b64encode(value.encode()) + b"?="


def decode(raw: bytes) -> str | None:
    """Return the text of a header value, or None when its sentinel is malformed.

    Optional whitespace around the value is trimmed first (RFC 9110 §5.5). Base64 must be canonical
    and UTF-8, so that a value has exactly one spelling.
    """
    raw = raw.strip(b" \t")
    try:
        text = raw.decode("ascii")
    except UnicodeDecodeError:
        return None
    if not (text.startswith(_OPEN) and text.endswith(_CLOSE) and len(text) >= len(_OPEN) + len(_CLOSE)):
        return text
    payload = text[len(_OPEN) : -len(_CLOSE)]
    try:
        data = base64.b64decode(payload, validate=True)
        if base64.b64encode(data).decode("ascii") != payload:
            return None
        return data.decode("utf-8")
    except (binascii.Error, ValueError):
        return None


def says(raw: bytes, text: str) -> bool:
    """Return whether a header value, trimmed, is a text in its one spelling."""
    if text.isascii() and raw == text.encode("ascii") and raw[:2] != b"=?":
        return True  # nearly always: visible ASCII, as it is
    return decode(raw) == text


def param_map(schema: JSON) -> dict[tuple[str, ...], tuple[str, str]]:
    """Return which arguments a client mirrors as ``Mcp-Param-*`` headers.

    Raises Malformed("x_mcp_header") for an annotation that invalidates its tool: off the static
    ``properties`` chain, not a token, not on a string, integer or boolean, or not unique without case.
    """
    found: dict[tuple[str, ...], tuple[str, str]] = {}
    seen: set[str] = set()
    for path, node in _positions(schema):
        if X_MCP_HEADER not in node:
            continue
        token, kind = node[X_MCP_HEADER], node.get("type")
        if not path or not isinstance(token, str) or not token or not set(token) <= _TOKEN:
            raise Malformed("x_mcp_header")
        if not isinstance(kind, str) or kind not in _TYPES or token.lower() in seen:
            raise Malformed("x_mcp_header")
        seen.add(token.lower())
        found[path] = (token, kind)
    return found


def param_headers(params: ParamMap, arguments: JSONObject) -> Headers:
    """Return the ``Mcp-Param-*`` headers of a call, regenerated from its arguments."""
    return tuple(
        (b"mcp-param-" + token.lower().encode(), encode(text))
        for path, (token, _kind) in params.items()
        if (text := _rendered(_at(arguments, path))) is not None
    )


def check_params(params: ParamMap, arguments: JSONObject, received: Mapping[bytes, bytes]) -> None:
    """Raise Malformed("header_mismatch") unless every declared header equals its argument.

    Present together and equal after decoding, or absent together; ``null`` counts as absent. Headers
    that no annotation declares are not looked at: they are dropped, never forwarded.
    """
    for path, (token, kind) in params.items():
        raw = received.get(PARAM + token.lower().encode())
        value = _at(arguments, path)
        text = _rendered(value)
        if raw is None and text is None:
            continue
        told = decode(raw) if raw is not None else None
        if text is None or told is None or not _equal(kind, value, text, told):
            raise Malformed("header_mismatch", "a parameter header and its argument differ")


def _positions(root: JSON) -> Iterator[tuple[tuple[str, ...] | None, JSONObject]]:
    """Yield (chain of ``properties`` keys, or None off the chain; schema), without recursion."""
    stack: list[tuple[tuple[str, ...] | None, JSON]] = [((), root)]
    while stack:
        path, node = stack.pop()
        if not isinstance(node, dict):
            continue
        yield path, node
        for key, value in node.items():
            if key == "properties" and isinstance(value, dict):
                stack.extend(((*path, n) if path is not None else None, sub) for n, sub in value.items())
            elif key in _SINGLE:
                stack.append((None, value))
            elif key in _LISTS and isinstance(value, list):
                stack.extend((None, sub) for sub in value)
            elif key in _MAPS and isinstance(value, dict):
                stack.extend((None, sub) for sub in value.values())


def _at(arguments: JSON, path: tuple[str, ...]) -> JSON:
    node = arguments
    for key in path:
        if not isinstance(node, dict):
            return None
        node = node.get(key)
    return node


def _rendered(value: JSON) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (str, int, float)) else None


def _equal(kind: str, value: JSON, text: str, told: str) -> bool:
    if kind == "integer" and isinstance(value, (int, float)) and not isinstance(value, bool) and value == int(value):
        whole, _, fraction = told.partition(".")
        digits = whole.removeprefix("-")
        if digits.isascii() and digits.isdigit() and len(digits) <= 20 and not fraction.strip("0"):
            return int(whole) == int(value) and not told.endswith(".")
    return told == text
