"""``POST /par`` (RFC 9126): a client hands over its authorization request itself; the browser brings a name for it.

The name works once, for the client that pushed, for less than a minute (§2.2, §4). What it stands for was
checked when it was pushed, and is checked again when it is used, like any other request. How many wait is bounded
(`places`), and of each is kept what an authorization request can hold, not what else was in the form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import FixedReply
from firewall.core.ports import Clock, Store
from firewall.identity import opaque, records
from firewall.identity.client_limits import ClientLimits
from firewall.identity.clients.registry import Client
from firewall.identity.clients.stranger import caller, detail_of, is_proved
from firewall.identity.engine.parts import ClientAuthentication, Proofs, with_nonce
from firewall.identity.oauth21.token_endpoint import refusal
from firewall.identity.places import Places
from firewall.identity.records import SECOND_US
from firewall.identity.settings import Noted, Record, TokenBytes
from firewall.identity.throttle import NODE, Throttle
from firewall.identity.web import WebRequest, error_reply, json_reply
from firewall.wire import oauth
from firewall.wire.oauth import Form, OAuthError

URN: Final = "urn:ietf:params:oauth:request_uri:"
LIFETIME_S: Final = 50
# Credentials serve at `/par` alone; they are no part of the request (RFC 9126 §2.1).
_CREDENTIALS: Final = ("client_secret", "client_assertion", "client_assertion_type")


class PushedRequests:
    """Requests that wait for their browser, by the digest of their name."""

    def __init__(self, store: Store, clock: Clock, token_bytes: TokenBytes) -> None:
        self._waiting = store.collection("pushed_requests")
        self._clock = clock
        self._token_bytes = token_bytes
        self._places = Places(
            store,
            clock,
            token_bytes,
            "pushed_requests",
            alive=lambda key: self._waiting.get(NODE, key) is not None,
            remove=lambda key: self._waiting.delete(NODE, key),
        )

    def push(self, form: Form, client_id: str, *, address: str) -> str:
        """Keep a request for `LIFETIME_S` seconds; return its ``request_uri`` with 256 random bits (AS-24).

        address: whose place it takes. Raises StateUnavailable.
        """
        name = opaque.mint("bzp", "x", self._token_bytes).text.removeprefix("bzp_").removesuffix(".x")
        asked: JSONObject = {n: v for n, v in form.values.items() if n in oauth.AUTHORIZATION_PARAMETERS}
        value = records.encode({"client_id": client_id, "form": asked})
        expires_us = self._clock.now_us() + LIFETIME_S * SECOND_US
        self._places.take(address, opaque.digest(name), size=len(value), expires_us=expires_us)
        self._waiting.put(NODE, opaque.digest(name), value, expires_us=expires_us, if_version=0)
        return URN + name

    def take(self, request_uri: str, client_id: str) -> Form:
        """Return the pushed parameters; at most one caller ever gets them.

        A request of another client is left where it is: a stranger cannot use it up.
        Raises OAuthError invalid_request: pushed_unknown, pushed_foreign.
        """
        key = opaque.digest(request_uri.removeprefix(URN))
        entry = self._waiting.get(NODE, key) if request_uri.startswith(URN) else None
        if entry is None:
            raise OAuthError("invalid_request", "pushed_unknown")
        if not client_id or records.text(records.decode(entry.value), "client_id") != client_id:
            raise OAuthError("invalid_request", "pushed_foreign")
        taken = self._waiting.take(NODE, key)
        if taken is None:
            raise OAuthError("invalid_request", "pushed_unknown")
        given = records.decode(taken.value).get("form")
        values = given if isinstance(given, dict) else {}
        return Form({name: str(value) for name, value in values.items()}, frozenset())


class PushedEndpoint:
    """Answers pushed requests. check: judges parameters and client as `/authorize` does, raising OAuthError."""

    def __init__(
        self,
        clients: ClientAuthentication,
        pushed: PushedRequests,
        check: Callable[[Form, Client], object],
        proofs: Proofs | None,
        throttle: Throttle,
        limits: ClientLimits,
        record: Record,
        noted: Noted,
        *,
        per_minute: int,
    ) -> None:
        self._clients = clients
        self._pushed = pushed
        self._check = check
        self._proofs = proofs
        self._throttle = throttle
        self._limits = limits
        self._record = record
        self._noted = noted
        self._per_minute = per_minute

    async def serve(self, request: WebRequest) -> FixedReply:
        """Return 201 with the name of a request, or what is wrong with it."""
        if not self._throttle.allow("par", request.client_ip, per_minute=self._per_minute):
            return error_reply("slow_down", 429, headers=((b"retry-after", b"60"),))
        authorization = request.headers.get(b"authorization")
        form: Form | None = None
        client: Client | None = None
        try:
            form = request.form()
            oauth.refuse_repeated(form)
            # Of a name for a request, or a request within a request, nothing is known yet (RFC 9126 §2.1).
            if form.get("request_uri") or form.get("request"):
                raise OAuthError("invalid_request", "request_mode")
            proof = (
                self._proofs.thumbprint(request.headers, path=request.path, address=request.client_ip)
                if self._proofs
                else ""
            )
            client = self._limits.checked(
                await self._clients.authenticate(form, authorization, address=request.client_ip)
            )
            asked = _request_of(form, client, proof)
            _, redirect_uri = oauth.parse_identity(asked)
            if not oauth.redirect_matches(client.redirect_uris, redirect_uri):
                raise OAuthError("invalid_request", "redirect_unknown")
            self._check(asked, client)
        except OAuthError as error:
            told: JSONObject = {"error": error.error, "code": error.code, **detail_of(error)}
            told |= caller(client.client_id if client else "", form, authorization)
            if is_proved(client):
                self._record("identity.pushed.refused", told)
            else:
                self._noted("identity.pushed.refused", request.client_ip, told)
            reply = refusal(error, basic=authorization is not None)
        else:
            name = self._pushed.push(asked, client.client_id, address=request.client_ip)
            reply = json_reply({"request_uri": name, "expires_in": LIFETIME_S}, 201)
        return with_nonce(reply, self._proofs, request)


def _request_of(form: Form, client: Client, proof: str) -> Form:
    """Return the authorization request within a pushed form, with what client and proof add to it."""
    values = {name: value for name, value in form.values.items() if name not in _CREDENTIALS}
    if values.get("client_id", "") not in ("", client.client_id):
        raise OAuthError("invalid_request", "client_mismatch")
    values["client_id"] = client.client_id
    if proof:
        # The proof binds the code, like the parameter; both must name one key (RFC 9449 §10.1).
        if values.get("dpop_jkt", "") not in ("", proof):
            raise OAuthError("invalid_dpop_proof", "proof_key")
        values["dpop_jkt"] = proof
    return Form(values, frozenset())
