"""``bartizan init``: write a commented bartizan.yaml to start from."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Final

from firewall.cli.output import emit
from firewall.core.errors import ConfigFault

NAME: Final = "bartizan.yaml"
STATE_DIR: Final = "~/.local/state/bartizan"

TEMPLATE: Final = """\
# Bartizan's configuration: what stands between your agents and what they can reach.
# Every key: docs/configuration.md. A key that is unknown or written twice is an error.
# Check this file with: bartizan config check --config {name}
# Check the machine with: bartizan --config {name} doctor
# Start with: bartizan --config {name} up
# Secrets are never written here: name a variable or a file.
# For completion in editors: bartizan config schema > bartizan.schema.json
# yaml-language-server: $schema=./bartizan.schema.json

# The version of this file's form.
version: 1

# The origin that agents use. It is also the issuer of tokens, so choose it once: https, or http on loopback.
public_url: {public_url}

# Keys, users, pins, flow labels and the audit log; made at the first start, readable by its owner alone.
# Give it to no server below: a local program whose paths reach it is refused.
state_dir: {state_dir}

# Where it listens.
listeners:
  # Agents connect here.
  data:
    host: 127.0.0.1                 # another address needs tls, and public_url to match
    port: {port}
    # tls: {{cert: /etc/bartizan/cert.pem, key: /etc/bartizan/key.pem}}
  # People connect here: live decisions, approvals, metrics. Never the same port as agents.
  admin:
    host: 127.0.0.1
    port: {admin_port}

# MCP servers. Agents connect to <public_url>/mcp/<name>, or to <public_url>/mcp for all of them.
mcp:
  # EDIT THIS: the name stands in the endpoint's path and in its scopes (a-z, 0-9, single hyphens).
  example:
    # A server with an address: its Streamable HTTP endpoint.
    url: https://mcp.example.com/mcp
    # The one class of address it may resolve to: public, private or loopback. Anything else is refused.
    network: public
    # Nobody vouches for its texts: they mark the context of the agent that read them, and what such an
    # agent may still do is decided by policy. trusted only for servers that repeat nothing of strangers.
    trust: untrusted
    # tofu pins what first contact shows and stops what changes later; strict waits for you from the start.
    pins: tofu
    # What each tool does; a tool that is not named counts as write. send, pay, exec, admin and destroy are
    # stopped, or ask a person, once the agent has read untrusted text.
    tools:
      search: read
      send_message: send
    # What we present to it. An agent's own token never leaves us.
    # credential: {{env: EXAMPLE_TOKEN}}
    # Questions that it may put to the agent's side; none without this.
    # asks: [elicitation]

  # A server that is a program on this machine: started here, in a cage, without your environment.
  # files:
  #   command: [/usr/local/bin/npx, -y, "@modelcontextprotocol/server-filesystem", /srv/notes]
  #   write: [/srv/notes]             # it reads and writes this, reads system libraries, and sees nothing else
  #   tools: {{read_text_file: read, write_file: write, move_file: destroy}}

# A2A agents, at <public_url>/a2a/<name>. One of the keys must have signed the card.
# a2a:
#   travel:
#     card_url: https://travel.example/.well-known/agent-card.json
#     keys: {{keys: []}}

# Language models, at <public_url>/v1; prices in US dollars per million tokens.
# llm:
#   providers:
#     openai: {{base_url: https://api.openai.com/v1, credential: {{env: OPENAI_API_KEY}}}}
#   models:
#     fast: {{provider: openai, model: gpt-4o-mini, input_usd: 0.15, output_usd: 0.6}}

# Who may sign in, and which programs may ask them. People: `bartizan users add NAME`, or the one-time code that the first
# start prints. Programs: those that people use describe themselves by a document (CIMD) at one of these hosts.
identity:
  passwords: "on"                   # "off": only the providers below
  access_token_s: 300               # of a token; programs renew it by themselves
  # Where people sign in besides. Its callback there is <public_url>/callback/corp; docs/identity-providers.md.
  # providers:
  #   corp:
  #     issuer: https://idp.example.com
  #     client_id: bartizan
  #     client_secret: env:CORP_SECRET
  #     roles: {{platform: operator}}     # their group: our role, at each sign-in
  # Programs that have no document: one that people use, and one that works by itself. Or, while it runs:
  # bartizan clients add NAME
  # clients:
  #   desktop: {{redirect_uris: ["http://127.0.0.1/callback"], scopes: ["example:*"]}}
  #   nightly: {{grants: [client_credentials], scopes: ["example:read"], jwks_uri: "https://jobs.example.com/jwks"}}
  # Hosts whose documents are taken, in place of those that are known to us.
  # cimd: {{hosts: [app.example.com]}}

# Ceilings of one caller: an agent in a loop costs no more than this.
limits:
  calls_per_minute: 600             # more are refused, with the time to wait
  usd_per_day: 20                   # of language models

# Every decision is recorded, with proofs; `bartizan audit` reads and checks the log.
audit:
  durability: batch                 # disk: nothing is forwarded before its record is on the disk
  # directory: /var/log/bartizan    # in the state directory without this

# Who may do what, in Rego.
policy:
  engine: regorus                   # embedded; or opa-server
  # bundle: /etc/bartizan/policies  # your own rules; the shipped ones without this
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "path", type=Path, nargs="?", default=Path(), metavar="DIR", help="where; a file's name does too"
    )
    parser.add_argument("--force", action="store_true", help="replace a file that is there; it is kept beside, as .bak")
    parser.add_argument("--public-url", default="", help="the origin that agents use (http://127.0.0.1 and the port)")
    parser.add_argument("--port", type=int, default=8700, help="of the listener for agents (8700)")
    parser.add_argument("--admin-port", type=int, default=8701, help="of the listener for people (8701)")


def run(given: argparse.Namespace) -> int:
    """Write the file, checked before; one that is there is replaced with --force only. Nothing is asked."""
    import yaml

    from firewall import config

    path: Path = given.path if given.path.suffix in (".yaml", ".yml") else given.path / NAME
    text = TEMPLATE.format(
        name=path.name,
        public_url=given.public_url or f"http://127.0.0.1:{given.port}",
        port=given.port,
        admin_port=given.admin_port,
        # JSON is YAML: a path with a space or a hash stays one word.
        state_dir=json.dumps(str(given.state_dir.absolute())) if given.state_dir else STATE_DIR,
    )
    config.build(yaml.safe_load(text))
    kept = _keep(path) if given.force else None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644), "w") as out:
            out.write(text)
    except FileExistsError:
        raise ConfigFault(
            "config_exists", f"{path} is there already", fix="name another place, or --force to replace it"
        ) from None
    except OSError as error:
        raise ConfigFault("config_unwritable", f"{path}: {error.strerror}") from None
    lines = [
        f"{path} is written." + (f" The one before is {kept}." if kept else ""),
        "Next:",
        f"  1. edit `mcp` in {path}: your first server in place of `example`",
        f"  2. bartizan config check --config {path}",
        f"  3. bartizan --config {path} up",
        f"  4. bartizan --config {path} connect --list      then connect a client",
    ]
    emit(given, {"path": str(path), "backup": str(kept) if kept else None}, lines)
    return 0


def _keep(path: Path) -> Path | None:
    """Move a file that is there aside and return where it is. Raises ConfigFault."""
    if not path.exists():
        return None
    for number in range(1, 1000):
        kept = path.with_name(f"{path.name}.bak" if number == 1 else f"{path.name}.bak{number}")
        try:
            os.link(path, kept)
            path.unlink()
            return kept
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigFault("config_unwritable", f"{path}: {error.strerror}") from None
    raise ConfigFault("config_unwritable", f"{path}: too many backups", fix="remove old ones")
