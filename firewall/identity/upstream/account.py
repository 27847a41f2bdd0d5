"""``/account/upstreams``: a person sees which accounts are connected at upstreams, and ends a connection."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from firewall.core.errors import UpstreamFault
from firewall.core.permit import FixedReply
from firewall.identity.people.messages import message, read_post
from firewall.identity.people.transactions import check_form_token
from firewall.identity.serve import Handler
from firewall.identity.upstream.grants import UpstreamGrant
from firewall.identity.upstream.pages import ACCOUNT, COOKIE, ConnectParts
from firewall.identity.upstream.personal import CONNECT
from firewall.identity.web import WebRequest, page_reply, redirect_reply


class AccountPage:
    """The page."""

    def __init__(self, parts: ConnectParts) -> None:
        self._parts = parts
        self._origin = parts.settings.public_url
        self._auths = {name: auth for name, auth in parts.auths.items() if "user" in auth.ways}
        self._cookie = parts.settings.cookie(COOKIE)

    @property
    def routes(self) -> Mapping[str, Mapping[str, Handler]]:
        """The exact path."""
        return {ACCOUNT: {"GET": self.show, "POST": self.end}}

    async def show(self, request: WebRequest) -> FixedReply:
        """List the upstreams of a person; lead on to a connection that a sign-in interrupted."""
        parts = self._parts
        session = parts.sessions.read(request)
        if session is None:
            return parts.sign_in.page(None, to="upstreams")
        name = request.cookies.get(self._cookie, "").partition(".")[0]
        if name in self._auths:
            return redirect_reply(f"{CONNECT}{name}")  # which asking it was about stays in the cookie (AS-24)
        user = session.user
        linked = {grant.place.upstream: grant for grant in parts.grants.of_person(user.tenant, user.subject)}
        rows = [
            {
                "name": name,
                "title": auth.title or name,
                "host": urlsplit(auth.url).netloc,
                "issuer": urlsplit(linked[name].place.issuer).netloc if name in linked else "",
                "scopes": " ".join(linked[name].scopes) if name in linked else "",
                "connected": name in linked,
            }
            for name, auth in sorted(self._auths.items())
            if auth.serves(user.tenant)
        ]
        csrf = parts.transactions.form_token(session.form_secret, ACCOUNT)
        return page_reply(parts.pages.render("upstreams", user=user.shown, upstreams=rows, csrf=csrf))

    async def end(self, request: WebRequest) -> FixedReply:
        """End a connection: here at once, and at its server as far as it listens (RFC 7009)."""
        parts = self._parts
        form = read_post(request, self._origin, parts.pages)
        if isinstance(form, FixedReply):
            return form
        session = parts.sessions.read(request)
        if session is None or not check_form_token(session.form_secret, ACCOUNT, form.get("csrf")):
            return message(parts.pages, "signed_out", 403)
        user = session.user
        name = form.get("upstream")
        for grant in parts.grants.of_person(user.tenant, user.subject, name) if name in self._auths else ():
            parts.grants.drop(grant.place)
            parts.record(
                "identity.upstream.unlinked",
                {"tenant": user.tenant, "sub": user.subject, "upstream": name, "issuer": grant.place.issuer},
            )
            await self._revoke(name, grant)
        return redirect_reply(ACCOUNT)

    async def _revoke(self, name: str, grant: UpstreamGrant) -> None:
        parts, auth = self._parts, self._auths[name]
        try:
            found = await parts.discovery.find(name, auth)
            client = parts.registrations.known(name, auth, found.server)
        except UpstreamFault:
            return
        # Never told to anybody but the issuer that it came from (CL-07).
        if client is None or (found.server.issuer, client.client_id) != (grant.place.issuer, grant.place.client_id):
            return
        for token, hint in ((grant.refresh_token, "refresh_token"), (grant.access_token, "access_token")):
            await parts.tokens.revoke(found.server, client, token, hint, network=auth.network, ca_file=auth.ca_file)
