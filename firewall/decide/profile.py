"""The portable profile: what Rego may be before it may decide anything, on any engine.

The compiled engine makes a rule undefined where the interpreter raises and where OPA, unless told
otherwise, goes on (DESIGN §6 Policy). So the profile forbids what would differ: a deny rule must
not be able to vanish because a peer sent a number where the author thought of a string.
Every check has a code, below in `CHECKS`; `bartizan policy check` prints them, and a bundle with
any of them does not load. Source: policy reference §2 (H7, H15), §4.

The checks read the syntax tree that the interpreter itself parsed, never text by patterns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import yaml

from firewall.core.decision import EFFECTS, OBLIGATIONS
from firewall.decide.contract import INPUT_SHAPE, RESERVED_CODES, Shape
from firewall.decide.specialise import MARK_BEGIN, MARK_END, Statement, statements

CHECKS: Final[dict[str, str]] = {
    "parse_error": "The file is not Rego that the embedded engine understands.",
    "not_formatted": "Run `opa fmt -w`: the file is not in canonical form.",
    "package_place": "The package does not belong into this file.",
    "import_missing": "Add `import rego.v1`, and `import future.keywords.not` where `not` is used.",
    "import_foreign": "A rule package may import libraries only: what another package found is not its business.",
    "builtin_forbidden": "This built-in is not in the portable profile.",
    "builtin_shadowed": "A rule or an import has the name of a built-in: a guard or a ban by that name would mean nothing.",
    "builtin_unguarded": "A built-in that can fail reads a value without a type guard in the same body.",
    "compare_unguarded": "An ordering comparison reads a value without is_number in the same body.",
    "input_unknown": "The policy input has no such member: a misspelled fact would silently un-fire a rule.",
    "with_outside_tests": "`with` is for tests.",
    "grant_negative": "A grant uses `not`: grants are positive, so that a missing fact denies.",
    "grant_shape": "A grant is a string that begins with its package's name.",
    "finding_shape": "A finding is an object literal with rule, effect, code, owasp, severity, obligations.",
    "finding_unknown": "A finding names an effect, obligation or code that is not in the contract.",
    "finding_duplicate": "Two rules carry the same id.",
    "metadata_missing": "A finding needs a METADATA block with title and custom owasp, severity, message_user.",
    "metadata_mismatch": "METADATA and the finding's own members disagree.",
    "default_missing": "This complete rule needs a default.",
    "marks_missing": "The aggregator lacks the marks around its enumeration of packages.",
    "iteration_foreign": "Only the aggregator goes over data.firewall; look data up by key.",
    "grants_missing": "A package of the manifest's `grants` has no grant.",
}

# Built-ins that never fail, whatever the types of their arguments.
TOTAL: Final = frozenset(
    {"is_array", "is_boolean", "is_null", "is_number", "is_object", "is_set", "is_string", "type_name"}
)
# Built-in → the types its arguments must be guarded to be (positions in order; None needs no guard).
FALLIBLE: Final[dict[str, tuple[str | None, ...]]] = {
    "abs": ("is_number",),
    "array.concat": ("is_array", "is_array"),
    "array.slice": ("is_array", "is_number", "is_number"),
    "concat": ("is_string", "is_array"),
    "contains": ("is_string", "is_string"),
    "count": ("is_array",),
    "endswith": ("is_string", "is_string"),
    "format_int": ("is_number", "is_number"),
    "glob.match": ("is_string", "is_array", "is_string"),
    "indexof": ("is_string", "is_string"),
    "lower": ("is_string",),
    "max": ("is_array",),
    "min": ("is_array",),
    "net.cidr_contains": ("is_string", "is_string"),
    "numbers.range": ("is_number", "is_number"),
    "object.get": ("is_object", None, None),
    "object.keys": ("is_object",),
    "object.union": ("is_object", "is_object"),
    "regex.match": ("is_string", "is_string"),
    "replace": ("is_string", "is_string", "is_string"),
    "round": ("is_number",),
    "split": ("is_string", "is_string"),
    "sprintf": ("is_string", "is_array"),
    "startswith": ("is_string", "is_string"),
    "strings.any_prefix_match": ("is_string", "is_array"),
    "strings.any_suffix_match": ("is_string", "is_array"),
    "substring": ("is_string", "is_number", "is_number"),
    "sum": ("is_array",),
    "time.clock": ("is_number",),
    "time.weekday": ("is_number",),
    "to_number": ("is_string",),
    "trim": ("is_string", "is_string"),
    "trim_left": ("is_string", "is_string"),
    "trim_prefix": ("is_string", "is_string"),
    "trim_right": ("is_string", "is_string"),
    "trim_space": ("is_string",),
    "trim_suffix": ("is_string", "is_string"),
    "upper": ("is_string",),
}
ALLOWED: Final = TOTAL | FALLIBLE.keys()
# First parts of built-ins' names that are in no list above: what an import calls ``time`` would hide `time.now_ns`.
_RESERVED: Final = {name.partition(".")[0] for name in ALLOWED} | {
    "base64", "base64url", "bits", "crypto", "graph", "graphql", "hex", "http", "internal", "io", "json", "opa",
    "print", "providers", "rand", "rego", "semver", "time", "trace", "units", "urlquery", "uuid", "walk", "yaml",
}  # fmt: skip

_LITERALS: Final = frozenset({"String", "RawString", "Number", "True", "False", "Null", "Bool"})
_COLLECTIONS: Final = frozenset({"Array", "Set", "Object", "ArrayCompr", "SetCompr", "ObjectCompr"})
_ORDERINGS: Final = frozenset({"Lt", "Le", "Gt", "Ge"})
_FINDING_KEYS: Final = frozenset({"rule", "effect", "code", "owasp", "severity", "obligations"})

Node = Any  # a part of the engine's syntax tree: {"Kind": {...}}, list or scalar


@dataclass(frozen=True, slots=True)
class Fault:
    """One breach: file, line (1 is the first), check code and what is concerned."""

    path: str
    line: int
    code: str
    subject: str = ""

    def __str__(self) -> str:
        about = f" ({self.subject})" if self.subject else ""
        return f"{self.path}:{self.line}: {self.code}: {CHECKS[self.code]}{about}"


@dataclass(frozen=True, slots=True)
class Rule:
    """One finding rule, as its METADATA and its own members say."""

    id: str
    package: str
    effect: str
    code: str
    owasp: tuple[str, ...]
    severity: int
    title: str
    description: str
    message_user: str
    path: str
    line: int


@dataclass(slots=True)
class Report:
    """What reading a bundle's modules gave: breaches and rules, in file order."""

    faults: list[Fault] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)


def examine(modules: Mapping[str, str], tests: Mapping[str, str], grants: tuple[str, ...]) -> Report:
    """Return the report for a bundle's modules.

    modules, tests: path inside the bundle → source. grants: packages that must grant.
    """
    report = Report()
    granting: set[str] = set()
    for path, source in {**modules, **tests}.items():
        _Module(path, source, path in tests, report, granting).examine()
    seen: set[str] = set()
    for rule in report.rules:
        if rule.id in seen:
            report.faults.append(Fault(rule.path, rule.line, "finding_duplicate", rule.id))
        seen.add(rule.id)
    for name in grants:
        if name not in granting:
            report.faults.append(Fault(".manifest", 1, "grants_missing", name))
    return report


class _Module:
    def __init__(self, path: str, source: str, test: bool, report: Report, granting: set[str]) -> None:
        self._path = path
        self._source = source
        self._test = test
        self._report = report
        self._granting = granting
        self._package = ""
        self._collections: set[str] = set()
        self._functions: set[str] = set()
        self._aliases: dict[str, str] = {}

    def _fault(self, line: int, code: str, subject: str = "") -> None:
        self._report.faults.append(Fault(self._path, line, code, subject))

    def examine(self) -> None:
        tree = _parse(self._path, self._source)
        if tree is None:
            self._fault(1, "parse_error")
            return
        self._package = _dotted(tree["package"]["refr"])
        imports = [_dotted(item["refr"]) for item in tree["imports"]]
        lines = _lines(self._source)
        rules = tree["rules"]
        if len(lines) != len(rules):
            self._fault(1, "not_formatted")
            return
        if self._package != _expected_package(self._path):
            self._fault(1, "package_place", self._package)
        if "rego.v1" not in imports:
            self._fault(1, "import_missing", "rego.v1")
        if not self._test and any(
            i.startswith("data.") and not i.startswith(("data.firewall.lib.", "data.config")) for i in imports
        ):
            self._fault(1, "import_foreign")
        negations = any(kind == "NotExpr" for kind, _ in _walk(rules))
        if negations and not {"future.keywords.not", "future.keywords"} & set(imports):
            self._fault(1, "import_missing", "future.keywords.not")
        self._learn(rules)
        aliases = {i.rsplit(".", 1)[-1]: i for i in imports}
        self._shadowed(tree["imports"], rules, lines)
        for rule, (line, _) in zip(rules, lines, strict=True):
            self._calls(rule, line, aliases)
        if self._test:
            return
        self._structure(rules, lines)

    def _learn(self, rules: list[Node]) -> None:
        """Note which rule names are functions, and which can only be collections."""
        heads: dict[str, list[bool]] = {}
        for rule in rules:
            kind, head = _head(rule)
            name = _name(head)
            if kind == "Func":
                self._functions.add(name)
            value = (head.get("assign") or {}).get("value") if kind == "Compr" else None
            if value is not None and _dotted(value).startswith("input."):
                self._aliases[name] = _dotted(value)
            collection = kind == "Set" or (isinstance(value, dict) and _kind(value) in _COLLECTIONS)
            heads.setdefault(name, []).append(collection)
        self._collections = {name for name, known in heads.items() if all(known)}

    def _shadowed(self, imports: list[Node], rules: list[Node], lines: list[tuple[int, str]]) -> None:
        """Refuse names that a built-in has: `is_object` of the author's own guards nothing, `time` hides a clock."""
        raw = self._source.encode()
        for item in imports:
            told, path = item.get("as"), _dotted(item["refr"])
            name = raw[told["start"] : told["end"]].decode() if told else path.rsplit(".", 1)[-1]
            if name in _RESERVED and path not in ("rego.v1", "future.keywords.contains"):
                self._fault(item["span"]["line"], "builtin_shadowed", name)
        for rule, (line, _) in zip(rules, lines, strict=True):
            name = _name(_head(rule)[1]).partition(".")[0]
            if name in _RESERVED:
                self._fault(line, "builtin_shadowed", name)

    # -- calls, comparisons, with ---------------------------------------------------------------

    def _calls(self, rule: Node, line: int, aliases: Mapping[str, str]) -> None:
        for query in _queries(rule):
            guards = {
                (_dotted(call["fcn"]), _key(call["params"][0]))
                for kind, call in _own(query)
                if kind == "Call" and _dotted(call["fcn"]) in TOTAL and call["params"]
            }
            for kind, node in _own(query):
                if kind == "Call":
                    self._call(node, guards, line, aliases)
                elif kind == "BoolExpr" and not self._test:
                    self._ordering(node, guards, line)
                elif kind == "RefDot" and not self._test:
                    self._reference(_dotted({"RefDot": node}), line)
                elif kind == "stmt" and node.get("with_mods") and not self._test:
                    self._fault(line, "with_outside_tests")
                elif kind == "SomeIn" and not self._test and self._package != "firewall":
                    if _dotted(node["collection"]).startswith("data.firewall"):
                        self._fault(line, "iteration_foreign")

    def _reference(self, name: str, line: int) -> None:
        first, _, rest = name.partition(".")
        path = f"{self._aliases[first]}.{rest}" if first in self._aliases else name
        known: Shape = INPUT_SHAPE
        if not path.startswith("input."):
            return
        for part in path.split(".")[1:]:
            if known is None:
                return
            if part not in known:
                self._fault(line, "input_unknown", path)
                return
            known = known[part]

    def _call(self, call: Node, guards: set[tuple[str, str]], line: int, aliases: Mapping[str, str]) -> None:
        name = _dotted(call["fcn"])
        if name in self._functions or aliases.get(name.split(".")[0], name).startswith("data."):
            return
        if name not in ALLOWED:
            if not (self._test and name == "print"):
                self._fault(line, "builtin_forbidden", name)
            return
        if self._test:
            return
        for position, needed in enumerate(FALLIBLE.get(name, ())):
            if needed is not None and position < len(call["params"]):
                self._guarded(call["params"][position], needed, guards, line, name)

    def _guarded(self, argument: Node, needed: str, guards: set[tuple[str, str]], line: int, name: str) -> None:
        kind = _kind(argument)
        if kind in _LITERALS or kind == "Call" or _dotted(argument).startswith("data.config."):
            return
        if kind in _COLLECTIONS:
            if needed == "is_array" and name in ("concat", "sprintf") and kind == "Array":
                for item in argument["Array"]["items"]:
                    self._guarded(item, "is_string", guards, line, name)
            return
        if kind == "Var" and argument["Var"]["value"] in self._collections:
            return
        if _dotted(argument).startswith("data.firewall.rules.") and self._package == "firewall":
            return
        if self._package == "firewall" and kind == "Var" and needed == "is_object":
            return  # the aggregator's own functions over findings, which finding_shape makes objects
        if (needed, _key(argument)) not in guards:
            self._fault(line, "builtin_unguarded", name)

    def _ordering(self, node: Node, guards: set[tuple[str, str]], line: int) -> None:
        if node["op"] not in _ORDERINGS:
            return
        for side in (node["lhs"], node["rhs"]):
            kind = _kind(side)
            safe = kind in _LITERALS or kind == "Call" or _dotted(side).startswith("data.config.")
            if not safe and ("is_number", _key(side)) not in guards and not _is_config(side):
                self._fault(line, "compare_unguarded")

    # -- the shape of grants, findings and the aggregator ------------------------------------------

    def _structure(self, rules: list[Node], lines: list[tuple[int, str]]) -> None:
        by_name: dict[str, list[Node]] = {}
        defaults: set[str] = set()
        for rule in rules:
            if "Default" in rule:
                defaults.add(_name(rule["Default"]))
            else:
                by_name.setdefault(_name(_head(rule)[1]), []).append(rule)
        if self._package == "firewall":
            if MARK_BEGIN not in self._source or MARK_END not in self._source:
                self._fault(1, "marks_missing")
            for name in ("effect", "risk"):
                if name not in defaults:
                    self._fault(1, "default_missing", name)
            return
        if not self._package.startswith("firewall.rules."):
            return
        domain = self._package.removeprefix("firewall.rules.")
        for rule, (line, text) in zip(rules, lines, strict=True):
            kind, head = _head(rule) if "Spec" in rule else ("Default", rule["Default"])
            name = _name(head)
            if name == "grant":
                self._granting.add(domain)
                identifier = _text(head.get("key")) if kind == "Set" else None
                if identifier is None or not identifier.startswith(f"{domain}."):
                    self._fault(line, "grant_shape")
                if _negates(rule, by_name, set()):
                    self._fault(line, "grant_negative", identifier or "")
            elif name == "finding":
                self._finding(kind, head, line, text, domain)

    def _finding(self, kind: str, head: Node, line: int, text: str, domain: str) -> None:
        literal = head.get("key") if kind == "Set" else None
        if not isinstance(literal, dict) or _kind(literal) != "Object":
            self._fault(line, "finding_shape")
            return
        members: dict[str, Node] = {_text(key) or "": value for _, key, value in literal["Object"]["fields"]}
        rule, effect, code = (_text(members.get(k)) for k in ("rule", "effect", "code"))
        owasp, severity = _value(members.get("owasp")), _value(members.get("severity"))
        if members.keys() != _FINDING_KEYS or rule is None or not rule.startswith(f"{domain}."):
            self._fault(line, "finding_shape", rule or "")
            return
        if effect not in EFFECTS or code is None or code in RESERVED_CODES or not code.isidentifier():
            self._fault(line, "finding_unknown", rule)
        for item_kind, item in _walk(members["obligations"]):
            if item_kind == "Object":
                names = {_text(key) or "": value for _, key, value in item["fields"]}
                wanted = OBLIGATIONS.get(_text(names.get("type")) or "")
                if wanted is None or names.keys() != {"type", *wanted}:
                    self._fault(line, "finding_unknown", rule)
        meta = metadata_above(self._source, line)
        custom = meta.get("custom")
        if not isinstance(custom, dict) or not meta.get("title") or "message_user" not in custom:
            self._fault(line, "metadata_missing", rule)
            return
        if custom.get("owasp") != owasp or custom.get("severity") != severity:
            self._fault(line, "metadata_mismatch", rule)
            return
        self._report.rules.append(
            Rule(
                id=rule,
                package=domain,
                effect=effect or "deny",
                code=code or "",
                owasp=tuple(owasp),
                severity=severity,
                title=str(meta["title"]),
                description=str(meta.get("description", "")).strip(),
                message_user=str(custom["message_user"]),
                path=self._path,
                line=line,
            )
        )


# -- the syntax tree -----------------------------------------------------------------------------


def _parse(path: str, source: str) -> Node | None:
    import regorus

    engine = regorus.Engine()
    try:
        engine.add_policy(path, source)
        return orjson.loads(engine.get_ast_as_json())[0]["ast"]
    except (RuntimeError, orjson.JSONDecodeError, KeyError, IndexError):
        return None


def _kind(node: Node) -> str:
    return next(iter(node)) if isinstance(node, dict) and len(node) == 1 else ""


def _walk(node: Node) -> Iterator[tuple[str, Node]]:
    """Yield every (kind, content) of a tree, nested queries included."""
    stack = [node]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if len(item) == 1:
                kind, content = next(iter(item.items()))
                if kind[:1].isupper():
                    yield kind, content
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def _queries(rule: Node) -> Iterator[Node]:
    """Yield what is evaluated together: the rule's head with its bodies, and each nested query with them.

    A guard in a body also protects the comprehensions inside it, and the head; a guard inside a
    comprehension protects only that.
    """
    if "Default" in rule:
        return
    spec = rule["Spec"]
    bodies = spec["bodies"] or [None]
    for body in bodies:
        yield [spec["head"], body]


def _own(query: Node) -> Iterator[tuple[str, Node]]:
    stack = [query]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if "literal" in item:
                yield "stmt", item
            if len(item) == 1:
                kind, content = next(iter(item.items()))
                if kind[:1].isupper():
                    yield kind, content
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def _head(rule: Node) -> tuple[str, Node]:
    if "Default" in rule:
        return "Default", rule["Default"]
    head = rule["Spec"]["head"]
    kind = _kind(head)
    return kind, head[kind]


def _name(head: Node) -> str:
    return _dotted(head["refr"])


def _dotted(node: Node) -> str:
    """Return ``a.b.c`` for a plain reference, "" for anything else."""
    kind = _kind(node)
    if kind == "Var":
        return str(node["Var"]["value"])
    if kind == "RefDot":
        base = _dotted(node["RefDot"]["refr"])
        return f"{base}.{node['RefDot']['field'][1]}" if base else ""
    return ""


def _is_config(node: Node) -> bool:
    """Whether a reference starts at data.config, by name or by key."""
    while _kind(node) in ("RefDot", "RefBrack"):
        if _dotted(node).startswith("data.config."):
            return True
        node = node[_kind(node)]["refr"]
    return False


def _key(node: Node) -> str:
    """Return a text that is equal for equal expressions, wherever they stand."""
    return orjson.dumps(_bare(node), option=orjson.OPT_SORT_KEYS).decode()


def _bare(node: Node) -> Node:
    if isinstance(node, dict):
        return {
            k: _bare(v) for k, v in node.items() if k not in ("eidx", "sidx", "qidx", "line", "col", "start", "end")
        }
    if isinstance(node, list):
        return [_bare(item) for item in node]
    return node


def _text(node: Node) -> str | None:
    return str(node["String"]["value"]) if isinstance(node, dict) and _kind(node) == "String" else None


def _value(node: Node) -> Any:
    """Return the value of a literal string, number or array of them; None for anything else."""
    kind = _kind(node)
    if kind in ("String", "Number"):
        return node[kind]["value"]
    if kind == "Array":
        return [_value(item) for item in node["Array"]["items"]]
    return None


def _negates(rule: Node, by_name: Mapping[str, list[Node]], visited: set[str]) -> bool:
    """Whether a rule, or a rule of its package that it uses, holds a negation."""
    for kind, node in _walk(rule):
        if kind == "NotExpr":
            return True
        if kind == "Var" and node["value"] in by_name and node["value"] not in visited:
            visited.add(node["value"])
            if any(_negates(other, by_name, visited) for other in by_name[node["value"]]):
                return True
    return False


# -- text ----------------------------------------------------------------------------------------


def _lines(source: str) -> list[tuple[int, str]]:
    """Return (line, text) of every rule statement, in order."""
    rules: list[Statement] = [s for s in statements(source) if s.name]
    found: list[tuple[int, str]] = []
    rows = source.splitlines()
    at = 0
    for rule in rules:
        first = rule.text.split("\n", 1)[0]
        while at < len(rows) and rows[at] != first:
            at += 1
        at += 1
        found.append((at, rule.text))
    return found


def metadata_above(source: str, line: int) -> dict[str, Any]:
    """Return the METADATA block that ends right above a line, {} when there is none or it is not YAML."""
    rows = source.splitlines()
    block: list[str] = []
    at = line - 2
    while at >= 0 and rows[at].startswith("#"):
        block.insert(0, rows[at])
        at -= 1
    starts = [i for i, row in enumerate(block) if row.strip() == "# METADATA"]
    if not starts:
        return {}
    text = "\n".join(re.sub(r"^# ?", "", row) for row in block[starts[-1] + 1 :])
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return {}
    return value if isinstance(value, dict) else {}


def _expected_package(path: str) -> str:
    """Return the package that belongs into a file of the bundle."""
    stem = path.removesuffix(".rego")
    if stem == "firewall/main":
        return "firewall"
    if stem.endswith("_test"):
        return "firewall.tests." + stem.removesuffix("_test").rsplit("/", 1)[-1]
    return stem.replace("/", ".")
