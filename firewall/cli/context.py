"""Which node a command is about, and how to ask it: the operator's unix socket, without a password."""

from __future__ import annotations

import argparse
import http.client
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import orjson

from firewall.cli.guarding import run_state
from firewall.cli.up import demo_state
from firewall.core.errors import BartizanError, ConfigFault

if TYPE_CHECKING:
    from firewall.config import Config

SOCKET = "admin.sock"
ASK_S = 30.0
NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


class NotRunning(BartizanError):
    """No node serves this state directory: exit 3."""


def load_config(given: argparse.Namespace) -> Config:
    """Return the configuration that is meant: the file's, else the demonstration's. Raises ConfigFault."""
    from firewall import config as configuration

    if given.config is not None:
        found = configuration.load(given.config)
        return found.model_copy(update={"state_dir": given.state_dir}) if given.state_dir else found
    state = state_of(given)
    raw: dict[str, Any] = {"state_dir": str(state), "demo": True}
    facts = state / "demo.json"
    if facts.is_file():
        told = orjson.loads(facts.read_bytes())
        raw["public_url"] = told["public_url"]
        for name, url in (("data", told["public_url"]), ("admin", told["admin_url"])):
            parts = urlsplit(url)
            raw.setdefault("listeners", {})[name] = {"host": parts.hostname, "port": parts.port}
    return configuration.build(raw)


def state_of(given: argparse.Namespace) -> Path:
    """Return the state directory that is meant. Raises ConfigFault."""
    if given.state_dir is not None:
        return Path(given.state_dir).expanduser()
    if getattr(given, "guarded", None):
        return _run_state(given.guarded)
    if given.config is not None:
        return load_config(given).state
    return demo_state(given)


def _run_state(name: str) -> Path:
    """Return where `bartizan run` keeps the state of a name. Raises ConfigFault("run_unknown")."""
    if not set(name) <= NAME_CHARS:
        raise ConfigFault("run_unknown", "a run's name is lower-case letters, digits and hyphens")
    found = run_state(name)
    if not found.is_dir():
        root = found.parent
        there = (
            sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.endswith("-children"))
            if root.is_dir()
            else []
        )
        told = f"there are: {', '.join(there[:20])}" if there else "nothing ran yet"
        raise ConfigFault("run_unknown", f"nothing ran under the name {name}; {told}", fix="bartizan run -- CMD")
    return found


class Node:
    """A running node, asked over its unix socket."""

    def __init__(self, given: argparse.Namespace) -> None:
        self._path = state_of(given) / SOCKET
        self._run = getattr(given, "guarded", None) and given.state_dir is None
        self._tenant = getattr(given, "tenant", "")

    def running(self) -> bool:
        """Return whether anybody listens."""
        try:
            self._connect().close()
        except NotRunning:
            return False
        return True

    def get(self, path: str, **query: object) -> dict[str, Any]:
        """Return the answer to a question. Raises NotRunning, BartizanError as the node told it."""
        return self._ask("GET", path, None, query)

    def post(self, path: str, body: object = None) -> dict[str, Any]:
        """Have something done. Raises NotRunning, BartizanError as the node told it."""
        return self._ask("POST", path, {} if body is None else body, {})

    def _ask(self, method: str, path: str, body: object, query: dict[str, object]) -> dict[str, Any]:
        asked = {name: value for name, value in {**query, "tenant": self._tenant}.items() if value not in ("", None)}
        target = f"/api/v1/{path}" + (f"?{urlencode(asked)}" if asked else "")
        data = orjson.dumps(body) if body is not None else None
        if self._run and not self.running():
            return _told(*self._without_a_run(method, target, data))
        connection = http.client.HTTPConnection("localhost")
        connection.sock = self._connect()
        try:
            headers = {"content-type": "application/json"} if body is not None else {}
            connection.request(method, target, data, headers)
            answer = connection.getresponse()
            said = answer.read()
            orjson.loads(said)
        except (OSError, http.client.HTTPException, orjson.JSONDecodeError) as error:
            raise NotRunning(
                "not_answering", f"the node broke off: {type(error).__name__}", fix="see its own messages"
            ) from None
        finally:
            connection.close()
        return _told(answer.status, said)

    def _without_a_run(self, method: str, target: str, data: bytes | None) -> tuple[int, bytes]:
        """Ask a run's state itself: a run lives as long as its client, its pins stay."""
        import asyncio

        from firewall import run_state as between
        from firewall.nucleus import Paths

        state = self._path.parent
        return asyncio.run(between.ask_desk(Paths(state, state.parent.parent / "cache"), method, target, data))

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(ASK_S)
        try:
            sock.connect(str(self._path))
        except OSError as error:
            sock.close()
            why = "belongs to another user" if isinstance(error, PermissionError) else "nobody serves it"
            raise NotRunning(
                "not_running",
                f"{self._path}: {why}",
                fix="start it with `bartizan up`, or name the right one with --config or --state-dir",
            ) from None
        return sock


def _told(status: int, said: bytes) -> dict[str, Any]:
    """Return an answer of the admin API. Raises BartizanError as it was told."""
    told = orjson.loads(said)
    if status >= 400:
        raise BartizanError(str(told.get("error", "failed")), str(told.get("detail", "")), fix=str(told.get("fix", "")))
    return dict(told)
