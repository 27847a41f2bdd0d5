"""What every command shares on its command line: ``--config``, ``--state-dir``, ``--run``, ``--json``, before or after its name."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from firewall.core.errors import BartizanError

Run = Callable[[argparse.Namespace], int]


class Usage(BartizanError):
    """The command line does not say enough: exit 2."""


class Parser(argparse.ArgumentParser):
    """Takes options between arguments too, where some of those may be left out: ``pins diff notes --kind set tool``.

    argparse by itself gives an argument that may be left out its empty value before the first option.
    """

    _mixing = False

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:  # type: ignore[override]
        """Return what was given and what nobody knows."""
        optional = any(not a.option_strings and a.nargs == argparse.OPTIONAL for a in self._actions)
        if self._mixing or not optional:
            return super().parse_known_args(args, namespace)
        self._mixing = True
        try:
            found, unknown = self.parse_known_intermixed_args(args, namespace)
        finally:
            self._mixing = False
        return found, unknown


def common() -> Parser:
    """Return a parent parser; it leaves alone what was said before the command's name."""
    parent = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    group = parent.add_argument_group("everywhere")
    group.add_argument("--config", type=Path, help="bartizan.yaml; without one, the demonstration is meant")
    group.add_argument("--state-dir", type=Path, help="where the node keeps its state")
    group.add_argument(
        "--run", dest="guarded", metavar="NAME", help="the state of `bartizan run` of that name is meant"
    )
    group.add_argument("--json", action="store_true", help="print JSON")
    return parent


class Verbs:
    """The verbs of a command that has several: each with its own options, help and function."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def add(self, name: str, run: Run, **options: Any) -> argparse.ArgumentParser:
        """Return the verb's parser; its help is the first line of ``run``'s docstring."""
        text = (run.__doc__ or "").splitlines()[0]
        made: argparse.ArgumentParser = self._verbs.add_parser(
            name, help=text, description=text, parents=[common()], **options
        )
        made.set_defaults(run=run)
        return made
