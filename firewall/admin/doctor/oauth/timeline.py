"""One sign-in from its first page to the last token: the front door's records that belong together, by time.

What belongs together: an authorization request (``txn``), the OAuth grant that came of it (``gid``), the sign-in of
the session (``sid``) in which it was agreed to. Sharing a person or a client joins nothing: their other sign-ins are
other stories.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from firewall.config import Config
from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import Clock
from firewall.identity.clients.stranger import digest_of
from firewall.identity.people.users import subjects_called
from firewall.record.face import client_of, effect_of, fault_of, resource_of, subject_of
from firewall.record.index import Index
from firewall.record.record import ADMIN, AUTH, DECISION, EDGE
from firewall.state.sqlite import SQLiteStore

MOST: Final = 50_000  # events that are looked at, from the newest back
STORIES: Final = ("txn", "gid")
HTTPS: Final = "https://"
# What the writer adds to every record names nobody.
_OF_THE_LOG: Final = frozenset({"v", "kind", "seq", "log", "node", "ver", "time_us"})


def timeline(config: Config, about: str, *, since_us: int, clock: Clock) -> list[JSONObject]:
    """Return what happened at the front door around somebody or something, oldest first.

    about: a person's name (also of somebody who was removed) or subject, a client's id (also one that nobody knows here) or its host, an OAuth grant, a
    provider or upstream by name, a decision's id, a code of a refusal; "" for everything.
    since_us: from when on an event must name it, Unix microseconds; what belongs to such an event is told however old
    it is, among the newest 50,000 events. A decision is told with its own line, in front-door form (`_line_of`).
    Raises Malformed (bundle_torn), StateUnavailable.
    """
    index = Index(config.audit_dir)
    try:
        index.refresh()
        events = list(index.find(kind=AUTH, newest_first=True, limit=MOST))[::-1]
        exchange = index.exchange_of(about) if about else ""
        decisions = list(index.find(kind=DECISION, exchange=exchange)) if exchange else []
        if about and not decisions:  # a token that was refused at the edge has an id as decisions have
            decisions = list(index.find(kind=EDGE, decision_id=about, limit=1))
        gone = _removed(index.find(kind=ADMIN, newest_first=True, limit=MOST), about) if about else frozenset()
    finally:
        index.close()
    recent = [event for event in events if _time(event) >= since_us]
    if not about:
        return recent
    if decisions:
        named = [event for event in events if any(_is_behind(event, decision) for decision in decisions)]
    else:
        wanted = _Wanted(about, _subjects(config, about, clock) | gone)
        named = [event for event in recent if wanted.names(event)]
    return sorted([*_joined(events, named), *map(_line_of, decisions)], key=_time)


class _Wanted:
    """What is asked for, in every spelling that a record may have of it."""

    def __init__(self, about: str, people: frozenset[tuple[str, str]]) -> None:
        self._about, self._people, self._digest = about, people, digest_of(about)

    def names(self, event: JSONObject) -> bool:
        if (event.get("tenant"), event.get("sub")) in self._people or event.get("client_sha256") == self._digest:
            return True
        if self._about and _host_of(event.get("client_id")) == self._about:
            return True
        return any(value == self._about for name, value in event.items() if name not in _OF_THE_LOG)


def _host_of(client_id: object) -> str:
    """Return the host of a client that is known by its document's address; "" of any other."""
    return client_id.removeprefix(HTTPS).split("/")[0] if isinstance(client_id, str) and client_id[:8] == HTTPS else ""


def _joined(events: Iterable[JSONObject], named: list[JSONObject]) -> list[JSONObject]:
    """Return the named events with what belongs to them, in the order of ``events``."""
    events = list(events)
    ours = {_uid(event) for event in named}
    held: set[tuple[str, object]] = set()
    grew = True
    while grew:  # a request has one grant and a grant one request: two rounds, or three
        before = len(held)
        held |= {(name, event[name]) for event in events if _uid(event) in ours for name in STORIES if event.get(name)}
        ours |= {_uid(event) for event in events if any((name, event.get(name)) in held for name in STORIES)}
        grew = len(held) > before
    sessions = {event["sid"] for event in events if _uid(event) in ours and event.get("sid")}
    signed_in = [event for event in events if event.get("sid") in sessions and _is_bare(event)]
    # Where the session began with another request: how the person proved who they are, and no more of that one.
    ways = {event["txn"] for event in signed_in if event.get("txn")}
    ours |= {_uid(event) for event in signed_in}
    ours |= {_uid(event) for event in events if event.get("txn") in ways and _is_bare(event)}
    return [event for event in events if _uid(event) in ours]


def _is_bare(event: JSONObject) -> bool:
    """Return whether an event is about a person's sign-in alone, and no client's business."""
    return not event.get("client_id") and not event.get("gid")


def _is_behind(event: JSONObject, decision: JSONObject) -> bool:
    """Return whether an event is of the grant behind a call; of its caller, where no grant is (a service)."""
    if event.get("tenant") != decision.get("tenant"):
        return False
    if decision.get("gid"):
        return event.get("gid") == decision["gid"]
    caller = (subject_of(decision), client_of(decision))
    return any(caller) and (subject_of(event), client_of(event)) == caller


def _line_of(decision: JSONObject) -> JSONObject:
    """Return a decision in the form of an event: its point as ``event``, ids, what was asked, and what came of it."""
    made = decision.get("decision")
    return {
        "event": decision.get("point") or decision.get("kind", ""),
        "time_us": decision.get("time_us", 0),
        "tenant": decision.get("tenant", ""),
        "sub": subject_of(decision),
        "client_id": client_of(decision),
        "gid": decision.get("gid", ""),
        "decision_id": decision.get("decision_id", ""),
        "resource": resource_of(decision),
        "effect": effect_of(decision),
        "rules": made.get("rules", []) if isinstance(made, dict) else [],
        "code": fault_of(decision),
        "detail": decision.get("detail", ""),
        "uid": decision.get("uid", ""),
    }


def _removed(acts: Iterable[JSONObject], name: str) -> frozenset[tuple[str, str]]:
    """Return the tenant and subject of everybody who went by a name until they were removed.

    No state knows them any more; the act that removed them says both. Several people may have had the name, one
    after the other.
    """
    spelt = name.strip().lower()
    return frozenset(
        (str(act.get("tenant", "")), str(act.get("object", "")))
        for act in acts
        if act.get("verb") == "user.remove" and act.get("text") == spelt and act.get("object")
    )


def _subjects(config: Config, name: str, clock: Clock) -> frozenset[tuple[str, str]]:
    path = config.state / "state.db"
    if not path.exists():
        return frozenset()
    store = SQLiteStore(path, clock=clock)
    try:
        return subjects_called(store, name)
    finally:
        store.close()


def _uid(event: JSONObject) -> object:
    return event.get("uid", "")


def _time(event: JSONObject) -> int:
    time_us = event.get("time_us")
    return time_us if isinstance(time_us, int) else 0
