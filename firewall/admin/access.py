"""Decides who a request is from, and that a form came from our own page (operations reference §6.4)."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Final

from firewall.admin.caller import Caller, Refused
from firewall.admin.parts import AdminParts
from firewall.admin.rights import needs_fresh
from firewall.admin.sessions import AdminSessions, Bearers, cookie_name
from firewall.identity.records import SECOND_US
from firewall.identity.web import parse_cookies
from firewall.net.asgi import Scope, header_map
from firewall.net.own_page import is_own_page

EXTENSION: Final = "bartizan.operator"
SAFE: Final = frozenset({"GET", "HEAD"})
CSRF_HEADER: Final = b"x-csrf-token"


class Access:
    """Reads a request's caller: the socket's peer, else a bearer, else a session."""

    def __init__(self, parts: AdminParts) -> None:
        self._config = parts.config
        self._clock = parts.clock
        self._settings = parts.settings
        users = parts.identity.users
        self.sessions = AdminSessions(parts.store, parts.clock, users, parts.token_bytes, parts.settings)
        self.bearers = Bearers(parts.store, parts.clock, users, parts.token_bytes, parts.settings)

    def caller(self, scope: Scope, *, touch: bool = False) -> Caller | None:
        """Return who asks, None for a stranger. Raises Malformed("http_desync"), StateUnavailable."""
        peer = scope.get("extensions", {}).get(EXTENSION)
        if peer is not None:
            return Caller(peer, self._config.tenant, ("owner",), "socket", proved_us=self._clock.now_us())
        headers = header_map(scope)
        presented = headers.get(b"authorization")
        if presented is not None:
            # A credential that does not hold is not replaced by another one.
            scheme, _, token = presented.decode("latin-1").partition(" ")
            return self.bearers.read(token.strip()) if scheme.lower() == "bearer" else None
        return self.sessions.read(session_of(scope, headers), touch=touch)

    def require(self, scope: Scope, act: str, *, form_token: str = "") -> Caller:
        """Return the caller of a request for an act of the matrix. Raises Refused: sign_in, csrf, role, fresh.

        A session's request that changes something must come from our own page and carry its token,
        in the header ``x-csrf-token`` or as ``form_token``.
        """
        polled = header_map(scope).get(b"x-bartizan-poll") is not None
        caller = self.caller(scope, touch=not polled)
        if caller is None:
            raise Refused("sign_in", fix="sign in, or present a bearer of `bartizan token --admin`")
        if caller.via == "session" and scope["method"] not in SAFE:
            headers = header_map(scope)
            token = form_token or headers.get(CSRF_HEADER, b"").decode("latin-1")
            if not from_own_page(scope, headers) or not hmac.compare_digest(token.encode(), caller.csrf.encode()):
                raise Refused("csrf")
        self.permit(caller, act)
        return caller

    def permit(self, caller: Caller, act: str) -> None:
        """Raise Refused unless the caller may do this now: role, fresh."""
        if not caller.may(act):
            raise Refused("role", fix=f"your roles ({', '.join(caller.roles)}) do not allow {act}")
        if needs_fresh(act) and not self.is_fresh(caller):
            raise Refused(
                "fresh", fix="a person must confirm who they are, at /confirm of the console; a script cannot"
            )

    def is_fresh(self, caller: Caller) -> bool:
        """Return whether the caller proved a moment ago who they are; the socket's peer is known by the kernel."""
        return self._clock.now_us() - caller.proved_us <= self._settings.fresh_s * SECOND_US


def session_of(scope: Scope, headers: Mapping[bytes, bytes]) -> str:
    """Return the session cookie's value, "" when there is none."""
    return parse_cookies(headers.get(b"cookie", b"")).get(cookie_name(secure=scope["scheme"] == "https"), "")


def from_own_page(scope: Scope, headers: Mapping[bytes, bytes]) -> bool:
    """Return whether a browser sent this from a page of this very listener (UI-06; `net.own_page`).

    The Host was checked by the edge, so it says who we are.
    """
    return is_own_page(headers, scope["scheme"].encode() + b"://" + headers.get(b"host", b""))
