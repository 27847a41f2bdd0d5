"""A decision point in one process: the real front door for its tokens, a real guard, registry and pins."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import httpx2

from firewall.adapters.authzen.action import House
from firewall.adapters.authzen.build import _people
from firewall.adapters.authzen.evaluate import Evaluator
from firewall.adapters.authzen.serve import AuthZENApp
from firewall.adapters.authzen.settings import AuthZENSettings, Enforcer
from firewall.admin.definitions import Definitions
from firewall.config.front_door import AUTHZEN
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.enforce.pins import Pins
from firewall.enforce.registry import Registry
from firewall.identity.settings import ClientSettings
from firewall.wire import canonical
from mcp_gateway import lists
from mcp_gateway.settings import UpstreamSpec
from tests.support.door import ORIGIN, RESOURCES, Door, make_door, registered_clients
from tests.support.kit import ALLOW, Kit, ScriptedEngine, kit

TENANT = "acme"
SECRET = "a-long-random-secret"
ACCESS = f"{ORIGIN}/access"
TOOL: JSONObject = {
    "name": "read_file",
    "description": "Reads a file.",
    "inputSchema": {
        "type": "object",
        "properties": {"path": {"type": "string"}},
        "required": ["path"],
        "additionalProperties": False,
    },
}
SPEC = UpstreamSpec(
    "files", url="https://files.example/mcp", trust="trusted", tenants=(TENANT,), effects={"read_file": "read"}
)
DIRECT = "https://idp.corp.example"  # whose own tokens count here, under the name corp
EVALUATION = "/access/v1/evaluation"
EVALUATIONS = "/access/v1/evaluations"


def asked(**changes: Any) -> dict[str, Any]:
    """Return the default mapping of ``tools/call`` for one file."""
    given: dict[str, Any] = {
        "subject": {"type": "identity", "id": "ada", "properties": {"scopes": ["files:read"]}},
        "action": {"name": "tools/call", "properties": {"arguments": {"path": "/srv/a.txt"}}},
        "resource": {"type": "tool", "id": "read_file", "properties": {"server": "files"}},
        "context": {"agent": "https://agent.example/client.json"},
    }
    return {**given, **changes}


@dataclass
class Point:
    """A decision point and what a test wants to look at."""

    app: AuthZENApp
    door: Door
    kit: Kit
    engine: ScriptedEngine
    pins: Pins
    registry: Registry
    definitions: Definitions
    subject: str

    def http(self) -> httpx2.AsyncClient:
        transport = httpx2.ASGITransport(app=self.app, client=("192.0.2.7", 4000))
        return httpx2.AsyncClient(transport=transport, base_url=ORIGIN)

    async def token(
        self,
        client: str = "svc-basic",
        *,
        resource: str = ACCESS,
        scope: str = "access:evaluate",
        secret: str = SECRET,
    ) -> str:
        """Return a token as an enforcer gets one."""
        basic = base64.b64encode(f"{client}:{secret}".encode()).decode()
        form = {"grant_type": "client_credentials", "resource": resource, "scope": scope}
        async with self.door.http() as http:
            answer = await http.post("/token", data=form, headers={"Authorization": f"Basic {basic}"})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    async def ask(self, body: Any, path: str = EVALUATION, *, token: str = "", **headers: str) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {token or await self.token()}", **headers}
        async with self.http() as http:
            if isinstance(body, bytes):
                return await http.post(path, content=body, headers={"content-type": "application/json", **headers})
            return await http.post(path, json=body, headers=headers)

    async def decide(self, **changes: Any) -> dict[str, Any]:
        """Ask the default question with changes, for an account of ours; return the decision."""
        body = asked(**changes)
        if body["subject"].get("id") == "ada":
            body["subject"] = {**body["subject"], "id": self.subject}
        answer = await self.ask(body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


async def make_point(script: Callable[[JSONObject], JSON | bytes] = lambda _input: ALLOW, **enforcer: Any) -> Point:
    """Return a decision point with one server, one approved tool and one person. enforcer: of the asking client."""
    clients = tuple(replace(c, scopes=("*",)) if c.client_id == "svc-basic" else c for c in registered_clients())
    other = next(c for c in clients if c.client_id == "svc-basic")
    clients = (*clients, replace(other, client_id="svc-other"), replace(other, client_id="svc-beta", tenant="beta"))
    assert all(isinstance(c, ClientSettings) for c in clients)
    door = make_door(resources=(*RESOURCES, AUTHZEN), clients=clients)
    engine = ScriptedEngine(script)
    parts = kit(engine=engine)
    registry = Registry(door.store.collection("registry"), door.marks, door.clock, parts.audit.append)
    registry.configure(TENANT, "mcp", "files", {"url": SPEC.url})
    pins = Pins(door.store.collection("pins"), door.marks, door.clock)
    definitions = Definitions(door.store.collection("definitions"))
    value = lists.definition(TOOL).value
    definitions.note(value)
    pins.observe(TENANT, "files", "tool", "read_file", canonical.digest(value), trust=True)
    user = await door.user("ada", scopes=("files:*",), roles=("dev",))
    values: dict[str, Any] = {"scopes": ("files:*",), **enforcer}
    known = {name: Enforcer(name, **values) for name in ("svc-basic", "svc-beta")}
    evaluator = Evaluator(
        parts.guard,
        House(ORIGIN, lambda: (SPEC,), registry, pins, definitions.get),
        _people(door.identity),
        parts.audit,
        parts.ids,
        issuers={DIRECT: "corp"},
    )
    app = AuthZENApp(AuthZENSettings(ORIGIN, known), door.identity.resource_server, evaluator)
    return Point(app, door, parts, engine, pins, registry, definitions, user.subject)
