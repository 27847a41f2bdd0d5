"""Shared pieces of the audit tests: real writers over real directories."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from firewall.net.runtime import FakeClock, RandomIds
from firewall.record.audit import AuditWriter, Settings

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def decision(n: int = 0, **more: Any) -> dict[str, Any]:
    """A decision record as the guard writes it."""
    return {
        "v": 1,
        "kind": "decision",
        "phase": "intent",
        "point": "mcp.tool.call",
        "tenant": "acme",
        "exchange": f"x_{n}",
        "decision_id": f"d_{n}",
        "subject": "user:alice",
        "client": "planner",
        "chain": [{"sub": "user:alice", "type": "user"}],
        "upstream": "git",
        "action": {
            "proto": "mcp",
            "version": "2026-07-28",
            "method": "tools/call",
            "resource": "git/status",
            "side_effect": True,
        },
        "args": {"hmac": "h:00", "bytes": 412},
        "fault": "",
        "decision": {
            "effect": "allow",
            "risk": 0,
            "rules": ["tools.granted"],
            "owasp": ["ASI02"],
            "obligations": [],
            "shadow": [],
            "policy": "git:1a2b3c",
            "engine": "regorus/0.13.0",
            "eval_us": 18,
        },
        **more,
    }


def outcome(n: int = 0) -> dict[str, Any]:
    """The record that closes an exchange."""
    return {
        "v": 1,
        "kind": "outcome",
        "phase": "outcome",
        "tenant": "acme",
        "exchange": f"x_{n}",
        "subject": "user:alice",
        "client": "planner",
        "upstream": "git",
        "outcome": {"result": "ok", "error": "", "duration_us": 900, "bytes_in": 412, "bytes_out": 99, "intent": ""},
    }


Make = Callable[..., AuditWriter]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Open writers on a directory; all of them are closed at the end."""
    opened: list[AuditWriter] = []

    def writer(directory: Path | None = None, **settings: Any) -> AuditWriter:
        more = {name: settings.pop(name) for name in ("on_fault", "clock", "key", "older") if name in settings}
        made = AuditWriter(
            directory or tmp_path / "audit",
            more.pop("key", KEY),
            more.pop("clock", FakeClock()),
            RandomIds(),
            hmac_key=b"h" * 32,
            settings=Settings(
                **{"deployment": "fw.example", "node": "n1", "checkpoint_s": 0.05, "anchor_s": 0.05, **settings}
            ),
            **more,
        )
        opened.append(made)
        return made

    yield writer
    for one in opened:
        one.close()
