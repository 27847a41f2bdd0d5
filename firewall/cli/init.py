"""``bartizan init``: write a commented bartizan.yaml to start from."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Final

from firewall.cli.output import emit
from firewall.core.errors import ConfigFault

TEMPLATE: Final = """\
# Bartizan's configuration. Every key: docs/configuration.md. Check it: bartizan config check --config {name}
# For completion in editors: bartizan config schema > bartizan.schema.json
# yaml-language-server: $schema=./bartizan.schema.json
version: 1

# The origin that clients use. It is also the issuer of tokens: choose it once. https, or http on loopback.
public_url: {public_url}

# Keys, users, pins and the audit log. Only its owner may read it.
state_dir: ~/.local/state/bartizan

listeners:
  data:
    host: 127.0.0.1
    port: {port}
    # tls: {{cert: /etc/bartizan/cert.pem, key: /etc/bartizan/key.pem}}
  admin:
    host: 127.0.0.1
    port: {admin_port}

# MCP servers. Agents connect to <public_url>/mcp/<name>.
# mcp:
#   notes:
#     url: https://notes.internal.example/mcp
#     network: private              # the one class of address it may resolve to
#     trust: untrusted              # its texts mark the context of whoever reads them
#     pins: strict                  # every definition waits for a person; tofu trusts clean ones at first contact
#     tools: {{list_notes: read, write_note: write, send_note: send}}
#     credential: {{env: NOTES_TOKEN}}   # what we present; the agent's own token never leaves us
#   git:
#     command: [python3, -m, mcp_server_git, --repository, /srv/repository]
#     read: [/srv/repository]       # it sees nothing else of this machine

# A2A agents. Agents connect to <public_url>/a2a/<name>.
# a2a:
#   travel:
#     card_url: https://travel.example/.well-known/agent-card.json
#     keys: {{keys: []}}              # JWK Set; one of them must have signed the card

# Language models at <public_url>/v1.
# llm:
#   providers:
#     openai: {{base_url: https://api.openai.com/v1, credential: {{env: OPENAI_API_KEY}}}}
#   models:
#     fast: {{provider: openai, model: gpt-4o-mini, input_usd: 0.15, output_usd: 0.6}}

limits:
  calls_per_minute: 600             # per caller
  usd_per_day: 20

audit:
  durability: batch                 # disk waits for fdatasync before anything is forwarded

policy:
  engine: regorus                   # or opa-server
  # bundle: /etc/bartizan/policies  # your own; the packaged rules without it
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("path", type=Path, nargs="?", default=Path("bartizan.yaml"))
    parser.add_argument("--public-url", default="http://127.0.0.1:8700", help="the origin that clients use")
    parser.add_argument("--port", type=int, default=8700, help="of the data listener")
    parser.add_argument("--admin-port", type=int, default=8701, help="of the listener for people")


def run(given: argparse.Namespace) -> int:
    """Write the file, checked before; one that is there is never replaced."""
    import yaml

    from firewall import config

    text = TEMPLATE.format(
        name=given.path.name, public_url=given.public_url, port=given.port, admin_port=given.admin_port
    )
    config.build(yaml.safe_load(text))
    try:
        with os.fdopen(os.open(given.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "w") as out:
            out.write(text)
    except FileExistsError:
        raise ConfigFault("config_exists", f"{given.path} is there already", fix="name another file") from None
    except OSError as error:
        raise ConfigFault("config_unwritable", f"{given.path}: {error.strerror}") from None
    emit(given, {"path": str(given.path)}, f"{given.path} is written. Next: bartizan up --config {given.path}")
    return 0
