"""What hundreds of tests work out again from the same input is worked out once per process.

Some steps of a start cost more than all else in a test that composes a firewall: reading the policies against the
profile, folding and compiling one program per point, and asking the kernel for its walls. The last depends on the
machine, the others on their arguments alone, so the first answer stands for all. Other input is worked out as ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache, wraps

import orjson

from firewall.core.jsonvalue import JSON
from firewall.core.points import Point
from firewall.decide import profile, program, specialise
from mcp_gateway import sandbox

Items = tuple[tuple[str, str], ...]
_examine, _fold, _compile = profile.examine, specialise.specialise, program.compile_program


@lru_cache(maxsize=128)
def _report(modules: Items, tests: Items, grants: tuple[str, ...]) -> profile.Report:
    return _examine(dict(modules), dict(tests), grants)


@wraps(_examine)
def examine(modules: Mapping[str, str], tests: Mapping[str, str], grants: tuple[str, ...]) -> profile.Report:
    report = _report(tuple(modules.items()), tuple(tests.items()), grants)
    return profile.Report(list(report.faults), list(report.rules))


@lru_cache(maxsize=256)
def _folded(modules: Items, config: bytes, point: Point, packages: tuple[str, ...]) -> dict[str, str]:
    return _fold(dict(modules), orjson.loads(config), point, packages)


@wraps(_fold)
def fold(
    modules: Mapping[str, str], config: Mapping[str, JSON], point: Point, packages: tuple[str, ...]
) -> dict[str, str]:
    return dict(_folded(tuple(modules.items()), orjson.dumps(config), point, tuple(packages)))


@lru_cache(maxsize=256)
def _program(modules: Items, data_json: str) -> bytes:
    return _compile(dict(modules), data_json)


@wraps(_compile)
def compile_program(modules: Mapping[str, str], data_json: str) -> bytes:
    return _program(tuple(modules.items()), data_json)


def install() -> None:
    """Put these in the place of the product's, for callers that name the module."""
    profile.examine, specialise.specialise, program.compile_program = examine, fold, compile_program
    sandbox.detect = cache(sandbox.detect)
