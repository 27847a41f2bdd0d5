"""An admin room in one process: real parts, a clock that moves when told, and browsers that keep cookies."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from firewall import config as configuration
from firewall.admin import AdminParts, Definitions, build
from firewall.admin.serve import AdminApp
from firewall.core.errors import AuditUnavailable
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.ports import Receipt
from firewall.core.record_form import Filled
from firewall.decide import bundle as bundles
from firewall.decide.regorus import RegorusEngine
from firewall.enforce.admin_gate import AdminGate
from firewall.enforce.kill_switch import KillSwitch
from firewall.enforce.pins import Pins
from firewall.enforce.registry import Registry
from firewall.identity.rfc9068.rotation import KeyRotation
from firewall.identity.upstream.build import SEALED
from firewall.net.edge import Edge, EdgeSettings
from firewall.net.runtime import RandomIds
from firewall.record.audit import AuditWriter
from firewall.state.envelope import Envelopes
from firewall.state.keys import KeyRing
from firewall.state.resealing import EnvelopeRotation
from tests.support.door import PASSWORD, Door, inputs_of, make_door
from tests.support.kit import QuietTelemetry

HOST = "127.0.0.1:8701"
ORIGIN = f"http://{HOST}"
TENANT = "acme"
POLICY = bundles.read()
OWN = {"Origin": "null", "Sec-Fetch-Site": "same-origin"}  # what a form of ours says (UI-05)
SCRIPT = {"Origin": ORIGIN, "Sec-Fetch-Site": "same-origin"}  # and a script of ours


class Log:
    """A real audit log that can be made to refuse."""

    def __init__(self, directory: Path, clock: Any) -> None:
        self.writer = AuditWriter(directory, Ed25519PrivateKey.generate(), clock, RandomIds(), hmac_key=b"k" * 32)
        self.records: list[JSONObject] = []
        self.down = False

    def append(self, record: JSONObject | Filled) -> Receipt:
        if self.down:
            raise AuditUnavailable("audit_write")
        self.records.append(record.record() if isinstance(record, Filled) else record)
        return self.writer.append(record)

    async def durable(self, receipt: Receipt) -> None:
        await self.writer.durable(receipt)

    def hmac(self, tenant: str, value: bytes) -> str:
        return self.writer.hmac(tenant, value)

    def stats(self) -> dict[str, int | float]:
        return {**self.writer.stats(), "writable": 0 if self.down else 1}


@dataclass
class Room:
    app: AdminApp
    parts: AdminParts
    door: Door
    log: Log
    faults: list[tuple[str, str]] = field(default_factory=list)

    def http(self, address: str = "127.0.0.1") -> httpx2.AsyncClient:
        """Return a browser on the admin listener, behind its edge."""
        edge = Edge(self.app, EdgeSettings(frozenset({HOST}), frozenset({ORIGIN})))
        transport = httpx2.ASGITransport(app=edge, client=(address, 4000))
        return httpx2.AsyncClient(transport=transport, base_url=ORIGIN)

    def owner(self) -> httpx2.AsyncClient:
        """Return a client on the unix socket, as far as the application can tell."""

        async def operator(scope: Any, receive: Any, send: Any) -> None:
            await self.app.as_operator("uid:1000", scope, receive, send)

        return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=operator), base_url="http://localhost")

    async def person(self, role: str, name: str = "") -> Browser:
        """Add a person with a role and sign in."""
        name = name or role
        await self.door.identity.users.create(name, PASSWORD, tenant=TENANT, roles=(role,))
        browser = Browser(self.http())
        answer = await browser.sign_in(name)
        assert answer.status_code == 303, answer.text
        return browser

    def decided(self, **changes: JSON) -> str:
        """Record a decision as the guard does; return its record's id."""
        record: JSONObject = {
            "kind": "decision",
            "phase": "refused",
            "point": "mcp.tool.call",
            "tenant": TENANT,
            "exchange": f"x_{len(self.log.records)}",
            "decision_id": f"d_{len(self.log.records)}",
            "subject": "u_ada",
            "client": "https://app.example/client.json",
            "chain": [{"sub": "u_ada", "type": "user"}],
            "upstream": "time",
            "action": {
                "proto": "mcp",
                "version": "2026-07-28",
                "method": "tools/call",
                "resource": "time/now",
                "side_effect": False,
            },
            "args": {"hmac": "h:0", "bytes": 2},
            "fault": "denied",
            "decision": {
                "effect": "deny",
                "risk": 80,
                "rules": ["tools.pin_changed"],
                "owasp": ["ASI02"],
                "obligations": [],
                "shadow": [],
                "policy": "sha256:x",
                "engine": "regorus",
                "eval_us": 20,
            },
            **changes,
        }
        return self.log.append(record).uid


@dataclass
class Browser:
    """A signed-in person."""

    http: httpx2.AsyncClient

    async def sign_in(self, name: str, password: str = PASSWORD, **headers: str) -> httpx2.Response:
        return await self.http.post(
            "/sign-in", data={"username": name, "password": password}, headers={**OWN, **headers}
        )

    async def csrf(self) -> str:
        return inputs_of((await self.http.get("/stops")).text)["csrf"]

    async def post(self, path: str, values: dict[str, str], **headers: str) -> httpx2.Response:
        """Send a form of our own page, with the session's token unless ``csrf`` is given."""
        sent = {"csrf": await self.csrf(), **values}
        return await self.http.post(path, data=sent, headers={**OWN, **headers})

    async def api(self, path: str, body: JSON = None, **headers: str) -> httpx2.Response:
        """Post JSON as the console's script would."""
        sent = {"content-type": "application/json", "x-csrf-token": await self.csrf(), **SCRIPT, **headers}
        return await self.http.post(f"/api/v1/{path}", content=orjson.dumps(body), headers=sent)


def gate_of(bundle: bundles.Bundle, log: Log, door: Door) -> AdminGate:
    """Return a gate that asks a bundle on the strict interpreter."""
    return AdminGate(RegorusEngine(bundle, "interpreter"), log, QuietTelemetry(), door.clock, RandomIds())


def make_room(directory: Path, door: Door | None = None, **changes: Any) -> Room:
    """Return a room with one tenant and no people."""
    door = door or make_door()
    log = Log(directory / "audit", door.clock)
    config = configuration.build(
        {
            "state_dir": str(directory),
            "tenant": TENANT,
            "public_url": "https://fw.example",
            "listeners": {"data": {"port": 0}, "admin": {"port": 0}},
        }
    )
    faults: list[tuple[str, str]] = []
    values: dict[str, Any] = {
        "config": config,
        "version": "1.2.3",
        "clock": door.clock,
        "store": door.store,
        "marks": door.marks,
        "audit": log,
        "audit_stats": log.stats,
        "vkeys": (log.writer.vkey,),
        "identity": door.identity,
        "registry": Registry(door.store.collection("registry"), door.marks, door.clock, log.append),
        "pins": Pins(door.store.collection("pins"), door.marks, door.clock),
        "kill_switch": KillSwitch(door.store.collection("kill"), door.marks, door.clock),
        "policy": POLICY,
        "gate": gate_of(POLICY, log, door),
        "metrics": lambda: b"# HELP up Up.\nup 1\n",
        "definitions": Definitions(door.store.collection("definitions")),
        "on_fault": lambda code, detail: faults.append((code, detail)),
        **changes,
    }
    values.setdefault(
        "rotation", KeyRotation(KeyRing(directory / "signing"), door.store, door.marks, door.clock, door.record)
    )
    if "envelope" not in changes:
        keys = KeyRing(directory / "signing")
        envelopes = Envelopes(door.store, lambda: keys.secrets("envelope"), SEALED)
        values["envelope"] = EnvelopeRotation(keys, door.store, envelopes, door.clock, door.record)
    parts = AdminParts(**values)
    return Room(build(parts), parts, door, log, faults)
