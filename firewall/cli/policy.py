"""``bartizan policy``: check a policy directory, run its tests, decide about one input, write it for OPA."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from firewall.cli.arguments import Usage, Verbs
from firewall.cli.context import load_config
from firewall.cli.output import emit

if TYPE_CHECKING:
    from firewall.tooling.policy import Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    verbs = Verbs(parser)
    checking = verbs.add("check", check)
    checking.add_argument("--write", action="store_true", help="keep a passed self-test beside the policies")
    testing = verbs.add("test", test)
    testing.add_argument("--opa", default="", metavar="ADDRESS", help="also ask an OPA server that has this bundle")
    testing.add_argument("--match", default="", help="only the tests whose name contains this")
    deciding = verbs.add("eval", evaluate)
    deciding.add_argument("input", help="a policy input document (JSON), - for stdin")
    deciding.add_argument("--mode", choices=("auto", "compiled", "interpreter"), default="auto")
    exporting = verbs.add("export", export)
    exporting.add_argument(
        "directory", type=Path, metavar="DIR", help="where; made, or replaced if it is such a bundle"
    )
    for one in (checking, testing, deciding, exporting):
        one.add_argument("--bundle", type=Path, help="a policy directory; the configured one without it")


def check(given: argparse.Namespace) -> int:
    """Lint the rules, run the self-test, and say whether they may run compiled and why."""
    from firewall.tooling.policy import policy_check

    return _print(given, policy_check(_bundle(given), state_dir=_cache(given), write=given.write))


def test(given: argparse.Namespace) -> int:
    """Run the Rego tests and the decision cases on every engine at hand."""
    from firewall.tooling.policy import policy_test

    return _print(given, policy_test(_bundle(given), state_dir=_cache(given), opa_address=given.opa, match=given.match))


def evaluate(given: argparse.Namespace) -> int:
    """Decide about one input document and explain each rule that spoke."""
    from firewall.core.errors import Malformed
    from firewall.tooling.policy import policy_eval
    from firewall.wire import strict_json

    try:
        data = sys.stdin.buffer.read() if given.input == "-" else Path(given.input).read_bytes()
        document = strict_json.loads(data)
    except (OSError, Malformed) as error:
        raise Usage("file_unreadable", getattr(error, "code", type(error).__name__)) from None
    if not isinstance(document, dict):
        raise Usage("file_unreadable", "a JSON object is expected")
    return _print(given, policy_eval(document, _bundle(given), state_dir=_cache(given), mode=given.mode))


def export(given: argparse.Namespace) -> int:
    """Write the bundle that an OPA server must serve: the same rules and data, with their revision."""
    from firewall.tooling.policy import policy_export

    return _print(given, policy_export(given.directory, _bundle(given), state_dir=_cache(given)))


def _bundle(given: argparse.Namespace) -> Path | None:
    if given.bundle is not None:
        chosen: Path = given.bundle
        return chosen
    return load_config(given).policy.bundle


def _cache(given: argparse.Namespace) -> Path | None:
    """Return where a node keeps the outcome of self-tests; None where none ever ran."""
    cache = load_config(given).state / "cache"
    return cache if cache.is_dir() else None


def _print(given: argparse.Namespace, outcome: Outcome) -> int:
    emit(given, outcome.document, outcome.lines)
    return 0 if outcome.ok else 1
