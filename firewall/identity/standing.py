"""Standing: whether what was given still means what it meant when it was given.

A name in a path or a scope (``/mcp/time``, ``time:read``) can come to mean another server: the entry is
revoked and the name registered anew. A person's account can change under what the person gave away. Each
ending raises one counter. Codes, refresh tokens, access tokens, OAuth grants and consents carry the sum of
the counters that concern them; a sum only grows, so another sum means that something they name has ended.
One write ends them all, in every worker, without a list of them that could be incomplete.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from firewall.core.ports import SharedMarks, Store
from firewall.identity.throttle import NODE

_MANY = 2**53 - 1


class Standing:
    """The counters of endings, per tenant; those of `NODE` count for every tenant."""

    def __init__(self, store: Store, marks: SharedMarks) -> None:
        self._ended = store.collection("oauth_ended")
        self._marks = marks

    def of(self, tenant: str, subject: str, resource: str, scopes: Iterable[str]) -> int:
        """Return how often something that these name has ended.

        subject: "" leaves the person out. resource: its URI; with the names before ``:`` in the scopes it
        says which upstreams are meant.
        """
        kind = urlsplit(resource).path.split("/")[1:2]
        keys = {f"{kind[0] if kind else ''}/{scope.rpartition(':')[0]}" for scope in scopes}
        total = sum(self._count(owner, key) for key in keys for owner in (tenant, NODE))
        return total + (self._count(tenant, f"subject/{subject}") if subject else 0)

    def end_upstream(self, tenant: str, kind: str, name: str) -> None:
        """End what anybody of the tenant holds for an upstream. tenant: `NODE` for every tenant."""
        self._end(tenant, f"{kind}/{name}")

    def end_subject(self, tenant: str, subject: str) -> None:
        """End what a person has given away."""
        self._end(tenant, f"subject/{subject}")

    def _count(self, tenant: str, key: str) -> int:
        entry = self._ended.get(tenant, key)
        return int(entry.value) if entry else 0

    def _end(self, tenant: str, key: str) -> None:
        self._ended.add(tenant, key, 1, ceiling=_MANY)
        self._marks.bump()
