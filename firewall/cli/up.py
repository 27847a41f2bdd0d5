"""``bartizan up``: serve in the foreground. Without a configuration file, a demonstration on loopback."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from firewall.cli import demo as demonstration
from firewall.cli.arguments import Usage
from firewall.cli.faults import say_fault
from firewall.cli.output import safe
from firewall.core.errors import BartizanError, ConfigFault, Conflict

if TYPE_CHECKING:
    from firewall.config import Config
    from firewall.worker import Worker

DEMO_STATE = Path("~/.local/state/bartizan-demo")


def demo_state(given: argparse.Namespace) -> Path:
    """Return where the demonstration keeps its state: --state-dir, BARTIZAN_STATE_DIR, or the user's own place."""
    return Path(given.state_dir or os.environ.get("BARTIZAN_STATE_DIR") or DEMO_STATE).expanduser()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--host", help="address of both listeners (demonstration only; 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port for agents; 0 takes a free one (demonstration only; 8700)")
    parser.add_argument("--admin-port", type=int, help="port for people (demonstration only; 8701)")
    parser.add_argument("--workers", type=int, default=0, help="processes, instead of what the file says")


def run(given: argparse.Namespace) -> int:
    """Serve until Ctrl-C; return the exit code."""
    say = partial(_say, time.monotonic())
    from firewall import config as configuration
    from firewall.cli.context import load_config

    demo = None
    if given.config is not None and (given.host, given.port, given.admin_port) != (None,) * 3:
        raise Usage("up_options", "with a file, addresses and ports stand in it", fix="see `listeners` there")
    if given.config is None:
        say("no configuration file: this is the demonstration (nothing here is for production)")
        demo = demonstration.start(
            demo_state(given),
            host=given.host or "127.0.0.1",
            port=8700 if given.port is None else given.port,
            admin_port=8701 if given.admin_port is None else given.admin_port,
            say=say,
        )
    try:
        if demo is not None:
            settings = configuration.build(demo.config)
        else:
            settings = load_config(given)
        if given.workers:
            settings = settings.model_copy(update={"workers": given.workers})
        say("loading policy and patterns")
        _say_test(settings, say)
        from firewall import parent

        # It is called in a worker's process: what belongs to this one (children, a directory) stays here.
        told = replace(demo, children=[], scratch=None) if demo is not None else None
        ready = partial(_ready, settings, given, told, say)
        if demo is None:
            stands = f"  bartizan config check --config {given.config}     says where that stands"
            parent.become(settings, on_ready=ready, on_fault=say_fault, advice=safe(stands))
        return parent.run(settings, on_ready=ready, on_fault=say_fault)  # the demonstration ends after it
    finally:
        if demo is not None:
            demo.stop()


def _say_test(config: Config, say: Callable[[str], None]) -> None:
    """Say that a bundle of one's own is about to be tested, when it is: else the wait looks like a standstill."""
    bundle = config.policy.bundle
    if bundle is None:
        return
    from firewall.decide.bundle import awaits_test
    from firewall.nucleus import Paths

    try:
        waits = awaits_test(bundle, state_dir=Paths(config.state).cache)
    except ConfigFault:
        return  # the start itself tells it, and ends
    if waits:
        say(f"testing the bundle {safe(str(bundle))} once, about two minutes: changed inputs at every rule")
        say("  (`bartizan policy check --write` keeps the verdict beside the bundle, before a start)")


def _say(started: float, text: str) -> None:
    print(f"  {time.monotonic() - started:5.1f} s  {text}", file=sys.stderr, flush=True)


async def _ready(
    config: Config,
    given: argparse.Namespace,
    demo: demonstration.Demo | None,
    say: Callable[[str], None],
    worker: Worker,
    ports: dict[str, int],
) -> None:
    """Show the screen, once all workers listen. A module-level function: the first worker's process calls it."""
    say("listening")
    if demo is not None:
        await _demo_user(worker, demo)
        demo.facts["audit_vkeys"] = [worker.audit.vkey]
        demo.write_facts()
    print(_screen(worker, config, ports, demo, given), flush=True)


async def _demo_user(worker: Worker, demo: demonstration.Demo) -> None:
    """Make the tour's own user; it may use every upstream and nothing of the administration."""
    try:
        await worker.identity.users.create(
            demonstration.TOUR_USER,
            str(demo.facts["password"]),
            tenant=worker.config.tenant,
            roles=("demo",),
            scopes=("*",),
        )
    except Conflict:
        pass  # it is there from an earlier start, with the password of the same file


def _screen(
    worker: Worker, config: Config, ports: dict[str, int], demo: demonstration.Demo | None, given: argparse.Namespace
) -> str:
    """Return the one screen that a newcomer reads."""
    url = config.public_url
    scheme = "https" if config.listeners.admin.tls else "http"
    admin = f"{scheme}://{config.listeners.admin.host}:{ports.get('admin', config.listeners.admin.port)}"
    rows = [("MCP", f"{url}/mcp/{name}", server.title) for name, server in config.mcp.items()]
    if config.mcp:
        rows.append(("MCP", f"{url}/mcp", "all of them, as <server>__<tool>"))
    rows += [("A2A", f"{url}/a2a/{name}", agent.title) for name, agent in config.a2a.items()]
    if config.llm.models:
        rows.append(("LLM", f"{url}/v1", f"models: {', '.join(config.llm.models)}"))
    rows.append(("People", f"{admin}/", "live decisions, first sign-in"))
    width = max(len(where) for _, where, _ in rows)
    lines = ["", "Bartizan is up.", ""]
    lines += [f"  {what:<7} {where:<{width}}  {title}".rstrip() for what, where, title in rows]
    lines.append("")
    lines += _first_contact(worker, config, admin)
    lines += [f"  Policy  {worker.bundle.revision[:19]}  {worker.bundle.mode}" + _why(worker)]
    lines += _cages(worker)
    if demo is not None:
        state = demo_state(given)
        own = ".venv/bin/bartizan" + ("" if state == DEMO_STATE.expanduser() else f" --state-dir {state}")
        lines += ["", "Connect a client:", "", *_tried(url, own, state), *_untried(url, next(iter(config.mcp)), own)]
        lines.append(
            "                 (these three sign in with a browser; the demonstration is plain http on loopback)"
        )
        lines += ["", "Next, in a second terminal:", "", f"  {own} tour"]
    elif config.mcp:
        name = next(iter(config.mcp))
        lines += ["", "Connect a client:", "", *_untried(url, name, "bartizan")]
        lines += [
            "  any other      a key for five minutes; --watch renews it",
            f"                 bartizan --config {given.config} token --resource /mcp/{name}",
        ]
    lines += ["", "Ctrl-C stops everything."]
    return "\n".join(lines)


def _why(worker: Worker) -> str:
    return f" ({worker.bundle.why})" if worker.bundle.mode != "compiled" else ""


def _first_contact(worker: Worker, config: Config, admin: str) -> list[str]:
    from firewall.identity.people.first_contact import announce

    try:
        code = worker.identity.first_contact.open()
    except BartizanError:
        return []
    if code is None:
        return []
    path = worker.identity.first_contact.file
    assert path is not None
    where = announce(code, f"{admin}/first", terminal=sys.stdout, path=path)
    return [] if where == "terminal" else [f"  First user: the one-time code is in {where}", ""]


def _cages(worker: Worker) -> list[str]:
    missing = {name: walls for name, walls in worker.mcp.sandbox_missing.items() if walls}
    if not missing:
        return []
    walls = sorted({wall for found in missing.values() for wall in found})
    return [
        f"  Note    local programs run without: {', '.join(walls)} (this kernel lacks it; `bartizan doctor` says more)"
    ]


def _tried(url: str, own: str, state: Path) -> list[str]:
    """Return what can be pasted into a second terminal; the tour drives the same client libraries."""
    ask = (
        "from openai import OpenAI; "
        'print(OpenAI().chat.completions.create(model="demo", messages=[{"role": "user", "content": "hello"}])'
        ".choices[0].message.content)"
    )
    message = (
        "from anthropic import Anthropic; "
        'print(Anthropic().messages.create(model="demo-messages", max_tokens=200, '
        'messages=[{"role": "user", "content": "hello"}]).content[0].text)'
    )
    return [
        "  mcp (Python)   tried by `bartizan tour`",
        f"                 .venv/bin/python examples/client.py {url}/mcp/time get_current_time "
        """'{"timezone": "Europe/Vienna"}'""",
        f"                 (signs in with your browser: user {demonstration.TOUR_USER}, "
        f"password in {state / 'demo-password'})",
        "  openai         tried by `bartizan tour`",
        f"                 OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY=$({own} token --resource /v1) \\",
        f"                   .venv/bin/python -c '{ask}'",
        "  anthropic      tried by `bartizan tour`",
        f"                 ANTHROPIC_BASE_URL={url} ANTHROPIC_API_KEY=$({own} token --resource /v1) \\",
        f"                   .venv/bin/python -c '{message}'",
    ]


def _seen(client: str) -> str:
    """Return whether anybody tried a client, as `bartizan connect --list` says it."""
    from firewall.cli.clients import CLIENTS

    version, colon, _ = CLIENTS[client].tried.partition(":")
    return f"tried by hand with {version}" if colon else "not tried"


def _untried(url: str, name: str, own: str) -> list[str]:
    """Return configuration for clients that no command of ours drives."""
    return [
        f"  Claude Code    {_seen('claude')}",
        f"                 claude mcp add --transport http {name} {url}/mcp/{name}",
        f"  Cursor         {_seen('cursor')} (~/.cursor/mcp.json)",
        f'                 {{"mcpServers": {{"{name}": {{"url": "{url}/mcp/{name}"}}}}}}',
        f"  VS Code        {_seen('vscode')} (.vscode/mcp.json)",
        f'                 {{"servers": {{"{name}": {{"type": "http", "url": "{url}/mcp/{name}"}}}}}}',
        f"  any of them    written for you, after a look: {own} connect CLIENT {url}/mcp/{name}",
    ]
