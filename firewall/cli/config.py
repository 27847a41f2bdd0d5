"""``bartizan config``: print the schema, check a file, show what is in force."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firewall.cli.arguments import Usage, Verbs
from firewall.cli.context import load_config
from firewall.cli.output import emit
from firewall.core.errors import CONFIG_EXIT

if TYPE_CHECKING:
    from firewall.config import Config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    verbs = Verbs(parser)
    verbs.add("schema", schema)
    checked = verbs.add("check", check)
    checked.add_argument("--shape-only", action="store_true", help="look at the file alone, not at this machine")
    verbs.add("show", show)


def schema(given: argparse.Namespace) -> int:
    """Print the JSON Schema of bartizan.yaml, for editors and for CI."""
    from firewall import config

    given.json = True
    emit(given, config.schema(), ())
    return 0


def check(given: argparse.Namespace) -> int:
    """Check the file named by --config; exit 4 with all that `up` would refuse and its line, 1 when this machine lacks what it names."""
    if given.config is None:
        raise Usage("config_path", "name a file", fix="bartizan config check --config bartizan.yaml")
    found = load_config(given)
    from firewall import rehearsal
    from firewall.config import places

    refused = rehearsal.refusals(found, machine=not given.shape_only)
    lacks = [] if given.shape_only else list(_lacks(found))
    counts = {"mcp": len(found.mcp), "a2a": len(found.a2a), "models": len(found.llm.models)}
    at = places(given.config)
    faults: list[dict[str, Any]] = [
        {
            "code": one.fault.code,
            "key": ".".join(one.place),
            "file": str(given.config),
            "line": at.line(one.place),
            "detail": one.fault.detail,
            "fix": one.fault.fix,
        }
        for one in refused
    ]
    lines = [f"  lacks  {line}" for line in lacks]
    if refused:
        for one in refused:
            where = at.told(one.place) + (f"{'.'.join(one.place)}: " if one.place else "")
            lines += [f"  refused  {where}{one.fault.code}", *(f"    {told}" for told in one.fault.detail.splitlines())]
            lines += [f"    mend: {one.fault.fix}"] if one.fault.fix else []
        head = f"{given.config}: a node would not start with it."
    else:
        named = (("mcp", "MCP server"), ("a2a", "agent"), ("models", "model"))
        what = ", ".join(f"{counts[key]} {word}{'' if counts[key] == 1 else 's'}" for key, word in named)
        head = f"{given.config} is well formed: {what}."
    emit(given, {"ok": not (lacks or refused), **counts, "faults": faults, "lacks": lacks}, [head, *lines])
    return CONFIG_EXIT if refused else 1 if lacks else 0


def _lacks(config: Config) -> Iterator[str]:
    """Yield what the file names and this machine has not: programs, paths, policy, certificates, secrets."""
    from firewall import rehearsal
    from firewall.admin.doctor.node import program_fault

    for name, server in config.mcp.items():
        if server.command and (wrong := program_fault(server.command[0])):
            yield f"mcp.{name}.command: {wrong}"
        for key, paths in (("read", server.read), ("write", server.write)):
            for path in paths:
                if not os.path.isabs(path):
                    yield f"mcp.{name}.{key}: {path} is not absolute"
                elif not os.path.exists(path):
                    yield f"mcp.{name}.{key}: there is no {path}"
    bundle = config.policy.bundle
    if bundle is not None and not bundle.expanduser().is_dir():
        yield f"policy.bundle: {bundle} is not a directory"
    for name, listener in (("data", config.listeners.data), ("admin", config.listeners.admin)):
        for key, file in (("cert", listener.tls.cert), ("key", listener.tls.key)) if listener.tls else ():
            if not file.expanduser().is_file():
                yield f"listeners.{name}.tls.{key}: there is no {file}"
    for key, place in (
        ("state_dir", config.state),
        ("audit.directory", config.audit.directory),
        ("audit.spool", config.audit.spool),
    ):
        if place is not None and (wrong := _unmakeable(place.expanduser())):
            yield f"{key}: {wrong}"
    for name, upstream in {**config.mcp, **config.a2a, **config.llm.providers}.items():
        own = upstream.credential
        if own is not None and own.env and not os.environ.get(own.env):
            yield f"{name}: its credential's variable {own.env} is not set here"
        if own is not None and own.file is not None and not own.file.expanduser().is_file():
            yield f"{name}: its credential's file {own.file} is not there"
    for keys, name in rehearsal.unregistered(config):
        yield f"{'.'.join(keys)}: there is no client {name!r}, in this file or by command: see `bartizan clients add`"
    for key, kind, source in _named_secrets(config):
        if kind == "env" and not os.environ.get(source):
            yield f"{key}: the variable {source} is not set here"
        if kind == "file" and not Path(source).expanduser().is_file():
            yield f"{key}: there is no {source}"


def _named_secrets(config: Config) -> Iterator[tuple[str, str, str]]:
    """Yield each secret that the front door or the way to an upstream needs: its key, "env" or "file", and the name."""
    identity = config.identity
    told = [(f"identity.providers.{n}.client_secret", p.client_secret) for n, p in identity.providers.items()]
    for name, issuer in identity.issuers.items():
        if issuer.introspection:
            told.append((f"identity.issuers.{name}.introspection.client_secret", issuer.introspection.client_secret))
    for name, signal in identity.signals.items():
        told += [
            (f"identity.signals.{name}.push_secret", signal.push_secret),
            (f"identity.signals.{name}.poll_secret", signal.poll_secret),
        ]
    for key, source in told:
        kind, _, name = source.partition(":")
        yield key, kind, name
    for part, entries in (("mcp", config.mcp), ("a2a", config.a2a), ("llm.providers", config.llm.providers)):
        for name, upstream in entries.items():
            if (own := upstream.auth) is None:
                continue
            for word, variable, file in (
                ("secret", own.secret_env, own.secret_file),
                ("assertion", own.assertion_env, own.assertion_file),
                ("idp_secret", own.idp_secret_env, own.idp_secret_file),
            ):
                if variable:
                    yield f"{part}.{name}.auth.{word}_env", "env", variable
                if file is not None:
                    yield f"{part}.{name}.auth.{word}_file", "file", str(file)


def _unmakeable(place: Path) -> str:
    """Return why a directory of ours could not be made or written, "" when it could."""
    near = place
    while not near.exists() and near != near.parent:
        near = near.parent
    if not near.is_dir():
        return f"{near} is not a directory"
    return "" if os.access(near, os.W_OK | os.X_OK) else f"{near} cannot be written by this user"


def show(given: argparse.Namespace) -> int:
    """Print the configuration in force, defaults included. It holds no secret: those are named, not written."""
    import yaml

    document = load_config(given).model_dump(mode="json")
    emit(given, document, yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
    return 0
