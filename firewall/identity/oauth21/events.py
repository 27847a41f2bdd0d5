"""What the record says of an authorization request. Pure.

``txn`` ties the events of one request together, ``sid`` those of one sign-in session, ``gid`` those of the OAuth
grant that came of it: `bartizan doctor trace` follows exactly these.
"""

from __future__ import annotations

from firewall.core.jsonvalue import JSONObject
from firewall.identity.people.sessions import LoginSession
from firewall.identity.people.transactions import Transaction


def decided(transaction: Transaction, session: LoginSession, scopes: tuple[str, ...], *, gid: str = "") -> JSONObject:
    """Return the facts of what a person agreed to or declined. gid: the grant to come, "" where there is none."""
    asked, user = transaction.request, session.user
    return {
        "tenant": user.tenant,
        "sub": user.subject,
        "client_id": asked.client_id,
        "resource": asked.resource,
        "scope": " ".join(scopes),
        "sid": session.session_id,
        "txn": transaction.txn_id,
        **({"gid": gid} if gid else {}),
    }


def refused(
    client_id: str, error: str, code: str, transaction: Transaction | None = None, session: LoginSession | None = None
) -> JSONObject:
    """Return the facts of a refusal. error: the OAuth error that the client was told. code: ours, more exact."""
    facts = {
        "tenant": session.user.tenant if session else "",
        "sub": session.user.subject if session else "",
        "client_id": client_id,
        "error": error,
        "code": code if code != error else "",
        "sid": session.session_id if session else "",
        "txn": transaction.txn_id if transaction else "",
    }
    return {name: fact for name, fact in facts.items() if fact}
