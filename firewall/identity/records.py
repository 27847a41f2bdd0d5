"""How the front door's records are kept in a Collection: strict JSON objects with typed readers."""

from __future__ import annotations

from firewall.core.errors import StateUnavailable
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.wire import strict_json

SECOND_US = 1_000_000


def encode(value: JSONObject) -> bytes:
    """Return the stored bytes."""
    return strict_json.dumps(value)


def decode(data: bytes) -> JSONObject:
    """Return the record; a damaged one counts as an unreadable store (callers fail closed)."""
    value = strict_json.loads(data)
    if not isinstance(value, dict):
        raise StateUnavailable("identity record")
    return value


def text(record: JSONObject, name: str) -> str:
    """Return a string member, "" when absent."""
    value = record.get(name, "")
    return value if isinstance(value, str) else ""


def number(record: JSONObject, name: str) -> int:
    """Return an integer member, 0 when absent."""
    value = record.get(name, 0)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def texts(record: JSONObject, name: str) -> tuple[str, ...]:
    """Return a list of strings, () when absent."""
    value: JSON = record.get(name)
    return tuple(v for v in value if isinstance(v, str)) if isinstance(value, list) else ()


def objects(record: JSONObject, name: str) -> tuple[JSONObject, ...]:
    """Return a list of objects, () when absent."""
    value: JSON = record.get(name)
    return tuple(v for v in value if isinstance(v, dict)) if isinstance(value, list) else ()
