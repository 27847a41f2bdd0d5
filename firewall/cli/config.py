"""``bartizan config``: print the schema, check a file, show what is in force."""

from __future__ import annotations

import argparse

from firewall.cli.arguments import Usage, Verbs
from firewall.cli.context import load_config
from firewall.cli.output import emit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    verbs = Verbs(parser)
    verbs.add("schema", schema)
    verbs.add("check", check)
    verbs.add("show", show)


def schema(given: argparse.Namespace) -> int:
    """Print the JSON Schema of bartizan.yaml, for editors and for CI."""
    from firewall import config

    given.json = True
    emit(given, config.schema(), ())
    return 0


def check(given: argparse.Namespace) -> int:
    """Check the file named by --config; exit 4 with every problem and its place."""
    if given.config is None:
        raise Usage("config_path", "name a file", fix="bartizan config check --config bartizan.yaml")
    found = load_config(given)
    counts = {"mcp": len(found.mcp), "a2a": len(found.a2a), "models": len(found.llm.models)}
    emit(
        given,
        {"ok": True, **counts},
        f"{given.config} is well formed: {counts['mcp']} MCP servers, {counts['a2a']} agents, {counts['models']} models.",
    )
    return 0


def show(given: argparse.Namespace) -> int:
    """Print the configuration in force, defaults included. It holds no secret: those are named, not written."""
    import yaml

    document = load_config(given).model_dump(mode="json")
    emit(given, document, yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
    return 0
