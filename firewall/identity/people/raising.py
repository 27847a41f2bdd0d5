"""What somebody is shown whose sign-in is not strong enough for what a program asks (RFC 9470 §5).

An error alone would reach the program and help nobody: the person has to set up a second factor, or sign in with
the one that there is. Setting one up here asks for the password again (`security`) and is no sign-in: the session that
did it stays what it was, so that one which somebody took over raises nothing (AS-16).
"""

from __future__ import annotations

from typing import Literal

from firewall.core.permit import FixedReply
from firewall.core.step_up import SECOND_FACTOR
from firewall.identity.people.pages import Pages
from firewall.identity.people.second_factor import SecondFactors
from firewall.identity.people.sessions import LoginSession
from firewall.identity.people.users import Users
from firewall.identity.rfc9470 import levels
from firewall.identity.web import page_reply
from firewall.wire.oauth import AuthorizationRequest

Way = Literal["none", "again", "enrol", "elsewhere"]
AGAIN = "Sign in again, with the code of your authenticator app."


def way_up(asked: AuthorizationRequest, session: LoginSession, users: Users, factors: SecondFactors) -> Way:
    """Return what the person of a session can do to reach the level that is asked for.

    ``none``: nothing here, or strength is not what is missing. ``again``: sign in with the second factor that is
    enrolled. ``enrol``: set one up first. ``elsewhere``: no password here, so it is their provider's second factor.
    """
    if levels.strong_enough(asked, session.acr) or not levels.strong_enough(asked, SECOND_FACTOR):
        return "none"
    user = session.user
    if not users.has_password(user.tenant, user.subject):
        return "elsewhere"
    return "again" if factors.enrolled(user) else "enrol"


def raise_page(pages: Pages, way: Way, *, client: str, txn: str, csrf: str) -> FixedReply:
    """Return the page that says what is missing, leads to it, and lets the person go back without it."""
    return page_reply(pages.render("raising", way=way, client=client, txn=txn, csrf=csrf), 403)
