"""Forms of records: what many records have in common is encoded once, and filled in for each of them.

A form is made of a whole record. In it, the members of `PLACES` are places; their values are ids, digests and numbers
of our own, which need no escape. Everything else stays as it was in that record: whoever keeps a form knows by what.
A filled form has the very bytes that the record itself would have (`tests/record/test_record_form.py`).
"""

from __future__ import annotations

from typing import Final

import orjson

from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.value import value

# Member, with the object that it stands in or "" → how its value is written. The last member's name is the value's.
PLACES: Final[dict[tuple[str, str], str]] = {
    ("args", "bytes"): "d",
    ("args", "hmac"): "s",
    ("decision", "eval_us"): "d",
    ("outcome", "bytes_in"): "d",
    ("outcome", "bytes_out"): "d",
    ("outcome", "duration_us"): "d",
    ("outcome", "intent"): "s",
    ("", "decision_id"): "s",
    ("", "exchange"): "s",
    ("", "gid"): "s",
    ("", "seq"): "d",
    ("", "time_us"): "d",
    ("", "trace"): "s",
    ("", "uid"): "s",
}
_MARK: Final = "\x00%s\x00"
_ESCAPED_NUL: Final = "\\u0000"


class Form:
    """One form. Raises ValueError for a record with a NUL in it, which marks the places."""

    __slots__ = ("_completion", "_names", "_pieces", "_record")

    def __init__(self, record: JSONObject) -> None:
        if _ESCAPED_NUL in orjson.dumps(record).decode():
            raise ValueError("a NUL stands in the record")
        self._record = record
        self._completion: JSONObject | None = None
        self._pieces: list[str] = []  # of the text; each second one is a place
        self._names: list[str] = []  # of the places, in their order

    def entry(self, values: JSONObject, completion: JSONObject) -> bytes:
        """Return the record with these values, completed by what its writer adds.

        completion: the same object as long as it holds the same members; its places get values too.
        """
        if self._completion is not completion:
            self._pieces, self._names = _cut({"v": 1, **self._record, **completion})
            self._completion = completion
        pieces = self._pieces.copy()
        pieces[1::2] = map(str, map(values.__getitem__, self._names))
        return "".join(pieces).encode()


@value
class Filled:
    """A record to be written: a form, and a value for each place that its maker knows; a writer adds its own."""

    form: Form
    values: JSONObject

    def record(self) -> JSONObject:
        """Return it as a whole, without what a writer adds."""
        found: JSONObject = orjson.loads(self.form.entry(self.values, {}))
        return found


def _cut(record: JSONObject) -> tuple[list[str], list[str]]:
    """Return a record's text, sorted and cut at its places, an empty piece for each; and their names in that order."""
    record = dict(record)
    marks: dict[str, str] = {}
    for (above, name), kind in PLACES.items():
        inner: JSON = record.get(above) if above else record
        if isinstance(inner, dict) and name in inner:
            if above:
                inner = record[above] = dict(inner)
            inner[name] = _MARK % name
            mark = orjson.dumps(_MARK % name).decode()
            marks[mark if kind == "d" else mark[1:-1]] = name  # a string keeps its quotes
    text = orjson.dumps(record, option=orjson.OPT_SORT_KEYS).decode()
    names = [marks[mark] for mark in sorted(marks, key=text.index)]
    for mark in marks:
        text = text.replace(mark, "\x00")
    pieces = [""] * (2 * len(names) + 1)
    pieces[::2] = text.split("\x00")
    return pieces, names
