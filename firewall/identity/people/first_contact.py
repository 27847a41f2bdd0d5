"""First contact: how the first user comes to be (DESIGN §6b-12).

While there is no administrator, starting makes a one-time code: shown on a terminal, or written into a file
that only its owner can read. It is valid for 15 minutes and consumed by a POST on the admin
listener, which chooses name and password. Only its digest is kept, and wrong guesses are counted.
"""

from __future__ import annotations

import base64
import hmac
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from firewall.core.bounds import FIRST_CONTACT_LIFETIME_S, FORM_BODY_BYTES, REQUEST_READ_S
from firewall.core.errors import Conflict, Malformed, fault
from firewall.core.permit import FixedReply
from firewall.core.ports import Clock, Store
from firewall.identity import opaque
from firewall.identity.people.pages import Pages
from firewall.identity.people.users import ADMIN_ROLE, User, Users
from firewall.identity.records import SECOND_US
from firewall.identity.settings import IdentitySettings, Record, TokenBytes
from firewall.identity.throttle import NODE, Throttle
from firewall.identity.web import WebRequest, error_reply, page_reply, parse_cookies
from firewall.net import asgi
from firewall.net.asgi import Receive, Scope, Send

KEY = "code"
GROUP = 5
TRIES_PER_MINUTE = 10
TRIES_IN_ALL = 30


class Terminal(Protocol):
    """What a code may be shown on."""

    def isatty(self) -> bool:
        """Return whether a person sees it."""

    def write(self, text: str, /) -> object:
        """Show text."""


@dataclass(frozen=True, slots=True)
class FirstContactCode:
    """The code as a person types it, and until when (Unix seconds)."""

    text: str = field(repr=False)
    expires_s: int


class FirstContact:
    """Makes the code, takes it, creates the user."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        token_bytes: TokenBytes,
        users: Users,
        throttle: Throttle,
        settings: IdentitySettings,
        record: Record,
    ) -> None:
        self._codes = store.collection("first_contact")
        self._clock = clock
        self._token_bytes = token_bytes
        self._users = users
        self._throttle = throttle
        self._settings = settings
        self._record = record
        self.file: Path | None = None  # where a code may have been written; removed once the code was used

    def open(self) -> FirstContactCode | None:
        """Return a new code, None when there is an administrator already. An earlier code ends."""
        if self._users.exists_admin():
            return None
        # 100 bits, in four groups that a person can type.
        letters = base64.b32encode(self._token_bytes(13)).decode()[: 4 * GROUP]
        expires_us = self._clock.now_us() + FIRST_CONTACT_LIFETIME_S * SECOND_US
        self._codes.delete(NODE, "tries")
        self._codes.put(NODE, KEY, opaque.digest(letters).encode(), expires_us=expires_us)
        self._record("identity.first_contact.opened", {})
        groups = (letters[i : i + GROUP] for i in range(0, len(letters), GROUP))
        return FirstContactCode("-".join(groups), expires_us // SECOND_US)

    async def redeem(self, code: str, name: str, password: str, *, address: str) -> User:
        """Create the first user with the admin role and every scope, once.

        Raises Malformed: first_contact_busy, first_contact_code (wrong, expired, used: told alike),
        user_name, password_weak. A wrong choice of name or password does not consume the code.
        """
        if not self._throttle.allow("first_contact", address, per_minute=TRIES_PER_MINUTE):
            raise Malformed("first_contact_busy")
        if not self._codes.add(NODE, "tries", 1, ceiling=TRIES_IN_ALL):
            self._codes.delete(NODE, KEY)
            raise Malformed("first_contact_code", fix="restart Bartizan for a new code")
        presented = opaque.digest(normal_code(code))
        entry = self._codes.get(NODE, KEY)
        expected = entry.value.decode() if entry else "0" * 64
        if not hmac.compare_digest(presented, expected) or entry is None or self._users.exists_admin():
            self._record("identity.first_contact.refused", {})
            raise Malformed("first_contact_code")
        tenant = self._settings.default_tenant
        try:
            user = await self._users.create(
                name, password, tenant=tenant, roles=(ADMIN_ROLE,), scopes=("*",), first=True
            )
        except Conflict:
            raise Malformed("first_contact_code") from None
        self._codes.take(NODE, KEY)
        if self.file is not None:
            self.file.unlink(missing_ok=True)
        self._record("identity.first_contact.used", {"tenant": tenant, "sub": user.subject})
        return user


def normal_code(text: str) -> str:
    """Return a typed code without its dashes and spaces, upper case; at most 64 characters are looked at."""
    return "".join(c for c in text[:64] if c.isalnum()).upper()


def announce(code: FirstContactCode, where: str, *, terminal: Terminal, path: Path) -> str:
    """Show the code: on the terminal if a person sees it, else in a file of mode 0600; return where.

    The file is made anew and never through a link; a file that is there is replaced. where: the
    address at which the code is to be entered.
    """
    text = f"First user: open {where} and enter {code.text} (valid 15 minutes)\n"
    if terminal.isatty():
        terminal.write(text)
        return "terminal"
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(path, flags, 0o600), "w", encoding="ascii") as file:
        file.write(text)
    return str(path)


class FirstContactPage:
    """ASGI application for the admin room to mount at one path of its own listener: GET form, POST code.

    origin: of the admin listener; the form is accepted from there only. stylesheets are those of the
    front door, which the admin room serves at the same path.
    """

    def __init__(self, first_contact: FirstContact, pages: Pages, *, origin: str, path: str, least_chars: int) -> None:
        self._first_contact = first_contact
        self._pages = pages
        self._origin = origin
        self._path = path
        self._least_chars = least_chars

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        try:
            reply = await self._answer(scope, receive)
        except Malformed as error:
            if error.code == "client_gone":
                return
            reply = error_reply("invalid_request", min(fault(error.code).status, 499))
        await asgi.write_fixed(send, reply)

    async def _answer(self, scope: Scope, receive: Receive) -> FixedReply:
        if scope["path"] != self._path:
            return error_reply("not_found", 404)
        if scope["method"] == "GET":
            return self._form("", 200)
        if scope["method"] != "POST":
            return error_reply("method_not_allowed", 405, headers=((b"allow", b"GET, POST"),))
        headers = asgi.header_map(scope)
        client = scope.get("client")
        request = WebRequest(
            method="POST",
            path=self._path,
            query=b"",
            headers=headers,
            body=await asgi.read_body(scope, receive, FORM_BODY_BYTES, REQUEST_READ_S),
            client_ip=client[0] if client else "",
            cookies=parse_cookies(headers.get(b"cookie", b"")),
        )
        if not request.is_same_origin(self._origin):
            return self._form("This form was not sent from our own page.", 403)
        try:
            form = request.form()
            user = await self._first_contact.redeem(
                form.get("code"), form.get("username"), form.get("password"), address=request.client_ip
            )
        except Malformed as error:
            return self._form(_TEXTS.get(error.code, _TEXTS["first_contact_code"]), 403)
        text = f"The user {user.name} can sign in now."
        return page_reply(self._pages.render("message", title="Done", text=text))

    def _form(self, error: str, status: int) -> FixedReply:
        html = self._pages.render("first_contact", action=self._path, error=error, least=self._least_chars)
        return page_reply(html, status)


_TEXTS = {
    "first_contact_code": "The code is not right, or is no longer valid. Restart Bartizan for a new one.",
    "first_contact_busy": "Too many tries. Wait a minute.",
    "user_name": "Use letters, digits and . _ - + @ for the user name, at most 64.",
    "password_weak": "Choose a longer password.",
}
