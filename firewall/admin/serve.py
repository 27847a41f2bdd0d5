"""AdminApp: the ASGI shell of the admin room. Health, metrics and styles here; the rest is loaded at first use.

Importing FastAPI costs half a second and some megabytes, which no start and no agent should pay: it
happens in a thread, when a person or a script first asks for a page or the API.
"""

from __future__ import annotations

import asyncio
import ipaddress
from pathlib import Path
from typing import Final

from firewall.admin.access import EXTENSION, Access
from firewall.admin.health import readiness
from firewall.admin.parts import AdminParts
from firewall.core.action import Headers
from firewall.core.bounds import FORM_BODY_BYTES, REQUEST_READ_S
from firewall.core.errors import AuditUnavailable, BartizanError, Malformed, StateUnavailable, fault
from firewall.core.permit import FixedReply
from firewall.net import asgi
from firewall.net.asgi import App, Message, Receive, Scope, Send
from firewall.wire import strict_json

HERE: Final = Path(__file__).parent
PROMETHEUS: Final = b"text/plain; version=0.0.4; charset=utf-8"

# A page may load our own style and script and call our own API, and nothing else (operations §3.4).
SECURITY: Final[Headers] = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        b"form-action 'self'; base-uri 'none'; object-src 'none'; frame-ancestors 'none'; "
        b"require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
)

# Of pages whose form leads to an identity provider: browsers hold `form-action` against the redirect after it too.
LEADS_AWAY: Final = SECURITY[0][1].replace(b"form-action 'self'; ", b"")


def build(parts: AdminParts) -> AdminApp:
    """Return the ASGI application of the admin listener; the composition root puts it behind an Edge."""
    return AdminApp(parts)


class AdminApp:
    """One application for both ways in; only `as_operator` makes a request the owner's."""

    def __init__(self, parts: AdminParts) -> None:
        self._parts = parts
        self.access = Access(parts)
        self._console: App | None = None
        self._loading = asyncio.Lock()
        self._assets = {
            "/assets/front-door.css": (b"text/css; charset=utf-8", parts.identity.pages.stylesheet),
            "/static/console.css": (b"text/css; charset=utf-8", (HERE / "static" / "console.css").read_bytes()),
            "/static/icon.svg": (b"image/svg+xml", (HERE / "static" / "icon.svg").read_bytes()),
            "/static/live.js": (b"text/javascript; charset=utf-8", (HERE / "static" / "live.js").read_bytes()),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request of the listener; whatever it claims to be, it is not the owner's."""
        if scope["type"] != "http":
            return
        scope.get("extensions", {}).pop(EXTENSION, None)
        await self._serve(scope, receive, send)

    async def as_operator(self, peer: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request of the unix socket, whose peer the kernel named (``uid:1000``)."""
        if scope["type"] == "http":
            scope["extensions"] = {**scope.get("extensions", {}), EXTENSION: peer}
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        guarded = _WithHeaders(send)
        try:
            reply = await self._plain(scope)
            if reply is not None:
                await asgi.write_fixed(guarded, reply)
                return
            if self._console is None:
                await self._load()
            assert self._console is not None
            await self._console(scope, await _bounded(scope, receive), guarded)
        except BartizanError as error:
            if error.code != "client_gone" and not guarded.started:
                await asgi.write_fixed(guarded, error_reply(error))
        except Exception as error:  # noqa: BLE001 - the last resort of this room: nothing half-done, nothing told
            self._parts.on_fault("admin_internal", type(error).__name__)
            if not guarded.started:
                await asgi.write_fixed(guarded, error_reply(BartizanError("internal")))

    async def _plain(self, scope: Scope) -> FixedReply | None:
        """Return the reply to what needs no console, else None."""
        path, method = scope["path"], scope["method"]
        if method not in ("GET", "HEAD"):
            return None
        if path in self._assets:
            kind, data = self._assets[path]
            return FixedReply(200, ((b"content-type", kind), (b"cache-control", b"max-age=300")), data)
        if path == "/healthz":
            return json_reply({"status": "ok"})
        if path == "/readyz":
            said = readiness(self._parts)
            # A stranger learns whether, and a person or the socket why.
            known = self.access.caller(scope) is not None
            return json_reply(said if known else {"ready": said["ready"]}, 200 if said["ready"] else 503)
        if path == "/metrics":
            if not _is_loopback(scope) and self.access.caller(scope) is None:
                return error_reply(BartizanError("sign_in"))
            text = await asyncio.to_thread(self._parts.metrics)
            return FixedReply(200, ((b"content-type", PROMETHEUS),), text)
        return None

    async def _load(self) -> None:
        async with self._loading:
            if self._console is None:
                self._console = await asyncio.to_thread(self._make)

    def _make(self) -> App:
        from firewall.admin.console import make

        return make(self._parts, self.access)


class _WithHeaders:
    """Send, with the headers that every answer of this room carries; knows whether one began."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            given = {name.lower() for name, _ in message.get("headers", ())}
            extra = [(name, value) for name, value in SECURITY if name not in given]
            message = {**message, "headers": [*message.get("headers", ()), *extra]}
        await self._send(message)


async def _bounded(scope: Scope, receive: Receive) -> Receive:
    """Return a ``receive`` whose body is read and within its bound. Raises Malformed."""
    if scope["method"] in ("GET", "HEAD"):
        return receive
    body = await asgi.read_body(scope, receive, FORM_BODY_BYTES, REQUEST_READ_S)
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def json_reply(value: object, status: int = 200) -> FixedReply:
    """Return a JSON reply of our own words."""
    return FixedReply(status, ((b"content-type", b"application/json"),), strict_json.dumps(value))  # type: ignore[arg-type]


# Codes that only this room tells, with their status; every other one is in core.errors.FAULTS.
STATUS: Final[dict[str, int]] = {
    "sign_in": 401,
    "sign_in_busy": 429,
    "csrf": 403,
    "role": 403,
    "fresh": 403,
    "admin_denied": 403,
    "second_self": 403,
    "second_stale": 409,
    "second_script": 403,
    "approval_unknown": 404,
    "registry_unknown": 404,
    "stop_unknown": 404,
    "state_conflict": 409,
    "record_unknown": 404,
    "pin_unknown": 404,
    "user_unknown": 404,
    "client_unknown": 404,
    "client_exists": 409,
    "internal": 500,
}


def status_of(error: BartizanError) -> int:
    """Return the HTTP status of an error told to people and scripts of the admin room."""
    if error.code in STATUS:
        return STATUS[error.code]
    if isinstance(error, StateUnavailable | AuditUnavailable):
        return 503
    known = fault(error.code)
    if known.code == error.code:
        return known.status
    return 422 if isinstance(error, Malformed) or error.code.startswith(("registry_", "agent_")) else 500


def error_reply(error: BartizanError) -> FixedReply:
    """Return an error with its code, what happened and the mend: operators may read these (DESIGN §8)."""
    headers: list[tuple[bytes, bytes]] = [(b"content-type", b"application/json")]
    status = status_of(error)
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="bartizan-admin"'))
    body = {"error": error.code, "detail": error.detail if status < 500 else "", "fix": error.fix}
    return FixedReply(status, tuple(headers), strict_json.dumps(body))  # type: ignore[arg-type]


def _is_loopback(scope: Scope) -> bool:
    if EXTENSION in scope.get("extensions", {}):
        return True
    client = scope.get("client") or ("",)
    try:
        return ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False
