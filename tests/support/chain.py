"""A front door with agents behind it, and clients that go on with tokens they were given."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2

from firewall.enforce.labels import FlowLabels
from firewall.identity.authorization_server import build_identity
from firewall.identity.people.users import User
from firewall.identity.settings import ClientSettings, ProtectedResource
from firewall.net.runtime import RandomIds
from firewall.state.shared import SharedMarks
from firewall.state.sqlite import SQLiteStore
from firewall.wire import jwt
from tests.support.door import ORIGIN, RESOURCES, SERVER_KEY, TIME, Door, make_door

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
PLANNER = f"{ORIGIN}/a2a/planner"
BOOKER = f"{ORIGIN}/a2a/booker"
SECRET = "a-long-random-secret"

AGENTS = (
    ProtectedResource(
        "/a2a/planner", "Planner", ("planner:send", "booker:send", "time:read", "time:write"), ("planner:send",)
    ),
    ProtectedResource("/a2a/booker", "Booker", ("booker:send", "time:read", "time:write"), ("booker:send",)),
)


def confidential(client_id: str, **more: Any) -> ClientSettings:
    values: dict[str, Any] = {
        "auth_method": "client_secret_basic",
        "grant_types": (EXCHANGE, "client_credentials"),
        "scopes": ("*",),
        "tenant": "acme",
        "secret_sha256": hashlib.sha256(SECRET.encode()).hexdigest(),
        **more,
    }
    return ClientSettings(client_id, client_id.title(), **values)


CLIENTS = (
    ClientSettings("desk", "A desk", redirect_uris=("http://127.0.0.1/callback",), tenant="acme"),
    ClientSettings(
        "lent", "A desk that lets go", redirect_uris=("http://127.0.0.1/callback",), tenant="acme", may_act="conductor"
    ),
    confidential("planner", resource="/a2a/planner"),
    confidential("booker", resource="/a2a/booker"),
    confidential("stranger"),
    confidential("conductor", orchestrator=True, resource="/a2a/planner"),
    confidential("narrow", resource="/a2a/planner", scopes=("planner:*", "time:read")),
    confidential("elsewhere", resource="/a2a/planner", tenant="beta"),
    confidential("unasked", resource="/a2a/planner", grant_types=("client_credentials",)),
    ClientSettings("open", "Public", grant_types=(EXCHANGE,), tenant="acme", resource="/a2a/planner"),
)


def chain_door(**changes: Any) -> Door:
    """Return a door with agents, and clients that stand behind them."""
    return make_door(**{"resources": (*RESOURCES, *AGENTS), "clients": CLIENTS, **changes})


def token_of(door: Door, user: User, **changes: Any) -> str:
    """Return a token as the door signs it: ada's, given to ``desk`` for the planner, for five minutes."""
    now_s = door.clock.now_us() // 1_000_000
    claims: dict[str, Any] = {
        "iss": ORIGIN,
        "aud": PLANNER,
        "sub": user.subject,
        "client_id": "desk",
        "scope": "planner:send time:read",
        "iat": now_s,
        "exp": now_s + 300,
        "jti": "j_1",
        "gid": "g_1",
        "sid": "s_1",
        "tenant": "acme",
        "sub_type": "user",
        "auth_time": now_s - 10,
        "acr": "pwd",
        **changes,
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.sign(claims, SERVER_KEY, alg="ES256", typ="at+jwt", kid=SERVER_KEY.thumbprint())


async def exchange(
    http: httpx2.AsyncClient, subject_token: str, /, client: str = "planner", **changes: str
) -> httpx2.Response:
    """Ask as a client; ``"-"`` leaves a parameter out."""
    form = {
        "grant_type": EXCHANGE,
        "subject_token": subject_token,
        "subject_token_type": ACCESS_TOKEN,
        "resource": TIME,
        "scope": "time:read",
        **changes,
    }
    sent = {name: value for name, value in form.items() if value != "-"}
    auth = None if client == "open" else (client, SECRET)
    if auth is None:
        sent.setdefault("client_id", client)
    return await http.post("/token", data=sent, auth=auth)


def claims_in(token: str) -> dict[str, Any]:
    """Return what a token says, without looking at its signature."""
    return dict(jwt.parse_compact(token.encode()).claims)


def why(door: Door) -> str:
    """Return our own code of the last refusal at the token endpoint."""
    return str(door.named("identity.token.refused")[-1]["code"])


@contextlib.contextmanager
def several(base: Door, workers: int, folder: Path) -> Iterator[list[Door]]:
    """Give doors like ``base`` as the workers of one node: one store, one shared memory, a connection each."""
    stores = [SQLiteStore(folder / "state.db", clock=base.clock) for _ in range(workers)]
    marks = [SharedMarks(folder, workers=workers) for _ in range(workers)]
    doors = []
    for store, mark in zip(stores, marks, strict=True):
        labels = FlowLabels(mark, store.collection("labels"), base.clock)
        identity = build_identity(
            base.identity.settings,
            store=store,
            marks=mark,
            clock=base.clock,
            ids=RandomIds(),
            fetcher=base.fetcher,
            signing_key=SERVER_KEY,
            record=base.record,
            labels=labels,
        )
        doors.append(Door(identity, base.clock, base.store, mark, base.fetcher, base.events, labels=labels))
    try:
        yield doors
    finally:
        for store, mark in zip(stores, marks, strict=True):
            store.close()
            mark.close()
