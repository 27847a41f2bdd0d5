"""OAuth clients by command: ``/api/v1/clients``. Whose secret is made is told it once, in the answer, and never again."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field, JsonValue

from firewall.admin.api import Need, _Body, body_of, reply
from firewall.admin.caller import Caller, Refused
from firewall.admin.parts import AdminParts
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.identity.authorization_server import Identity
from firewall.identity.clients.registered import DYNAMIC, Registered
from firewall.identity.clients.registry import Client
from firewall.identity.settings import AuthMethod, ClientSettings

router = APIRouter(prefix="/api/v1")


def identity_of(request: Request) -> Identity:
    """Return the front door of the application."""
    parts: AdminParts = request.app.state.parts
    return parts.identity


Door = Annotated[Identity, Depends(identity_of)]
Reader = Annotated[Caller, Depends(Need("clients.read"))]
Keeper = Annotated[Caller, Depends(Need("clients.admin"))]

AUTH: dict[str, AuthMethod] = {
    "none": "none",
    "secret": "client_secret_basic",
    "keys": "private_key_jwt",
    "workload": "workload",
}
GRANT_NAMES = {
    "device_code": "urn:ietf:params:oauth:grant-type:device_code",
    "jwt_bearer": "urn:ietf:params:oauth:grant-type:jwt-bearer",
    "token_exchange": "urn:ietf:params:oauth:grant-type:token-exchange",
}


class NewClient(_Body):
    """A client to register. auth: how it authenticates; ``secret`` makes one."""

    client_id: str
    name: str = ""
    auth: Literal["none", "secret", "keys", "workload"] = "none"
    redirect_uris: list[str] = Field(default_factory=list)
    grants: list[str] = Field(default_factory=lambda: ["authorization_code", "refresh_token"])
    scopes: list[str] = Field(default_factory=list)
    jwks: dict[str, JsonValue] | None = None
    jwks_uri: str = ""


@router.get("/clients")
async def clients(caller: Reader, door: Door) -> Response:
    """Return the tenant's clients: of the configuration file, added by command, and to the owner those by themselves."""
    written: list[JSON] = [_client_json(c) for c in door.clients.configured if c.tenant in ("", caller.tenant)]
    added: list[JSON] = [registered_json(made) for made in door.registered.list(caller.tenant)]
    # They belong to no tenant; whoever runs the node sees them, and removes them.
    by_themselves: list[JSON] = []
    if caller.role == "owner" and door.settings.registration:
        by_themselves = [_client_json(c, "itself", since) for c, since in door.registrations.list()]
    return reply({"clients": [*written, *added, *by_themselves]})


@router.post("/clients")
async def add_client(request: Request, caller: Keeper, door: Door) -> Response:
    """Register a client."""
    wish = await body_of(request, NewClient)
    return reply(registered_json(door.registered.add(_settings(wish, caller.tenant), by=caller.name)), 201)


@router.post("/clients/{client_id}/remove")
async def remove_client(caller: Keeper, door: Door, client_id: str) -> Response:
    """Remove a client; what was issued to it ends at once."""
    if client_id.startswith(DYNAMIC):
        if caller.role != "owner":
            raise Refused("role", fix="a client that registered itself is removed by the node's owner")
        return reply({"removed": door.registrations.remove(client_id, by=caller.name)})
    return reply({"removed": door.registered.remove(caller.tenant, client_id, by=caller.name)})


@router.post("/clients/{client_id}/rotate-secret")
async def rotate_secret(caller: Keeper, door: Door, client_id: str) -> Response:
    """Give a client another secret; what was issued to it ends at once."""
    return reply(registered_json(door.registered.rotate_secret(caller.tenant, client_id, by=caller.name)))


def registered_json(made: Registered) -> JSONObject:
    """Return a registered client as the API shows it; with its secret where that was made just now."""
    client = made.settings
    value: JSONObject = {
        "client_id": client.client_id,
        "name": client.name,
        "from": "command",
        "method": client.auth_method,
        "grants": list(client.grant_types),
        "scopes": list(client.scopes),
        "redirect_uris": list(client.redirect_uris),
        "created_s": made.created_s,
    }
    return {**value, "secret": made.secret} if made.secret else value


def _client_json(client: Client, source: str = "file", since_s: int = 0) -> JSONObject:
    return {
        "client_id": client.client_id,
        "name": client.name,
        "from": source,
        "method": client.auth_method,
        "grants": list(client.grant_types),
        "scopes": list(client.scopes),
        "redirect_uris": list(client.redirect_uris),
        "created_s": since_s,
    }


def _settings(wish: NewClient, tenant: str) -> ClientSettings:
    if wish.auth != "keys" and (wish.jwks is not None or wish.jwks_uri):
        raise Malformed("client_settings", fix="keys belong to a client of auth keys")
    method: AuthMethod = AUTH[wish.auth]
    return ClientSettings(
        client_id=wish.client_id,
        name=wish.name or wish.client_id,
        redirect_uris=tuple(wish.redirect_uris),
        auth_method=method,
        grant_types=tuple(GRANT_NAMES.get(name, name) for name in wish.grants),
        scopes=tuple(wish.scopes) or ("*",),
        tenant=tenant,
        jwks=wish.jwks,
        jwks_uri=wish.jwks_uri,
    )
