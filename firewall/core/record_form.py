"""Forms of records: what many records have in common is encoded once, and filled in for each of them.

A form is made of a whole record. In it, the members of `PLACES` are places; their values are ids, digests and numbers
of our own, which need no escape. Everything else stays as it was in that record: whoever keeps a form knows by what.
A filled form has the very bytes that the record itself would have (`tests/record/test_record_form.py`).
"""

from __future__ import annotations

from typing import Final

import orjson

from firewall.core.jsonvalue import JSON, JSONObject

# Member, with the object that it stands in or "" → how its value is written. In the order of a record's text, which
# is sorted; `Form.entry` writes them in it.
PLACES: Final[dict[tuple[str, str], str]] = {
    ("args", "bytes"): "d",
    ("args", "hmac"): "s",
    ("decision", "eval_us"): "d",
    ("", "decision_id"): "s",
    ("", "exchange"): "s",
    ("", "gid"): "s",
    ("outcome", "bytes_in"): "d",
    ("outcome", "bytes_out"): "d",
    ("outcome", "duration_us"): "d",
    ("outcome", "intent"): "s",
    ("", "seq"): "d",
    ("", "time_us"): "d",
    ("", "trace"): "s",
    ("", "uid"): "s",
}
# The values of all places but seq, time_us and uid, in the order of `PLACES`; "" for each that the form has not.
Values = tuple[JSON, ...]
_MARK: Final = "\x00%s\x00"
_ESCAPED_NUL: Final = "\\u0000"


class Form:
    """One form. Raises ValueError for a record with a NUL in it, which marks the places."""

    __slots__ = ("_completion", "_pieces", "_record")

    def __init__(self, record: JSONObject) -> None:
        if _ESCAPED_NUL in orjson.dumps(record).decode():
            raise ValueError("a NUL stands in the record")
        self._record = record
        self._completion: JSONObject | None = None
        self._pieces: tuple[str, ...] = ()  # of the text: what stands before, between and after the places

    def entry(self, values: Values, completion: JSONObject, uid: str, seq: int | str, time_us: int | str) -> bytes:
        """Return the record with these values, completed by what its writer adds; "" for a place that is not there.

        completion: the same object as long as it holds the same members; its places get values too.
        """
        if self._completion is not completion:
            self._pieces = _cut({"v": 1, **self._record, **completion})
            self._completion = completion
        size, digest, eval_us, decision, exchange, gid, came, went, took, intent, trace = values
        a, b, c, d, e, f, g, h, i, j, k, l, m, n, o = self._pieces  # noqa: E741
        return (
            f"{a}{size}{b}{digest}{c}{eval_us}{d}{decision}{e}{exchange}{f}{gid}"
            f"{g}{came}{h}{went}{i}{took}{j}{intent}{k}{seq}{l}{time_us}{m}{trace}{n}{uid}{o}"
        ).encode()


class Filled(tuple[Form, Values]):
    """A record to be written: a form, and a value for each place that its maker knows; a writer adds its own."""

    __slots__ = ()

    def record(self) -> JSONObject:
        """Return it as a whole, without what a writer adds."""
        form, values = self
        found: JSONObject = orjson.loads(form.entry(values, {}, "", "", ""))
        return found


def _cut(record: JSONObject) -> tuple[str, ...]:
    """Return a record's text, sorted and cut at every one of `PLACES`; one that is not there cuts off nothing."""
    record = dict(record)
    marks: list[str] = []
    for (above, name), kind in PLACES.items():
        inner: JSON = record.get(above) if above else record
        there = isinstance(inner, dict) and name in inner
        if isinstance(inner, dict) and there:
            if above:
                inner = record[above] = dict(inner)
            inner[name] = _MARK % name
        mark = orjson.dumps(_MARK % name).decode()
        marks.append((mark if kind == "d" else mark[1:-1]) if there else "")  # a string keeps its quotes
    rest, pieces = orjson.dumps(record, option=orjson.OPT_SORT_KEYS).decode(), []
    for mark in marks:
        piece, _, rest = rest.partition(mark) if mark else ("", "", rest)
        pieces.append(piece)
    return (*pieces, rest)
