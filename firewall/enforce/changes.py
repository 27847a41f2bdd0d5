"""What changed between two definitions, for a person who decides: one entry per JSON path. Pure.

Every text in an entry has been through `detect.visible`: it may be printed and shown as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import orjson

from firewall.core.jsonvalue import JSON, JSONObject, Path, pointer
from firewall.detect.visible import visible

CHANGES: Final = 2_000
What = Literal["added", "removed", "changed"]


@dataclass(frozen=True, slots=True)
class Change:
    """One place that differs. path: RFC 6901. before, after: JSON texts, "" where there was nothing."""

    what: What
    path: str
    before: str
    after: str

    def to_json(self) -> JSONObject:
        """Return the change as the API shows it."""
        return {"what": self.what, "path": self.path, "before": self.before, "after": self.after}


def changes(before: JSON, after: JSON) -> list[Change]:
    """Return the differences in document order, at most `CHANGES`; the last one then says that there are more.

    Objects are compared by member and lists by place; a list that only grew or shrank at its end
    shows its new or lost entries.
    """
    found: list[Change] = []
    for change in _compare(before, after, ()):
        if len(found) >= CHANGES:
            found.append(Change("changed", "", "", "there are more changes than are shown"))
            break
        found.append(change)
    return found


def _compare(before: JSON, after: JSON, path: Path) -> Iterator[Change]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(before.keys() | after.keys()):
            where = (*path, name)
            if name not in before:
                yield _change("added", where, None, after[name])
            elif name not in after:
                yield _change("removed", where, before[name], None)
            else:
                yield from _compare(before[name], after[name], where)
    elif isinstance(before, list) and isinstance(after, list):
        for index in range(max(len(before), len(after))):
            where = (*path, index)
            if index >= len(before):
                yield _change("added", where, None, after[index])
            elif index >= len(after):
                yield _change("removed", where, before[index], None)
            else:
                yield from _compare(before[index], after[index], where)
    elif type(before) is not type(after) or before != after:
        yield _change("changed", path, before, after)


def _change(what: What, path: Path, before: JSON, after: JSON) -> Change:
    return Change(
        what,
        visible(pointer(path)),
        "" if what == "added" else shown(before),
        "" if what == "removed" else shown(after),
    )


def shown(value: JSON) -> str:
    """Return a value as JSON over several lines, nothing in it hidden."""
    if isinstance(value, str):
        # As it is read, not as JSON writes it: lines end where they end.
        return visible(value, keep="\n")
    return visible(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode(), keep="\n")
