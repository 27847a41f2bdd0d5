"""The page on which a person decides, for every flow that asks one; and what the person chose on it.

Deny has the focus. Allow works one second after the page was painted, and one second after it got the focus
again, so that a click or a key meant for something else decides nothing (UI-08): a script of ours does it,
and without scripts a box that must be ticked first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from firewall.core.permit import FixedReply
from firewall.core.tool_details import ToolDetail
from firewall.identity.clients.registry import Client
from firewall.identity.people.pages import Pages, clean_name, is_mixed_script, scope_words
from firewall.identity.rfc9396.requested import detail_words
from firewall.identity.web import page_reply
from firewall.wire import oauth
from firewall.wire.oauth import Form

DAY_S: Final = 24 * 3600
HOUR_S: Final = 3600


@dataclass(frozen=True, slots=True)
class ConsentView:
    """What is shown. destination: the host that the person goes to afterwards, "" for a device.

    user_code: what the device shows, "" where there is none. run: whether a run begins (`run_tokens`). hidden: further
    fields of the form. lasts_s, idle_s, run_s: when a connection ends, at most, unused, and where a run begins. logo: path of our own copy of the client's picture, "" where there is none.
    """

    client: Client
    user: str
    resource: str
    resource_title: str
    scopes: tuple[str, ...]
    details: tuple[ToolDetail, ...]
    action: str
    csrf: str
    hidden: Mapping[str, str] = field(default_factory=dict)
    destination: str = ""
    user_code: str = ""
    run: bool = False
    logo: str = ""
    lasts_s: int = 0
    idle_s: int = 0
    run_s: int = 0


def consent_page(
    pages: Pages, view: ConsentView, *, status: int = 200, headers: Sequence[tuple[bytes, bytes]] = ()
) -> FixedReply:
    """Return the page."""
    client = view.client
    claimed = clean_name(client.name) if client.host or client.claimed else ""
    html = pages.render(
        "consent",
        identity=shown_identity(client),
        claimed=claimed,
        logo=view.logo,
        mixed=is_mixed_script(claimed or shown_identity(client)),
        loopback=bool(view.destination) and client.loopback_only,
        user=view.user,
        resource=view.resource,
        resource_title=view.resource_title,
        redirect_host=view.destination,
        user_code=view.user_code,
        run=view.run,
        action=view.action,
        csrf=view.csrf,
        hidden=view.hidden,
        scopes=[{"id": s, "words": scope_words(s)} for s in view.scopes],
        details=[detail_words(d) for d in view.details],
        lasting="refresh_token" in client.grant_types and view.lasts_s > 0,
        lasts_days=max(view.lasts_s // DAY_S, 1),
        idle_days=max(view.idle_s // DAY_S, 1),
        run_lasts=_span(view.run_s) if view.run else "",
    )
    return page_reply(html, status, headers=headers, scripted=True)


def _span(seconds: int) -> str:
    """Return a span as people say it: whole hours, or minutes where it is shorter or does not come out even."""
    number, unit = (seconds // HOUR_S, "hour") if seconds % HOUR_S == 0 else (-(-seconds // 60), "minute")
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"


def chosen(
    form: Form, scopes: tuple[str, ...], details: tuple[ToolDetail, ...]
) -> tuple[tuple[str, ...], tuple[ToolDetail, ...]] | None:
    """Return the scopes and details that were ticked, of those that were offered; None when too few were."""
    ticked = {value for name, value in form.values.items() if name.startswith("scope.")}
    kept = tuple(s for s in scopes if s in ticked)
    named = tuple(d for at, d in enumerate(details) if form.get(f"detail.{at}") == "yes")
    # Without one of the details that were asked for, the token would be the wider one that nobody asked for.
    return (kept, named) if kept and (named or not details) else None


def shown_identity(client: Client) -> str:
    """Return who asks, as a person may believe it.

    That is the host of a client that describes itself, and the name that an operator chose. For one that
    registered itself nobody vouches: all that is true of it is where its answers go.
    """
    if client.host or not client.claimed:
        return client.host or clean_name(client.name)
    hosts = sorted({oauth.redirect_host(uri) for uri in client.redirect_uris})
    return f"an unknown program at {', '.join(hosts[:3])}" if hosts else "an unknown program"
