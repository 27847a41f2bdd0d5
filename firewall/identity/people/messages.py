"""What the pages say when they cannot go on, in fixed words; and the one check that every form of ours passes."""

from __future__ import annotations

from collections.abc import Sequence

from firewall.core.permit import FixedReply
from firewall.identity.people.pages import Pages
from firewall.identity.web import WebRequest, page_reply
from firewall.wire import oauth
from firewall.wire.oauth import Form, OAuthError

REASONS = {
    "client": "The program that sent you here is not known, or its description could not be read.",
    "redirect": "The program that sent you here wants to be answered at an address it has not registered.",
    "request": "The request is not complete or repeats itself. Start again from your program.",
    "pushed": "This request has expired or was used before. Start again from your program.",
    "ended": "This request has ended or was started in another browser. Start again from your program.",
    "origin": "This form was not sent from our own page. Start again from your program.",
    "busy": "Too many requests. Wait a minute, then start again from your program.",
    "nothing": "Nothing was selected. Go back and choose at least one permission, or deny.",
    "no_permission": "You have no permission there that could be given.",
    "weak": "This needs a stronger sign-in than yours. Add a second factor under /account/security first.",
    "signed_out": "This form was not sent from our own page, or you are no longer signed in.",
}


def message(pages: Pages, reason: str, status: int, *, headers: Sequence[tuple[bytes, bytes]] = ()) -> FixedReply:
    """Return the page that says why this cannot go on. reason: a key of `REASONS`."""
    html = pages.render("message", title="This cannot go on", text=REASONS[reason])
    return page_reply(html, status, headers=headers)


def leaving(pages: Pages, location: str, host: str, *, headers: Sequence[tuple[bytes, bytes]] = ()) -> FixedReply:
    """Return the page from which a person goes on to a web site that nobody vouches for, or does not."""
    return page_reply(pages.render("leaving", location=location, host=host), headers=headers)


def read_post(request: WebRequest, origin: str, pages: Pages) -> Form | FixedReply:
    """Return the form of a POST that our own page sent, else the page that refuses it (UI-06)."""
    if not request.is_same_origin(origin):
        return message(pages, "origin", 403)
    try:
        form = request.form()
        oauth.refuse_repeated(form)
    except OAuthError:
        return message(pages, "request", 400)
    return form
