"""The keys that seal upstream credentials: ``/api/v1/envelope-keys``. Numbers and times alone; no key ever passes here."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from firewall.admin.api import Need, _Body, body_of, reply
from firewall.admin.caller import Caller
from firewall.admin.parts import AdminParts
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSONObject
from firewall.state.resealing import EnvelopeRotation, Progress

router = APIRouter(prefix="/api/v1")


def rotation_of(request: Request) -> EnvelopeRotation:
    """Return the node's rotation. Raises Malformed("path_unknown") where nothing is sealed (`bartizan run`)."""
    parts: AdminParts = request.app.state.parts
    if parts.envelope is None:
        raise Malformed("path_unknown")
    return parts.envelope


Rotation = Annotated[EnvelopeRotation, Depends(rotation_of)]
Reader = Annotated[Caller, Depends(Need("envelope.read"))]
Keeper = Annotated[Caller, Depends(Need("envelope.rotate"))]


class Wish(_Body):
    """go_on: with what is under way alone; where nothing is, nothing begins."""

    go_on: bool = False


@router.get("/envelope-keys")
async def envelope_keys(caller: Reader, rotation: Rotation) -> Response:
    """Return which secret seals, and how far a rotation is."""
    return reply(_told(await asyncio.to_thread(rotation.progress)))


@router.post("/envelope-keys/rotate")
async def rotate_envelope(request: Request, caller: Keeper, rotation: Rotation) -> Response:
    """Begin a rotation, or go on with the one under way, for about a second; return how far it is."""
    wish = await body_of(request, Wish)
    if wish.go_on:
        return reply(_told(await asyncio.to_thread(rotation.step)))
    return reply(_told(await asyncio.to_thread(rotation.rotate, by=caller.name)))


def _told(progress: Progress) -> JSONObject:
    return {**asdict(progress), "generations": list(progress.generations)}
