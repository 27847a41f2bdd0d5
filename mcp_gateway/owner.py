"""Stdio upstreams behind several workers: one worker owns the child, the others reach it there (DESIGN §6b-2).

A pipe has one writer. Of the workers of a node one holds the lease of (tenant, upstream) and runs the
child; `Owners.open` gives every caller in it a share of that child, and in the other workers a
`remote.RemoteLink`, which is a Link like any other over the channel between workers (`firewall.net.channel`).
Who is asked first: the last holder, then the others by rendezvous hash; the lease, which the kernel gives
back when its holder ends, says who it is.

Why the owner writes bytes to its pipe without deciding about them again: the worker that asks has decided.
Its guard cleared exactly these bytes for exactly this upstream of this tenant, and its record is written;
labels, limits, stops and pins are the node's and were read there. The proof travels with them
(`core.permit.Border`): its key is made from the secret that the parent gave its workers, so a program that
reached the socket, or a bug that sent other bytes, has nothing that the owner would write. What the child
answers goes back as it was parsed, and is decided about where it was asked for.

When the owner ends, its child ends with it (kernel death signal), the channels end, every share is dead,
and the next call opens a link again: at the worker that then takes the lease.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from typing import Any, Final

import orjson

from firewall.core.action import Headers
from firewall.core.errors import Malformed, UpstreamFault
from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import Border, Cleared
from firewall.net.channel import Channel, Kind, Peers, WorkerGone
from firewall.net.handover import Handover
from firewall.state.lease import Leases
from firewall.wire import canonical, strict_json
from mcp_gateway.bridge import Opened
from mcp_gateway.exchanges import Exchange, Messages
from mcp_gateway.house import Refused
from mcp_gateway.leash import Leash
from mcp_gateway.remote import LANE, LANES, SERVICE, Moved, RemoteLink, digest
from mcp_gateway.settings import UpstreamSpec
from mcp_gateway.stdio import Launcher, StdioLink
from mcp_gateway.upstream import Link

ROUNDS: Final = 6  # of asking who the owner is, while workers come and go
PAUSE_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Neighbours:
    """How a worker reaches the others of its node; there is none where it is alone."""

    peers: Peers
    handover: Handover
    leases: Leases

    @property
    def worker(self) -> int:
        """This worker's number."""
        return self.peers.seat.index


@dataclass(slots=True)
class _Child:
    """A child that runs here, and how many links share it."""

    link: StdioLink
    spec: UpstreamSpec
    uses: int = 0


class Owners:
    """Opens stdio links, here or at their owner. Stands where a worker alone has its `Launcher`."""

    def __init__(self, launcher: Launcher, near: Neighbours, find: Callable[[str], UpstreamSpec | None]) -> None:
        """find: the configuration of an upstream by name. Nothing that another worker says names a command."""
        self._launcher = launcher
        self._near = near
        self._find = find
        self._border = Border(_key(near.peers.seat.secret))
        self._children: dict[str, _Child] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._lanes: dict[int, SharedLink] = {}
        self._last_lane = 0
        self._life = os.urandom(16).hex()  # lanes are numbered anew by a worker that was started again
        near.peers.offer(SERVICE, self._serve)

    def check(self, spec: UpstreamSpec) -> tuple[str, ...]:
        """Return the walls that this child will lack; see `Launcher.check`."""
        return self._launcher.check(spec)

    async def open(
        self, tenant: str, spec: UpstreamSpec, *, declared: JSONObject | None = None, caller: str = ""
    ) -> Link:
        """Return a link to the one child of (tenant, upstream, caller, declared); see `Launcher.open`.

        Raises UpstreamFault, Refused, StateUnavailable.
        """
        place, declared = f"{tenant}\0{spec.name}", declared or {}
        asked: JSONObject = {"tenant": tenant, "declared": declared, "caller": caller}
        for _ in range(ROUNDS):
            for worker in self._order(place):
                if worker == self._near.worker:
                    mine = await self._here(tenant, spec, declared, caller)
                    if mine is not None:
                        return mine
                    break  # somebody took it meanwhile: look again who
                try:
                    slot = _slot(tenant, spec, declared, caller)
                    return await RemoteLink.to(self._near.peers, self._border, worker, slot, spec, asked)
                except Moved:
                    break
                except WorkerGone:
                    continue
            await asyncio.sleep(PAUSE_S)
        raise UpstreamFault("unreachable", "no worker owns the child")

    def _order(self, place: str) -> list[int]:
        """Return the workers in the order in which they are asked."""

        def rank(worker: int) -> bytes:
            return hashlib.blake2b(f"{worker}\0{place}".encode(), digest_size=8).digest()

        ranked = sorted(range(self._near.peers.seat.workers), key=rank)
        hint = self._near.leases.hint(place)
        return ranked if hint is None or hint not in ranked else [hint, *(w for w in ranked if w != hint)]

    async def _here(self, tenant: str, spec: UpstreamSpec, declared: JSONObject, caller: str) -> SharedLink | None:
        """Return a share of the child in this worker, started where it does not run; None: it is not ours."""
        if not self._near.leases.take(f"{tenant}\0{spec.name}"):
            return None
        slot = _slot(tenant, spec, declared, caller)
        lock = self._locks.get(slot)
        if lock is None:
            lock = self._locks[slot] = asyncio.Lock()
        async with lock:
            child = self._children.get(slot)
            if child is not None and (not child.link.alive or child.spec != spec):
                del self._children[slot]
                await child.link.close()
                child = None
            if child is None:
                child = self._children[slot] = _Child(
                    await self._launcher.open(tenant, spec, declared=declared, caller=caller), spec
                )
            child.uses += 1
            return SharedLink(self, child, slot)

    async def let_go(self, child: _Child, slot: str) -> None:
        """Give a share back; the last one ends the child."""
        child.uses -= 1
        if child.uses <= 0:
            if self._children.get(slot) is child:
                del self._children[slot]
            await child.link.close()

    # -- for the other workers ---------------------------------------------------------------------------

    async def _serve(self, channel: Channel, head: JSONObject) -> None:
        given: Any = head
        try:
            match head.get("op"):
                case "open":
                    await self._serve_open(channel, given)
                case "exchange" | "notify" | "listen" as op:
                    await self._serve_job(op, channel, given)
                case _:
                    raise WorkerGone("no such operation")
        except UpstreamFault as error:
            await _fault(channel, {"code": error.code})
        except Refused as error:
            await _fault(channel, {"refused": error.refusal.fault.code, "decision": error.refusal.decision_id})
        except (Malformed, KeyError, TypeError, ValueError) as error:
            raise WorkerGone(type(error).__name__) from None

    async def _serve_open(self, channel: Channel, given: Any) -> None:
        """Give another worker a lane of the child, until it closes the channel or the child ends."""
        spec = self._find(str(given["upstream"]))
        if spec is None or spec.transport != "stdio" or digest(spec) != given["spec"]:
            raise UpstreamFault("unreachable", "the workers do not have the same configuration yet")
        tenant, declared, caller = str(given["tenant"]), dict(given["declared"]), str(given["caller"])
        try:
            async with asyncio.timeout(spec.open_s):
                share = await self._here(tenant, spec, declared, caller)
        except TimeoutError:
            raise UpstreamFault("timeout", "the upstream did not open in time") from None
        if share is None:
            await _fault(channel, {"moved": True})
            return
        self._last_lane += 1
        lane = self._last_lane
        try:
            if lane >= LANES:
                raise UpstreamFault("unreachable", "a worker opened too many links")
            self._lanes[lane] = share
            opened: JSONObject = asdict(share.opened)
            told: JSONObject = {"lane": lane, "life": self._life, "opened": opened, "declared": share.declared}
            await channel.send(Kind.HEAD, strict_json.dumps(told))
            await asyncio.wait({channel.lost, share.child.ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._lanes.pop(lane, None)
            await share.close()

    async def _serve_job(self, op: str, channel: Channel, given: Any) -> None:
        lane, share = given["lane"], self._lanes.get(given["lane"])
        if share is None or given["life"] != self._life or not share.alive:
            await _fault(channel, {"code": "cut_stream", "ended": True})
            return
        leash = Leash()

        def leave(_lost: object) -> None:
            leash.pull()

        channel.lost.add_done_callback(leave)
        try:
            if op == "listen":
                with leash:
                    async with share.listen(()) as messages:
                        await _pass_on(channel, messages)
                return
            cleared = self._admit(share, await channel.expect(Kind.DATA), given)
            if op == "notify":
                await share.notify(cleared, ())
                return
            rpc_id = cleared.body.get("id") if isinstance(cleared.body, dict) else None
            if not isinstance(rpc_id, int) or rpc_id // LANE != lane:
                raise Malformed("rpc_id")
            with leash:
                async with share.exchange(rpc_id, cleared, ()) as messages:
                    await _pass_on(channel, messages)
        finally:
            channel.lost.remove_done_callback(leave)

    def _admit(self, share: SharedLink, payload: bytes, given: Any) -> Cleared:
        return self._border.admit(
            bytes.fromhex(given["proof"]),
            payload,
            strict_json.loads(payload),
            purpose=share.slot,
            decision_id=str(given["decision"]),
            record_uid=str(given["record"]),
        )


class SharedLink:
    """One share of a child that runs in this worker; see `mcp_gateway.upstream.Link`."""

    transport = "stdio"

    def __init__(self, owners: Owners, child: _Child, slot: str) -> None:
        self._owners = owners
        self._child = child
        self._closed = False
        self.slot = slot
        self.opened: Opened = child.link.opened
        self.declared = child.link.declared

    @property
    def child(self) -> StdioLink:
        """The child itself."""
        return self._child.link

    @property
    def alive(self) -> bool:
        """Whether the child runs and this share was not given back."""
        return not self._closed and self._child.link.alive

    def next_id(self) -> int:
        """See Link.next_id."""
        return self._child.link.next_id()

    def exchange(self, rpc_id: int, cleared: Cleared, credentials: Headers) -> Exchange:
        """See Link.exchange."""
        return self._child.link.exchange(rpc_id, cleared, credentials)

    async def notify(self, cleared: Cleared, credentials: Headers) -> None:
        """See Link.notify."""
        await self._child.link.notify(cleared, credentials)

    def listen(self, credentials: Headers) -> AbstractAsyncContextManager[Messages]:
        """See Link.listen."""
        return self._child.link.listen(credentials)

    async def close(self) -> None:
        """Give this share back. Idempotent."""
        if not self._closed:
            self._closed = True
            await self._owners.let_go(self._child, self.slot)


async def _pass_on(channel: Channel, messages: Messages) -> None:
    async for value in messages:
        await channel.send(Kind.DATA, strict_json.dumps(value))


async def _fault(channel: Channel, told: JSONObject) -> None:
    await channel.send(Kind.FAULT, orjson.dumps(told))


def _slot(tenant: str, spec: UpstreamSpec, declared: JSONObject, caller: str) -> str:
    """Return which child it is, and so what bytes are cleared for."""
    return "\0".join((tenant, spec.name, caller, canonical.encode(declared).decode() if declared else ""))


def _key(secret: bytes) -> bytes:
    return hmac.digest(secret, b"bartizan border 1", "sha256")
