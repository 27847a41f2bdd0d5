"""Requests whose live state another worker holds: handed over whole (DESIGN §6b-2).

That worker authenticates and decides as if the request had come there. One that is gone has taken its
sessions and parked exchanges with it: they are unknown, and the client begins again.
"""

from __future__ import annotations

from firewall.core.bounds import BODY_BYTES, REQUEST_READ_S
from firewall.core.errors import Malformed
from firewall.net import asgi
from firewall.net.channel import WorkerGone
from firewall.net.handover import HANDED, CutAnswer
from mcp_gateway import reply
from mcp_gateway.incoming import Request, says_legacy
from mcp_gateway.message import Call
from mcp_gateway.owner import Neighbours
from mcp_gateway.sessions import Sessions
from mcp_gateway.state_seal import StateSeal
from mcp_gateway.versions import LEGACY


class Elsewhere:
    """Hands requests over, where there are other workers. near: None on a node of one worker."""

    def __init__(self, near: Neighbours | None, sessions: Sessions, seal: StateSeal) -> None:
        self._near = near
        self._sessions = sessions
        self._seal = seal

    async def session(self, request: Request) -> bool:
        """Hand a legacy request over whose session another worker holds; return whether it did."""
        near = self._near
        if near is None or HANDED in request.scope or not says_legacy(request.routing):
            return False
        try:
            owner = self._sessions.owner_of(request.session_id, request.principal, request.endpoint.url)
        except Malformed:
            return False  # answered here, in the words of its method
        if owner == near.worker:
            return False
        scope, receive, send = request.scope, request.receive, request.send
        try:
            posted = scope["method"] == "POST"
            data = await asgi.read_body(scope, receive, BODY_BYTES, REQUEST_READ_S) if posted else b""
            await near.handover.to(owner, scope, data, receive, send)
        except WorkerGone:
            await asgi.write_fixed(send, reply.failed("session_unknown", None, ""))
        except CutAnswer:
            return True  # the server sees an answer without an end, and cuts the connection
        except Malformed as error:
            if error.code != "client_gone":
                await asgi.write_fixed(send, reply.failed(error.code, None, ""))
        return True

    def parked_at(self, call: Call, request: Request) -> int | None:
        """Return which other worker holds the exchange that a retry's ``requestState`` names, None without one."""
        if self._near is None or HANDED in request.scope or call.era == LEGACY:
            return None
        state = call.params.get("requestState")
        if not isinstance(state, str):
            return None
        owner = self._seal.worker(request.principal, request.endpoint.url, state)
        return None if owner == self._near.worker else owner

    async def hand_on(self, owner: int, data: bytes, call: Call, request: Request) -> str:
        """Hand a retry to the worker that holds its parked exchange; that worker spends its state."""
        assert self._near is not None
        try:
            request.out.done = True  # what is written from here on is written by that worker
            await self._near.handover.to(owner, request.scope, data, request.receive, request.send)
        except WorkerGone:
            await request.out.final(reply.failed("request_state", call.id, request.exchange.id))
            return "refused"
        except CutAnswer:
            return "internal"
        return "handed_over"
