"""The JSON value type, JSON Pointers, and pure walks over values.

Values are what `wire.strict_json` returns: dict, list, str, int, float, bool, None.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

JSON: TypeAlias = "dict[str, JSON] | list[JSON] | str | int | float | bool | None"
JSONObject: TypeAlias = "dict[str, JSON]"
Path: TypeAlias = "tuple[str | int, ...]"


def pointer(path: Path) -> str:
    """Return the JSON Pointer of a path (RFC 6901 §3: ``~`` is ``~0``, ``/`` is ``~1``)."""
    return "".join("/" + str(p).replace("~", "~0").replace("/", "~1") for p in path)


def parse_pointer(text: str) -> tuple[str, ...]:
    """Return the reference tokens of a JSON Pointer; raises ValueError when it is not one."""
    if text == "":
        return ()
    if not text.startswith("/"):
        raise ValueError("a JSON Pointer starts with /")
    return tuple(t.replace("~1", "/").replace("~0", "~") for t in text[1:].split("/"))


def get(value: JSON, path: Path | tuple[str, ...]) -> JSON:
    """Return the value at a path; raises KeyError when there is none."""
    for token in path:
        if isinstance(value, dict):
            value = value[str(token)]
        elif isinstance(value, list):
            try:
                value = value[int(token)]
            except (ValueError, IndexError):
                raise KeyError(token) from None
        else:
            raise KeyError(token)
    return value


def replaced(value: JSON, path: Path | tuple[str, ...], new: JSON) -> JSON:
    """Return a copy of ``value`` with the member at ``path`` replaced; shares the rest.

    Raises KeyError when the path leads nowhere: nothing is ever added.
    """
    if not path:
        return new
    head, rest = path[0], path[1:]
    if isinstance(value, dict):
        key = str(head)
        return {**value, key: replaced(value[key], rest, new)}
    if isinstance(value, list):
        try:
            index = int(head)
            inner = value[index]
        except (ValueError, IndexError):
            raise KeyError(head) from None
        return [*value[:index], replaced(inner, rest, new), *value[index + 1 :]]
    raise KeyError(head)


def strings(value: JSON, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Yield every string of a value with its path, keys included (a key's path ends in the key).

    Iterative, so that depth costs no stack. Order: depth first, document order.
    """
    stack: list[tuple[Path, JSON]] = [(path, value)]
    while stack:
        where, item = stack.pop()
        if isinstance(item, str):
            yield where, item
        elif isinstance(item, dict):
            for key in item:
                yield (*where, key), key
            stack.extend(((*where, key), item[key]) for key in reversed(item))
        elif isinstance(item, list):
            stack.extend(((*where, i), item[i]) for i in range(len(item) - 1, -1, -1))
