"""Decision cases: inputs and what must come out, as data that any engine can run.

A file of cases is JSON Lines, in this order of kinds:

    {"base": "NAME", "input": {…}}                     a whole policy input document
    {"base": "NAME", "from": "OTHER", "patch": {…}}    the same, as a JSON Merge Patch (RFC 7396) of another
    {"case": "SENTENCE", "from": "NAME", "patch": {…}, "expect": {"effect": …, "rules": […]}}

``expect`` may also hold ``codes``, ``obligations`` (each as in the contract, any order), ``lifted``
and ``shadow`` (rule ids). ``rules`` are the ids of the reasons, in any order, exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, cast

import orjson

from firewall.core.decision import EFFECTS
from firewall.core.errors import ConfigFault
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.points import Point

_EXPECT: Final = frozenset({"effect", "rules", "codes", "obligations", "lifted", "shadow"})


@dataclass(frozen=True, slots=True)
class Case:
    """One decision case; ``source`` is ``file:line``."""

    name: str
    point: Point
    document: bytes
    effect: str
    rules: frozenset[str]
    codes: frozenset[str] | None
    obligations: tuple[JSONObject, ...] | None
    lifted: frozenset[str]
    shadow: frozenset[str]
    source: str

    def differences(self, decision: JSONObject) -> list[str]:
        """Return what a decision document has other than expected, [] when it is as it should be."""
        found: list[str] = []
        if decision.get("effect") != self.effect:
            found.append(f"effect is {decision.get('effect')}, expected {self.effect}")
        for member, expected in (("reasons", self.rules), ("lifted", self.lifted), ("shadow", self.shadow)):
            actual = _members(decision.get(member), "rule")
            if actual != expected:
                found.append(f"{member} are {sorted(actual)}, expected {sorted(expected)}")
        if self.codes is not None and _members(decision.get("reasons"), "code") != self.codes:
            found.append(f"codes are not {sorted(self.codes)}")
        if self.obligations is not None:
            listed = decision.get("obligations")
            actual_o = sorted(_text(item) for item in listed) if isinstance(listed, list) else []
            if actual_o != sorted(_text(item) for item in self.obligations):
                found.append(f"obligations are {actual_o}")
        return found


def _members(value: JSON, name: str) -> frozenset[str]:
    if not isinstance(value, list):
        return frozenset()
    return frozenset(str(item.get(name)) for item in value if isinstance(item, dict))


def _text(value: JSON) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def merge_patch(target: JSON, patch: JSON) -> JSON:
    """Return the result of a JSON Merge Patch (RFC 7396 §2); neither argument is changed."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge_patch(result.get(name), value)
    return result


def parse_cases(files: Mapping[str, bytes]) -> list[Case]:
    """Return the cases of several files, in file and line order.

    files: name → JSON Lines; bases may be used across files once defined.
    Raises ConfigFault("policy_cases") naming the file and line.
    """
    bases: dict[str, JSON] = {}
    cases: list[Case] = []
    for name, row, item in _rows(files):
        where = f"{name}:{row}"
        start = bases.get(str(item.get("from"))) if "from" in item else item.get("input")
        if not isinstance(start, dict):
            raise ConfigFault("policy_cases", f"{where}: no such base, or no input")
        document = merge_patch(start, item.get("patch", {}))
        if "base" in item:
            bases[str(item["base"])] = document
            continue
        cases.append(_case(where, item, document))
    return cases


def _rows(files: Mapping[str, bytes]) -> Iterator[tuple[str, int, JSONObject]]:
    for name in sorted(files):
        for row, line in enumerate(files[name].splitlines(), 1):
            if not line.strip():
                continue
            try:
                item = orjson.loads(line)
            except orjson.JSONDecodeError:
                item = None
            if not isinstance(item, dict) or not ({"base", "case"} & item.keys()):
                raise ConfigFault("policy_cases", f"{name}:{row}: neither a base nor a case")
            yield name, row, item


def _case(where: str, item: JSONObject, document: JSON) -> Case:
    expect = item.get("expect")
    if not isinstance(expect, dict) or not expect.keys() <= _EXPECT or expect.get("effect") not in EFFECTS:
        raise ConfigFault("policy_cases", f"{where}: expect needs a known effect and known members")
    if not isinstance(document, dict):
        raise ConfigFault("policy_cases", f"{where}: the input is not an object")
    try:
        point = Point(str(document.get("point")))
    except ValueError:
        raise ConfigFault("policy_cases", f"{where}: unknown point") from None
    codes = expect.get("codes")
    obligations = expect.get("obligations")
    return Case(
        name=str(item["case"]),
        point=point,
        document=in_order(document),
        effect=str(expect["effect"]),
        rules=_names(expect.get("rules")),
        codes=None if codes is None else _names(codes),
        obligations=None if obligations is None else tuple(cast("list[JSONObject]", obligations)),
        lifted=_names(expect.get("lifted")),
        shadow=_names(expect.get("shadow")),
        source=where,
    )


def _names(value: JSON) -> frozenset[str]:
    return frozenset(str(item) for item in value) if isinstance(value, list) else frozenset()


def in_order(document: JSONObject) -> bytes:
    """Encode an input document with ``contract`` and ``point`` first, as `question.encode_input` does."""
    first: JSONObject = {"contract": document.get("contract", "1"), "point": document.get("point")}
    return orjson.dumps({**first, **{k: v for k, v in document.items() if k not in first}})
