"""The keys that sign access tokens: ``/api/v1/signing-keys``. Ids and times alone; no key ever passes here."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from firewall.admin.api import Need, _Body, body_of, reply
from firewall.admin.caller import Caller
from firewall.admin.parts import AdminParts
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON
from firewall.identity.rfc9068.rotation import KeyRotation

router = APIRouter(prefix="/api/v1")


def rotation_of(request: Request) -> KeyRotation:
    """Return the node's rotation. Raises Malformed("path_unknown") where nothing is signed (`bartizan run`)."""
    parts: AdminParts = request.app.state.parts
    if parts.rotation is None:
        raise Malformed("path_unknown")
    return parts.rotation


Rotation = Annotated[KeyRotation, Depends(rotation_of)]
Reader = Annotated[Caller, Depends(Need("signing.read"))]
Keeper = Annotated[Caller, Depends(Need("signing.rotate"))]


class Wish(_Body):
    """compromised: the state directory may have leaked; every token there is ends now."""

    compromised: bool = False


@router.get("/signing-keys")
async def keys(caller: Reader, rotation: Rotation) -> Response:
    """Return what is published: the current key, the next one, and those that still verify."""
    return reply({"keys": _states(rotation)})


@router.post("/signing-keys/rotate")
async def rotate(request: Request, caller: Keeper, rotation: Rotation) -> Response:
    """Let the next key sign from now on."""
    wish = await body_of(request, Wish)
    kid = rotation.rotate(by=caller.name, compromised=wish.compromised)
    return reply({"kid": kid, "keys": _states(rotation)})


def _states(rotation: KeyRotation) -> list[JSON]:
    return [
        {"kid": key.kid, "state": key.state, "since_s": key.since_s, "until_s": key.until_s}
        for key in rotation.states()
    ]
