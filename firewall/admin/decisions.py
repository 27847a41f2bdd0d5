"""Decisions for people to read: newest first, filtered, and the story behind one.

All reading is done by one thread of its own over `record.index`, beside the event loop; what a record
never held (values of messages) cannot be shown here either. INVARIANT: a tenant's people see that
tenant's records alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.record.index import Index
from firewall.record.record import DECISION
from firewall.record.show import explain, explain_text

T = TypeVar("T")

PAGE: Final = 50
MOST: Final = 500
EFFECTS: Final = ("allow", "transform", "approve", "deny")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which decisions: "" means any. Times in Unix microseconds, since inclusive, until exclusive."""

    effect: str = ""
    upstream: str = ""
    subject: str = ""
    rule: str = ""
    since_us: int = 0
    until_us: int = 2**62
    limit: int = PAGE


class Decisions:
    """Reads the audit directory of a node."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="admin-reader")
        self._index: Index | None = None

    async def latest(self, tenant: str, wanted: Wanted) -> list[JSONObject]:
        """Return rows, newest first. Raises Malformed (bundle_torn), StateUnavailable."""
        return await self._run(lambda: self._latest(tenant, wanted))

    async def story(self, tenant: str, some_id: str) -> tuple[JSONObject, str]:
        """Return what is recorded about an exchange, and the same in plain words.

        Raises Malformed("record_unknown"), for another tenant's exchange as well.
        """
        return await self._run(lambda: self._story(tenant, some_id))

    def close(self) -> None:
        """End the reading thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self, read: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, read)

    def _latest(self, tenant: str, wanted: Wanted) -> list[JSONObject]:
        if self._index is None:
            self._index = Index(self._directory)  # here: a connection belongs to the thread that made it
        self._index.refresh()
        equals = {name: getattr(wanted, name) for name in ("effect", "upstream", "subject") if getattr(wanted, name)}
        found = self._index.find(
            since_us=wanted.since_us,
            until_us=wanted.until_us,
            rule=wanted.rule,
            newest_first=True,
            limit=min(wanted.limit, MOST),
            kind=DECISION,
            tenant=tenant,
            **equals,
        )
        return [row_of(record) for record in found]

    def _story(self, tenant: str, some_id: str) -> tuple[JSONObject, str]:
        story = explain(self._directory, some_id)
        # Events of the front door and acts of operators are for the command line: no page lists them.
        if story["tenant"] != tenant or not story["exchange"]:
            raise Malformed("record_unknown")
        return story, explain_text(story)


def row_of(record: JSONObject) -> JSONObject:
    """Return one line of the list: ids, who, what, and how it was decided."""
    action, decision = _object(record.get("action")), _object(record.get("decision"))
    return {
        "uid": _text(record.get("uid")),
        "time_us": record.get("time_us", 0),
        "exchange": _text(record.get("exchange")),
        "decision_id": _text(record.get("decision_id")),
        "effect": _text(decision.get("effect")) or "refused",
        "point": _text(record.get("point")),
        "method": _text(action.get("method")),
        "resource": _text(action.get("resource")),
        "upstream": _text(record.get("upstream")),
        "subject": _text(record.get("subject")),
        "client": _text(record.get("client")),
        "rules": list(_texts(decision.get("rules"))),
        "labels": list(_texts(record.get("labels"))),
        "fault": _text(record.get("fault")),
    }


def named(rows: Iterable[JSONObject], names: Mapping[str, str]) -> list[JSONObject]:
    """Return rows with ``name``: who the subject is here, "" for a client of its own, or somebody who is gone."""
    return [{**row, "name": names.get(str(row["subject"]), "")} for row in rows]


def subjects_of(story: JSONObject) -> list[str]:
    """Return whom a story is about: its subject, and who acted for whom."""
    who = _object(story.get("who"))
    chain = who.get("chain")
    links = [_object(one) for one in chain] if isinstance(chain, list) else []
    return [_text(who.get("subject")), *(_text(one.get("sub")) for one in links)]


def _object(value: JSON) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: object) -> Iterable[str]:
    return (v for v in value if isinstance(v, str)) if isinstance(value, list) else ()
