"""URI templates of resources (RFC 6570, all four levels), matched against concrete URIs by hand. Pure.

The RFC defines how a template is expanded; a template *matches* a URI here when some values expand to it:

| Expression | Matches |
|---|---|
| ``{x}``, ``{x,y}`` | values of unreserved characters and triplets, joined by ``,``; at least one |
| ``{+x}``, ``{#x}`` | reserved characters too; ``{#x}`` after a ``#``, or nothing |
| ``{/x}``, ``{.x}`` | each value after its sign; nothing where no variable has a value |
| ``{?x,y}``, ``{&x}``, ``{;x}`` | ``name=value`` in the template's order, each once or not at all |
| ``{/x*}``, ``{?x*}`` … | a list: one value or more, each with sign (and name) of its own |
| ``{x:3}`` | a value of at most three characters |

Stricter than the RFC: no value is empty, a list is told with ``*`` only, an associative array not at all.
Wider in one place: the values of ``{x*}`` may be joined by ``/`` as well as by ``,``, and a name may hold ``-``, since
FastMCP and mcp-nest publish ``{path*}`` for a path. What a path must not hold is not asked here: `uris.check` comes first.

Time: the length of the URI times the number of variables; positions are sets, and nothing backtracks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from firewall.core.errors import Malformed
from mcp_gateway.uris import ALNUM, LOWER, RESERVED, SCHEME, UNRESERVED, URI_CHARS, check_characters

VARIABLES: Final = 16
PREFIX_MOST: Final = 9_999
CONTINUES: Final = ("8", "9", "A", "B")
_NAME: Final = ALNUM | frozenset("_.-")


@dataclass(frozen=True, slots=True)
class _Operator:
    """One row of RFC 6570, appendix A. optional: an expression without any value expands to nothing."""

    first: str
    separator: str
    named: bool = False
    reserved: bool = False
    optional: bool = True


_OPERATORS: Final = {
    "": _Operator("", ",", optional=False),
    "+": _Operator("", ",", reserved=True, optional=False),
    "#": _Operator("#", ",", reserved=True),
    ".": _Operator(".", "."),
    "/": _Operator("/", "/"),
    ";": _Operator(";", ";", named=True),
    "?": _Operator("?", "&", named=True),
    "&": _Operator("&", "&", named=True),
}


@dataclass(frozen=True, slots=True)
class Variable:
    """explode: a list (``*``). most: characters of its value, 0 for any number."""

    name: str
    explode: bool = False
    most: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """A literal, which may be empty, and the expression behind it, if there is one."""

    literal: str
    operator: str = ""
    names: tuple[Variable, ...] = ()


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template. prefix: the literal that every URI of it begins with; it holds the scheme."""

    text: str
    parts: tuple[Part, ...]

    @property
    def prefix(self) -> str:
        """The literal that every expansion begins with."""
        return self.parts[0].literal

    @property
    def variables(self) -> tuple[str, ...]:
        """The names of its variables, in order."""
        return tuple(one.name for part in self.parts for one in part.names)

    def matches(self, uri: str) -> bool:
        """Return whether a URI in its normal form is an expansion of this template, as the table says."""
        ends = {0}
        for part in self.parts:
            ends = {at + len(part.literal) for at in ends if uri.startswith(part.literal, at)}
            if part.names and ends:
                ends = _expression(uri, ends, part)
            if not ends:
                return False
        return len(uri) in ends


def template(text: str) -> Template:
    """Return the parsed template. Raises Malformed("uri_template").

    Refused: more than `URI_CHARS` or `VARIABLES`, no literal scheme, an operator that is reserved or unknown,
    a name or modifier that is none, a prefix of a list, literals outside RFC 3986.
    """
    scheme, colon, _ = text.partition(":")
    if len(text) > URI_CHARS or not colon or scheme[0:1] not in LOWER or not set(scheme) <= SCHEME:
        raise Malformed("uri_template")
    parts: list[Part] = []
    at = count = 0
    while at < len(text):
        start = text.find("{", at)
        if start < 0:
            parts.append(Part(_literal(text[at:])))
            break
        end = text.find("}", start)
        inside = text[start + 1 : end] if end > 0 else ""
        operator = inside[:1] if inside[:1] in _OPERATORS else ""
        names = tuple(_variable(one) for one in inside[len(operator) :].split(","))
        count += len(names)
        if count > VARIABLES:
            raise Malformed("uri_template")
        parts.append(Part(_literal(text[at:start]), operator, names))
        at = end + 1
    return Template(text, tuple(parts))


def _literal(text: str) -> str:
    if "}" in text:
        raise Malformed("uri_template")
    try:
        check_characters(text)
    except Malformed:
        raise Malformed("uri_template") from None
    return text


def _variable(text: str) -> Variable:
    explode = text.endswith("*")
    name, colon, digits = text.removesuffix("*").partition(":")
    if not name or not set(name) <= _NAME or name[0] in ".-":
        raise Malformed("uri_template")
    if not colon:
        return Variable(name, explode)
    most = int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 4 else 0
    if explode or not 0 < most <= PREFIX_MOST or digits.startswith("0"):
        raise Malformed("uri_template")
    return Variable(name, most=most)


# -- matching ---------------------------------------------------------------------------------------


def _expression(uri: str, starts: set[int], part: Part) -> set[int]:
    """Return where an expression may end that begins at any of some places."""
    how = _OPERATORS[part.operator]
    fresh = _after(uri, starts, how.first) if how.first else starts
    some: set[int] = set()  # ends of expansions in which a variable has a value
    for one in part.names:
        some |= _value(uri, fresh | _after(uri, some, how.separator), one, how, bare=not part.operator)
    return some | starts if how.optional else some


def _value(uri: str, starts: set[int], one: Variable, how: _Operator, *, bare: bool) -> set[int]:
    """Return where a variable's value may end, with its name where the operator tells names."""
    if not how.named:
        joins = (how.separator + "/" if bare else how.separator) if one.explode else ""
        return _run(uri, starts, reserved=how.reserved, joins=joins, most=one.most)
    ends: set[int] = set()
    while starts:
        told = {at + len(one.name) + 1 for at in starts if uri.startswith(one.name + "=", at)}
        fresh = _run(uri, told, reserved=False, joins="", most=one.most) - ends
        ends |= fresh
        starts = _after(uri, fresh, how.separator) if one.explode else set()
    return ends


def _after(uri: str, places: Iterable[int], sign: str) -> set[int]:
    return {at + 1 for at in places if uri.startswith(sign, at)}


def _run(uri: str, starts: set[int], *, reserved: bool, joins: str, most: int) -> set[int]:
    """Return where a run of characters may end that begins at any of some places; triplets stay whole.

    joins: signs that may stand between two values of it, never at an end. most: characters, 0 for any number.
    One walk: of the runs that pass a place, the one that may go furthest is carried on.
    """
    ends: set[int] = set()
    limit = most or len(uri)
    left = dict.fromkeys(starts, limit)  # place → characters that a run through it may still take
    at, last = min(starts, default=0), max(starts, default=-1)
    while at <= last and at < len(uri):
        here, at = at, at + 1
        room, char = left.get(here, -1), uri[here]
        if room < 0:
            continue
        if char == "%":
            # A character is its first byte; the others of its UTF-8 sequence (0x80 to 0xBF) cost nothing.
            after, cost = here + 3, 0 if uri[here + 1 : here + 2] in CONTINUES else 1
        elif char in UNRESERVED or (reserved and char in RESERVED):
            after, cost = here + 1, 1
        elif char in joins and here in ends:
            left[here + 1], last = limit, max(last, here + 1)
            continue
        else:
            continue
        if cost <= room:
            ends.add(after)
            left[after], last = max(left.get(after, -1), room - cost), max(last, after)
    return ends
