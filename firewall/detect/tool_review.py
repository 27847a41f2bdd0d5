"""Definition review (PIN-01, PIN-04): what a tool, prompt or card says and asks for.

`review` judges one definition as a whole: phrases that poison (family ``review``), hidden text,
other servers' names, and its shape. It is for the moment a definition is first seen or changed;
`structure` is the part that the scanner runs on every list. Rule numbers are those of the
detectors reference §8. A pin by a person stays the control: this says where to look.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from firewall.core.bounds import POLICY_FINDINGS
from firewall.core.finding import Finding
from firewall.core.jsonvalue import JSON, Path, pointer, strings
from firewall.detect import hygiene
from firewall.detect.match import Budget, Buffer, Overflow, expression, matches
from firewall.detect.patterns import RULES
from firewall.detect.views import DECODERS, fold

NAME_CHARS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-/")
CHANGING_VERBS: Final = (
    "delete",
    "remove",
    "send",
    "write",
    "pay",
    "exec",
    "execute",
    "create",
    "update",
    "drop",
    "transfer",
    "purge",
    "kill",
    "destroy",
    "post",
)
CONTEXT_WORDS: Final = (
    "conversation",
    "chat_history",
    "chathistory",
    "system_prompt",
    "systemprompt",
    "chain_of_thought",
    "previous_messages",
    "tool_list",
    "all_tools",
    "sidenote",
    "conversation_history",
)
LONG_DESCRIPTION: Final = 4_000
LONG_VALUE: Final = 80

_REVIEWED: Final = tuple(i for i, rule in enumerate(RULES) if rule.family in ("review", "injection", "hygiene"))
_DECODED: Final = {i: rule.id for i, rule in enumerate(RULES) if rule.family == "decode"}


def _finding(rule: str, severity: int, path: Path, control: str = "PIN-04") -> Finding:
    return Finding(control, f"review.{rule}", "review", severity, pointer(path), "review")


def review(definition: JSON, *, foreign: Iterable[str] = ()) -> list[Finding]:
    """Return findings of one definition, pointers into it, most severe first.

    definition: a tool, prompt or skill as on the wire, or a bare description string.
    foreign: names of other servers' tools, compared case-folded as whole words (PIN-04).
    At most `POLICY_FINDINGS`; when there would be more, or a bound of work is reached,
    ``scan.overflow`` is the first.
    """
    out: list[Finding] = []
    overflow = False
    budget = Budget()
    names = {name.casefold() for name in foreign if len(name) >= 4}
    try:
        for path, text in strings(definition):
            out += _phrases(text, path, budget)
            out += _layout(text, path)
            if names and path[-1:] != ("name",):
                out += _references(text, path, names)
    except Overflow:
        overflow = True
    out += structure(definition, ())
    unique = {(f.rule, f.pointer, f.span): f for f in out}
    ordered = sorted(unique.values(), key=lambda f: -f.severity)
    if overflow or len(ordered) > POLICY_FINDINGS:
        ordered = [Finding("SCAN-01", "scan.overflow", "hygiene", 100, "", "review"), *ordered[: POLICY_FINDINGS - 1]]
    return ordered


def _phrases(text: str, path: Path, budget: Budget) -> Iterator[Finding]:
    said = [text]
    if not text.isascii():
        said += [view for view in (fold(text, spend=budget.fold), hygiene.tag_text(text)) if view and view != text]
    data = text.encode("utf-8", "replace")
    for index, name in _DECODED.items():
        for match in matches(index, Buffer(data, (0,), (len(data),)), budget):
            decoded = DECODERS[name](data[match.start : match.end])
            if decoded:
                said.append(decoded)
                if name in ("decode.base64", "decode.hex") and match.end - match.start >= 40:
                    yield _finding("blob", 60, path)
    known: set[str] = set()
    for number, view in enumerate(said):
        encoded = view.encode("utf-8", "replace")
        for index in _REVIEWED:
            rule = RULES[index]
            if expression(index).search(encoded) is None:
                continue
            for match in matches(index, Buffer(encoded, (0,), (len(encoded),)), budget):
                verdict = match.verdict
                if number and (rule.family == "hygiene" or verdict.rule in known):
                    continue
                known.add(verdict.rule)
                start = len(encoded[: match.start].decode("utf-8", "ignore"))
                span = (start, start + len(encoded[match.start : match.end].decode("utf-8", "ignore")))
                yield Finding(
                    verdict.control or rule.control,
                    verdict.rule,
                    verdict.category or rule.category,
                    min(100, verdict.severity + (10 if number else 0)),
                    pointer(path),
                    "review" if not number else "review.view",
                    "",
                    None if number else span,
                )


def _layout(text: str, path: Path) -> Iterator[Finding]:
    if "\n" * 20 in text:
        yield _finding("hidden", 50, path, "SCAN-01")
    if len(text) > LONG_DESCRIPTION:
        yield _finding("long_text", 20, path, "LIM-04")
    if "data:" in text and ";base64," in text and path[-1:] != ("src",):
        yield _finding("data_uri", 40, path)


def _references(text: str, path: Path, names: set[str]) -> Iterator[Finding]:
    words = {word.strip("`'\"().,:;").casefold() for word in text.split()}
    if words & names:
        yield _finding("cross_reference", 60, path)


def structure(definition: JSON, at: Path) -> list[Finding]:
    """Return findings about the shape of a definition: name, annotations, schema. No text search.

    at: the path of the definition in the body, prefixed to every pointer.
    """
    if not isinstance(definition, dict):
        return []
    out: list[Finding] = []
    name = definition.get("name")
    if isinstance(name, str) and (not 1 <= len(name) <= 128 or not NAME_CHARS.issuperset(name)):
        plain = name.isascii() and name.isprintable()
        out.append(_finding("name_form", 20 if plain else 70, (*at, "name"), "PIN-03"))
    annotations = definition.get("annotations")
    if isinstance(annotations, dict) and annotations.get("readOnlyHint") is True and isinstance(name, str):
        verb = name.replace("-", "_").replace(".", "_").casefold().split("_")
        if any(word in CHANGING_VERBS for word in verb[:2]):
            out.append(_finding("annotation_lie", 50, (*at, "annotations", "readOnlyHint"), "POL-03"))
    for member in ("inputSchema", "outputSchema"):
        schema = definition.get(member)
        if isinstance(schema, dict):
            out += _schema(schema, (*at, member))
    return out


def _schema(schema: JSON, at: Path) -> Iterator[Finding]:
    stack: list[tuple[Path, JSON]] = [(at, schema)]
    while stack:
        where, node = stack.pop()
        if isinstance(node, list):
            stack.extend(((*where, i), item) for i, item in enumerate(node))
            continue
        if not isinstance(node, dict):
            continue
        for key, item in node.items():
            here = (*where, key)
            if key in ("$ref", "$dynamicRef", "$schema") and isinstance(item, str):
                if key != "$schema" and item[:1] != "#":
                    yield _finding("remote_ref", 80, here, "SUP-02")
            elif key in ("default", "const", "enum", "examples", "title"):
                values = item if isinstance(item, list) else [item]
                if any(isinstance(v, str) and len(v) > LONG_VALUE and " " in v for v in values):
                    yield _finding("long_value", 50, here)
            elif key == "properties" and isinstance(item, dict):
                for member in item:
                    if member.replace("-", "_").casefold() in CONTEXT_WORDS:
                        yield _finding("context_parameter", 55, (*here, member))
            if isinstance(item, dict | list):
                stack.append((here, item))
