"""Asking a person, through the program in front of us, to connect an account at an upstream.

    modern client that opens addresses     ``input_required`` for the methods that may have it
    2025-11-25 client that opens addresses  error -32042 with the address
    everybody else, every other method      a JSON-RPC error of ours, with the address in fixed text

The address is on our own origin and nowhere else: an upstream's or its authorization server's own words
never reach a client here. Nothing is approved in band (DESIGN §6b-3): answering ``accept`` only says that
the person went there. A retry that says so waits a little for the person to come back.
Source: MCP 2025-11-25 and 2026-07-28, elicitation by URL; SEP-2322.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from firewall.core.errors import ConsentNeeded, UpstreamFault, consent_text, fault, fault_of
from firewall.core.jsonvalue import JSONObject
from firewall.wire import jsonrpc
from mcp_gateway import bridge, reply
from mcp_gateway.asking import METHODS, URL_REQUIRED
from mcp_gateway.bridge import Opened
from mcp_gateway.catalog import Catalog
from mcp_gateway.state_seal import OURS, Sealed, StateSeal
from mcp_gateway.versions import MODERN, NEWEST_MODERN

if TYPE_CHECKING:
    from mcp_gateway.relay import Turn

QUESTION: Final = "dev.bartizan/connect"
WAIT_S: Final = 20.0  # for a person who is on the page; shorter than a client waits for an answer
LOOK_S: Final = 0.1
URL_VERSION: Final = "2025-11-25"


class Linking:
    """Tells clients where to connect an account."""

    def __init__(self, catalog: Catalog, seal: StateSeal, *, wait_s: float = WAIT_S) -> None:
        self._catalog = catalog
        self._seal = seal
        self._wait_s = wait_s

    async def connected(self, turn: Turn, needed: ConsentNeeded) -> bool:
        """Return whether the account is there now; waits where the request says that the person went to connect it."""
        if turn.waited or _answer(turn) != "accept":
            return False
        turn.waited = True
        endpoint = self._catalog.endpoints.get(f"/mcp/{needed.upstream}")
        if endpoint is None:
            return False
        credentials = self._catalog.credentials(turn.principal, endpoint.specs[0])
        until = asyncio.get_running_loop().time() + self._wait_s
        while True:
            try:
                await credentials()
                return True
            except ConsentNeeded:
                if asyncio.get_running_loop().time() >= until:
                    return False
                await asyncio.sleep(LOOK_S)
            except UpstreamFault:
                return False

    async def tell(self, turn: Turn, needed: ConsentNeeded) -> str:
        """Answer a request with where to connect; return the exchange's outcome."""
        call = turn.call
        told = fault("upstream_consent")
        turn.exchange.outcome = told.code
        opens = needed.link and _opens_addresses(turn)
        if opens and call.era == MODERN and call.method in METHODS and _answer(turn) in ("", "accept"):
            state = Sealed(needed.upstream, {QUESTION: ["elicitation", None, False]}, worker=OURS)
            result: JSONObject = {
                "resultType": "input_required",
                "requestState": self._seal.seal(turn.principal, turn.resource_url, call, state),
                "inputRequests": {QUESTION: {"method": "elicitation/create", "params": _question(needed)}},
            }
            await turn.out.final(reply.said(jsonrpc.build_response(call.id, result)))
        elif opens and call.version == URL_VERSION:
            asked: JSONObject = {**_question(needed), "elicitationId": needed.elicitation_id}
            data: JSONObject = {"elicitations": [asked], "decision_id": turn.exchange.id}
            await turn.out.final(reply.said(jsonrpc.build_error(call.id, URL_REQUIRED, consent_text(needed), data)))
        elif needed.link:
            data = {"url": needed.link, "decision_id": turn.exchange.id}
            await turn.out.final(reply.said(jsonrpc.build_error(call.id, told.rpc_code, fault_of(needed).text, data)))
        else:
            return await turn.fail(needed)
        return "upstream_fault"


def unopened(name: str) -> Opened:
    """Return what we say of an upstream that nobody has connected yet.

    A session opens all the same: a client asks for an address only within one, and goes on in it afterwards.
    What the server can do is not known, so everything is offered that it may turn out to have.
    """
    return Opened(
        NEWEST_MODERN,
        MODERN,
        {**bridge.OURSELVES, "title": name},
        "This server is used with an account of each person's own, and it is not connected yet.",
        {"tools": {}, "prompts": {}, "resources": {}},
    )


def _question(needed: ConsentNeeded) -> JSONObject:
    message = f'The server "{needed.upstream}" is used with an account of your own. Open this page to connect it.'
    if needed.more:
        message = f'The server "{needed.upstream}" asks for more than your account there was connected for. Open this page to connect again and allow more.'
    return {"mode": "url", "message": message, "url": needed.link}


def _opens_addresses(turn: Turn) -> bool:
    capabilities = turn.face.capabilities if turn.face is not None else turn.call.capabilities
    elicitation = capabilities.get("elicitation")
    return isinstance(elicitation, dict) and "url" in elicitation


def _answer(turn: Turn) -> str:
    """Return how a retry answers our question: an action, "" where it does not."""
    given = turn.call.params.get("inputResponses")
    told = given.get(QUESTION) if isinstance(given, dict) else None
    action = told.get("action") if isinstance(told, dict) else None
    return action if isinstance(action, str) else ""
