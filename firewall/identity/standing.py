"""Standing: whether what was given still means what it meant when it was given.

A name in a path or a scope (``/mcp/time``, ``time:read``) can come to mean another server: the entry is
revoked and the name registered anew. A person's account can change under what the person gave away. Each
ending raises one counter. Codes, refresh tokens, access tokens, OAuth grants and consents carry the sum of
the counters that concern them; a sum only grows, so another sum means that something they name has ended.
One write ends them all, in every worker, without a list of them that could be incomplete.

Tokens that carry no such sum (of other issuers) and things that are no upstream or account of ours (a
session, a client, an issuer, somebody at an issuer) end by time: whatever was issued up to the second of the
ending is over (`ended`).
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from firewall.core.ports import Clock, SharedMarks, Store
from firewall.identity.records import SECOND_US
from firewall.identity.throttle import NODE

_MANY = 2**53 - 1
_KINDS = ("mcp", "a2a")
_KEPT_S = 91 * 24 * 3600  # longer than any refresh token lives
_MEMO = 50_000


def session(session_id: str, issuer: str = "") -> str:
    """Return the name of a session, of ours or of an issuer's."""
    return f"session/{issuer} {session_id}" if issuer else f"session/{session_id}"


def client(client_id: str) -> str:
    """Return the name of a client."""
    return f"client/{client_id}"


def issuer(url: str) -> str:
    """Return the name of an issuer: all of its tokens."""
    return f"issuer/{url}"


def person(url: str, subject: str) -> str:
    """Return the name of somebody as an issuer calls them."""
    return f"person/{url} {subject}"


def exchange(txn: str, client_id: str) -> str:
    """Return the name of what a client got by token exchange within a transaction (RFC 8693)."""
    return f"exchange/{txn} {client_id}"


class Standing:
    """The counters of endings, per tenant; those of `NODE` count for every tenant."""

    def __init__(self, store: Store, marks: SharedMarks, clock: Clock) -> None:
        self._ended = store.collection("oauth_ended")
        self._ended_at = store.collection("oauth_ended_at")
        self._marks = marks
        self._clock = clock
        # What was read at this epoch. Every ending bumps it after its write, so nothing older is believed.
        self._memo: dict[tuple[str, str, str], int] = {}
        self._memo_epoch = -1

    def of(self, tenant: str, subject: str, resource: str, scopes: Iterable[str]) -> int:
        """Return how often something that these name has ended.

        subject: "" leaves the person out. resource: its URI; with the names before ``:`` in the scopes it
        says which upstreams are meant. A scope with another name than the resource's own was given along with it,
        to be exchanged (RFC 8693), and may be of either kind of upstream.
        """
        kind, _, own = urlsplit(resource).path.removeprefix("/").partition("/")
        keys: set[str] = set()
        for scope in scopes:
            name = scope.rpartition(":")[0]
            kinds = (kind, *_KINDS) if own and name != own else (kind,)
            keys.update(f"{one}/{name}" for one in kinds)
        self._look()
        total = sum(self._count(owner, key) for key in keys for owner in (tenant, NODE))
        return total + (self._count(tenant, f"subject/{subject}") if subject else 0)

    def end_upstream(self, tenant: str, kind: str, name: str) -> None:
        """End what anybody of the tenant holds for an upstream. tenant: `NODE` for every tenant."""
        self._end(tenant, f"{kind}/{name}")

    def end_subject(self, tenant: str, subject: str) -> None:
        """End what a person has given away."""
        self._end(tenant, f"subject/{subject}")

    def end(self, tenant: str, name: str) -> None:
        """End what was issued until now to whom a name means: see `session`, `client`, `issuer`, `person`.

        tenant: `NODE` for every tenant; what belongs to an issuer is always told there.
        """
        now_us = self._clock.now_us()
        value = str(now_us // SECOND_US).encode()
        self._ended_at.put(tenant, name, value, expires_us=now_us + _KEPT_S * SECOND_US)
        self._marks.bump()

    def ended(self, tenant: str, names: Iterable[str], issued_s: int) -> bool:
        """Return whether any of the names ended in the second of the issue or later. issued_s: Unix seconds."""
        self._look()
        return any(self._read("at", owner, name) >= issued_s for name in names for owner in (tenant, NODE))

    def _count(self, tenant: str, key: str) -> int:
        return self._read("count", tenant, key)

    def _look(self) -> None:
        """Forget what was read at another epoch. Before any look-up: a write in between is seen with the next one."""
        epoch = self._marks.epoch()
        if epoch != self._memo_epoch or len(self._memo) >= _MEMO:
            self._memo.clear()
            self._memo_epoch = epoch

    def _read(self, what: str, tenant: str, key: str) -> int:
        found = self._memo.get((what, tenant, key))
        if found is None:
            entry = (self._ended if what == "count" else self._ended_at).get(tenant, key)
            # −1: never; an issue at second 0 has not ended either.
            found = int(entry.value) if entry else 0 if what == "count" else -1
            self._memo[what, tenant, key] = found
        return found

    def _end(self, tenant: str, key: str) -> None:
        self._ended.add(tenant, key, 1, ceiling=_MANY)
        self._marks.bump()
