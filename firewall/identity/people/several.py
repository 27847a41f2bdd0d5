"""What somebody is shown whose browser has several requests under way: which one this page is about.

No address says it (AS-24). The way through the pages does, so this is seen by who loads a page again, or goes back to it,
while another program or tab asks too. Choosing decides nothing: the page that it leads to asks.
"""

from __future__ import annotations

from collections.abc import Sequence

from firewall.core.permit import FixedReply
from firewall.identity.people.pages import Pages
from firewall.identity.people.transactions import Transaction, Transactions
from firewall.identity.web import page_reply
from firewall.wire import oauth


def several_page(pages: Pages, transactions: Transactions, found: Sequence[tuple[Transaction, str, str]]) -> FixedReply:
    """Return the page. found: each request with how its program is shown and the title of what it asks for."""
    rows = [
        {
            "txn": each.txn_id,
            "csrf": transactions.form_token(each.secret, choosing(each)),
            "identity": identity or "an unknown program",
            "resource": resource,
            "destination": oauth.redirect_host(each.request.redirect_uri),
        }
        for each, identity, resource in found
    ]
    return page_reply(pages.render("several", rows=rows))


def choosing(transaction: Transaction) -> str:
    """Return the purpose of the form token that a choice carries (`Transactions.form_token`)."""
    return f"choosing\0{transaction.txn_id}"
