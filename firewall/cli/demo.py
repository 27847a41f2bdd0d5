"""The demonstration that ``bartizan up`` serves when there is no configuration file.

Real upstreams on this machine: the published MCP servers for time, git and fetch as caged children,
an MCP server and an A2A agent built on the official SDKs, and a model provider: the real one when its
key is in the environment, else a small deterministic one from ``examples/``. Everything listens on
loopback. The facts that ``bartizan tour`` needs are in ``demo.json``, readable by the owner only.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from firewall.core.errors import ConfigFault
from firewall.net.scratch import Scratch

TOUR_CLIENT: Final = "https://tour.bartizan.example/client.json"
TOUR_REDIRECT: Final = "http://127.0.0.1:53682/callback"
TOUR_USER: Final = "demo"
START_S: Final = 20.0
_PR_SET_PDEATHSIG: Final = 1


@dataclass
class Demo:
    """The children of a demonstration and the configuration that puts the firewall in front of them."""

    state: Path
    config: dict[str, Any]
    facts: dict[str, Any]
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)
    scratch: Scratch | None = None

    def write_facts(self) -> None:
        """Write ``demo.json`` (0600)."""
        path = self.state / "demo.json"
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            json.dump(self.facts, out, indent=2)

    def stop(self) -> None:
        """End every child: a polite signal to its group, then a kill; at most a second."""
        for child in self.children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
        until = time.monotonic() + 0.8
        for child in self.children:
            try:
                child.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        if self.scratch is not None:
            self.scratch.close()


def examples_directory() -> Path:
    """Return where the demonstration's own servers are. Raises ConfigFault("demo_examples")."""
    path = Path(__file__).resolve().parents[2] / "examples"
    if not (path / "demo_mcp_server.py").is_file():
        raise ConfigFault(
            "demo_examples",
            "the demonstration needs the examples/ of a source checkout",
            fix="clone the repository and run `make run`, or give a configuration file with --config",
        )
    return path


def start(state: Path, *, host: str, port: int, admin_port: int, say: Callable[[str], None]) -> Demo:
    """Start the demonstration's upstreams and return it. Raises ConfigFault; ends what it started then."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigFault(
            "state_dir", f"{state}: {error.strerror}", fix="name a directory that you may write: --state-dir DIR"
        ) from None
    port, admin_port = port or _free_port(), admin_port or _free_port()
    for number in (port, admin_port):
        _expect_free(host, number)
    demo = Demo(state, {}, {})
    try:
        say("starting the demonstration's upstreams")
        notes = _child(demo, "demo_mcp_server.py", "--control-port", "0")
        agent = _child(demo, "demo_a2a_agent.py", "--key-file", str(state / "demo-agent.pem"))
        provider = _provider(demo, say)
        demo.scratch = Scratch("demonstration")
        repository = _repository(demo.scratch.path / "repository")
    except BaseException:
        demo.stop()
        raise
    password = _password(state)
    demo.config = {
        "version": 1,
        "demo": True,
        "public_url": f"http://{host}:{port}",
        "state_dir": str(state),
        "listeners": {"data": {"host": host, "port": port}, "admin": {"host": host, "port": admin_port}},
        "identity": {
            "cimd": {
                "pinned": {
                    TOUR_CLIENT: {
                        "client_id": TOUR_CLIENT,
                        "client_name": "Bartizan tour",
                        "client_uri": "https://tour.bartizan.example",
                        "redirect_uris": [TOUR_REDIRECT],
                        "grant_types": ["authorization_code", "refresh_token"],
                        "response_types": ["code"],
                        "token_endpoint_auth_method": "none",
                    }
                }
            }
        },
        "mcp": {
            "time": {
                "command": [sys.executable, "-m", "mcp_server_time"],
                "title": "mcp-server-time (stdio)",
                "trust": "trusted",
                "tools": {"get_current_time": "read", "convert_time": "read"},
                "read": _python_paths(),
            },
            "git": {
                "command": [sys.executable, "-m", "mcp_server_git", "--repository", str(repository)],
                "title": "mcp-server-git (stdio, scratch repository)",
                "tools": dict.fromkeys(("git_status", "git_log", "git_diff", "git_show", "git_branch"), "read"),
                "read": _python_paths(),
                "write": [str(repository)],
            },
            "fetch": {
                "command": [sys.executable, "-m", "mcp_server_fetch"],
                "title": "mcp-server-fetch (stdio)",
                "tools": {"fetch": "read"},
                "read": _python_paths(),
            },
            "notes": {
                "url": notes["url"],
                "network": "loopback",
                "title": "Notes, on the official SDK (Streamable HTTP)",
                "tools": {
                    "list_notes": "read",
                    "read_page": "read",
                    "write_note": "write",
                    "send_note": "send",
                    "delete_all": "destroy",
                },
            },
        },
        "a2a": {
            "echo": {
                "card_url": agent["card_url"],
                "keys": agent["jwks"] if "jwks" in agent else {"keys": [agent["jwk"]]},
                "network": "loopback",
                "title": "Echo agent on a2a-sdk",
                "public_card": True,
            }
        },
        "llm": provider,
    }
    demo.facts = {
        "public_url": demo.config["public_url"],
        "admin_url": f"http://{host}:{admin_port}",
        "user": TOUR_USER,
        "password": password,
        "client_id": TOUR_CLIENT,
        "redirect_uri": TOUR_REDIRECT,
        "repository": str(repository),
        "notes_control": notes["control_url"],
        "agent_control": agent["control_url"],
        "agent_keys": demo.config["a2a"]["echo"]["keys"],
        "model": "demo",
        "messages_model": "demo-messages",
    }
    return demo


def _provider(demo: Demo, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the models by both protocols: each the real provider's where its key is set, else the local one's."""
    providers: dict[str, Any] = {}
    models: dict[str, Any] = {}
    local: dict[str, Any] = {}
    for alias, (title, variable, provider, model) in _MODELS.items():
        protocol = provider["protocol"]
        name = protocol if os.environ.get(variable) else f"demo-{protocol}"
        if os.environ.get(variable):
            say(f"using the {title} API with the key of the environment")
        else:
            local = local or _child(demo, "demo_provider.py")
            provider = {"base_url": local["url"], "protocol": protocol, "network": "loopback"}
            model = {**model, "model": "demo-small"}
        providers[name] = provider
        models[alias] = {"provider": name, **model}
    return {"providers": providers, "models": models}


# Alias → whose API, the variable with its key, the provider, its model.
_MODELS: Final[dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]]] = {
    "demo": (
        "OpenAI",
        "OPENAI_API_KEY",
        {
            "base_url": "https://api.openai.com/v1",
            "protocol": "openai",
            "trust": "untrusted",
            "credential": {"env": "OPENAI_API_KEY"},
        },
        {"model": "gpt-4o-mini", "input_usd": 0.15, "output_usd": 0.6},
    ),
    "demo-messages": (
        "Anthropic",
        "ANTHROPIC_API_KEY",
        {
            "base_url": "https://api.anthropic.com/v1",
            "protocol": "anthropic",
            "trust": "untrusted",
            "credential": {"env": "ANTHROPIC_API_KEY", "header": "x-api-key", "scheme": ""},
        },
        {"model": "claude-haiku-4-5", "input_usd": 1.0, "output_usd": 5.0},
    ),
}


def _child(demo: Demo, script: str, *arguments: str) -> dict[str, Any]:
    """Start one of ``examples/``; it prints one line of JSON when it listens."""
    log = (demo.state / f"{script.removesuffix('.py')}.log").open("wb")
    child = subprocess.Popen(
        [sys.executable, str(examples_directory() / script), "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=log,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # safe: we have no threads yet
    )
    log.close()
    demo.children.append(child)
    assert child.stdout is not None
    line = b""
    until = time.monotonic() + START_S
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([child.stdout], [], [], max(0.0, until - time.monotonic()))
        more = os.read(child.stdout.fileno(), 65536) if ready else b""
        if not more:
            raise ConfigFault("demo_child", f"{script} did not start", fix=f"see {log.name}")
        line += more
    found: dict[str, Any] = json.loads(line)
    return found


def _end_with_parent() -> None:
    """Let the kernel end this child when its parent is gone, however that ended."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _repository(path: Path) -> Path:
    """Make the scratch repository that mcp-server-git serves: not below a home, which may be a protected path."""
    path.mkdir(mode=0o700)
    (path / "README.md").write_text("# Scratch\n\nA repository for the demonstration.\n")
    who = ("-c", "user.name=Bartizan", "-c", "user.email=demo@bartizan.example")
    for command in (("init", "-q", "-b", "main"), ("add", "README.md"), (*who, "commit", "-q", "-m", "first note")):
        subprocess.run(["git", *command], cwd=path, check=True, capture_output=True, timeout=20)
    return path


def _password(state: Path) -> str:
    """Return the demo user's password: made once, kept in a file of the owner's."""
    path = state / "demo-password"
    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(secrets.token_urlsafe(24))
    return path.read_text()


def _python_paths() -> list[str]:
    """Return what a Python child must be able to read: the interpreter's and the environment's trees."""
    paths = {sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parent.parent)}
    return sorted(paths)


def _expect_free(host: str, port: int) -> None:
    """Raise ConfigFault("listen") where somebody listens, before anything is started for nothing."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigFault(
                "listen",
                f"cannot bind {host} port {port}: {error.strerror}",
                fix="stop what uses it, or take two that are free: make run ARGS='--port 0 --admin-port 0'",
            ) from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
