"""FrontDoor: the ASGI shell of the authorization server and of everything that is found by metadata.

An exact table of paths; anything else is 404 in JSON, without a redirect. Pages and forms have no
CORS; metadata, keys, ``/token`` and ``/revoke`` answer any origin, without credentials (AS-13).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from firewall.core.bounds import FORM_BODY_BYTES, REQUEST_READ_S
from firewall.core.errors import AuditUnavailable, BartizanError, Malformed, StateUnavailable, fault
from firewall.core.permit import FixedReply
from firewall.identity.oauth21.authorize import Authorization
from firewall.identity.people.account import Account
from firewall.identity.people.pages import Pages
from firewall.identity.people.sign_in import SignIn
from firewall.identity.resources import WELL_KNOWN_PRM, Resources
from firewall.identity.rfc8414.metadata import openid_configuration, resource_metadata, server_metadata
from firewall.identity.rfc9068.tokens import SigningKeys
from firewall.identity.settings import IdentitySettings, Noted
from firewall.identity.web import (
    NO_STORE,
    NOSNIFF,
    WebRequest,
    error_reply,
    json_reply,
    parse_cookies,
    preflight_reply,
)
from firewall.net import asgi
from firewall.net.asgi import Receive, Scope, Send

Handler = Callable[[WebRequest], Awaitable[FixedReply]]

METADATA_CACHE_S: Final = 300
STYLESHEET: Final = "/assets/front-door.css"
CONSENT_SCRIPT: Final = "/assets/consent.js"
OPEN_TO_BROWSERS: Final = ("/.well-known/", "/token", "/revoke", "/register", "/par")


class FrontDoor:
    """ASGI application. `handles` tells the edge's router which paths are ours."""

    def __init__(
        self,
        settings: IdentitySettings,
        resources: Resources,
        keys: SigningKeys,
        sign_in: SignIn,
        authorization: Authorization,
        account: Account,
        pages: Pages,
        noted: Noted,
    ) -> None:
        self._settings = settings
        self._resources = resources
        self._keys = keys
        self._pages = pages
        self._noted = noted
        self.others_at: Callable[[str], tuple[str, ...]] = lambda _path: ()
        self._below: Mapping[str, Mapping[str, Handler]] = {}
        self._routes: Mapping[str, Mapping[str, Handler]] = {
            "/authorize": {"GET": authorization.authorize},
            "/login": {"POST": sign_in.login},
            "/login/code": {"GET": sign_in.show_second, "POST": sign_in.second},
            "/consent": {"GET": authorization.consent, "POST": authorization.decide},
            "/account/grants": {"GET": account.show, "POST": account.end},
            "/logout": {"POST": account.logout},
            "/.well-known/oauth-authorization-server": {"GET": self._server_metadata},
            "/.well-known/openid-configuration": {"GET": self._openid_configuration},
            "/.well-known/jwks.json": {"GET": self._jwks},
            STYLESHEET: {"GET": self._stylesheet},
            CONSENT_SCRIPT: {"GET": self._consent_script},
        }

    def mount(self, routes: Mapping[str, Mapping[str, Handler]]) -> None:
        """Serve further exact paths, before the first request. Raises ValueError for one that is taken."""
        if self._routes.keys() & routes.keys():
            raise ValueError("a path of the front door is taken")
        self._routes = {**self._routes, **routes}

    def mount_below(self, prefix: str, handlers: Mapping[str, Handler]) -> None:
        """Serve every path below a prefix that ends in ``/``; exact paths come first."""
        self._below = {**self._below, prefix: handlers}

    def handles(self, path: str) -> bool:
        """Return whether a path belongs here (unknown resources' metadata included: its 404 is ours)."""
        return path in self._routes or path.startswith((WELL_KNOWN_PRM, *self._below))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        if scope["type"] != "http":
            return
        try:
            reply = await self._answer(scope, receive)
        except Malformed as error:
            if error.code == "client_gone":
                return
            known = fault(error.code)
            reply = error_reply("invalid_request", known.status if known.status < 500 else 400)
        except (StateUnavailable, AuditUnavailable) as error:
            self._note(error, asgi.client_ip(scope))
            reply = error_reply("temporarily_unavailable", 503, headers=((b"retry-after", b"1"),))
        except Exception as error:  # noqa: BLE001 - the one blanket handler of this room: nothing half-done leaves
            self._note(error, asgi.client_ip(scope))
            reply = error_reply("server_error", 500)
        await asgi.write_fixed(send, reply)

    async def _answer(self, scope: Scope, receive: Receive) -> FixedReply:
        path, method = scope["path"], scope["method"]
        handlers = self._handlers(path)
        if handlers is None:
            return error_reply("not_found", 404)
        if method == "OPTIONS" and path.startswith(OPEN_TO_BROWSERS):
            return preflight_reply()
        handler = handlers.get(method)
        if handler is None:
            allowed = ", ".join(handlers).encode()
            return error_reply("method_not_allowed", 405, headers=((b"allow", allowed),))
        headers = asgi.header_map(scope)
        body = b""
        if method == "POST":
            body = await asgi.read_body(scope, receive, FORM_BODY_BYTES, REQUEST_READ_S)
        request = WebRequest(
            method=method,
            path=path,
            query=scope["query_string"],
            headers=headers,
            body=body,
            client_ip=asgi.client_ip(scope),
            cookies=parse_cookies(headers.get(b"cookie", b"")),
        )
        return await handler(request)

    def _handlers(self, path: str) -> Mapping[str, Handler] | None:
        known = self._routes.get(path)
        if known is None and path.startswith(WELL_KNOWN_PRM + "/"):
            if self._resources.at(path.removeprefix(WELL_KNOWN_PRM)) is not None:
                return {"GET": self._resource_metadata}
        if known is None:
            return next((handlers for prefix, handlers in self._below.items() if path.startswith(prefix)), None)
        return known

    def _note(self, error: BaseException, address: str) -> None:
        """Record a failure of ours, within the bounds of what strangers cause: each request may meet it again."""
        code = error.code if isinstance(error, BartizanError) else "internal"
        try:
            self._noted("identity.failure", address, {"code": code, "type": type(error).__name__})
        except BartizanError:
            pass  # the reply says that nothing was done; there is nowhere left to say more

    # -- documents --------------------------------------------------------------------------------------

    async def _resource_metadata(self, request: WebRequest) -> FixedReply:
        resource = self._resources.at(request.path.removeprefix(WELL_KNOWN_PRM))
        if resource is None:
            return error_reply("not_found", 404)
        others = self.others_at(resource.path)
        return json_reply(resource_metadata(self._resources, resource, others=others), cache_s=METADATA_CACHE_S)

    async def _server_metadata(self, _request: WebRequest) -> FixedReply:
        return json_reply(server_metadata(self._settings, self._resources), cache_s=METADATA_CACHE_S)

    async def _openid_configuration(self, _request: WebRequest) -> FixedReply:
        return json_reply(openid_configuration(self._settings, self._resources), cache_s=METADATA_CACHE_S)

    async def _jwks(self, _request: WebRequest) -> FixedReply:
        return json_reply(self._keys.jwks(), cache_s=METADATA_CACHE_S)

    async def _stylesheet(self, _request: WebRequest) -> FixedReply:
        headers = ((b"content-type", b"text/css; charset=utf-8"), NOSNIFF, NO_STORE)
        return FixedReply(200, headers, self._pages.stylesheet)

    async def _consent_script(self, _request: WebRequest) -> FixedReply:
        headers = ((b"content-type", b"text/javascript; charset=utf-8"), NOSNIFF, NO_STORE)
        return FixedReply(200, headers, self._pages.consent_script)
