"""Which A2A version a request speaks, and which operations this gateway carries. Pure.

- Patch numbers never influence negotiation; an absent or empty version means 0.3 (spec §3.6).
- Method style, header and query must agree on one version; a disagreement is refused, never
  guessed at, since two readers would otherwise read one request in two ways.
- 0.3 is told apart here and refused; the room for its translation is `translate.py`.
"""

from __future__ import annotations

from typing import Final, Literal
from urllib.parse import parse_qsl

from firewall.core.errors import Malformed

VERSION: Final = "1.0"
HEADER: Final = b"a2a-version"
QUERY: Final = "A2A-Version"

Method = Literal["SendMessage", "SendStreamingMessage", "GetTask", "CancelTask"]

CARRIED: Final[dict[str, Method]] = {
    "SendMessage": "SendMessage",
    "SendStreamingMessage": "SendStreamingMessage",
    "GetTask": "GetTask",
    "CancelTask": "CancelTask",
}

# Operations of 1.0 that exist and are refused by name, with the protocol's own error (spec §3.3, §5.4).
REFUSED: Final[dict[str, str]] = {
    "ListTasks": "operation_unsupported",
    "SubscribeToTask": "operation_unsupported",
    "GetExtendedAgentCard": "operation_unsupported",
    "CreateTaskPushNotificationConfig": "push_unsupported",
    "GetTaskPushNotificationConfig": "push_unsupported",
    "ListTaskPushNotificationConfigs": "push_unsupported",
    "DeleteTaskPushNotificationConfig": "push_unsupported",
}


def is_current(version: str) -> bool:
    """Return whether a version string means 1.0 (``1.0`` or ``1.0.<patch>``)."""
    if version == VERSION:
        return True
    patch = version.removeprefix("1.0.")
    return patch != version and 1 <= len(patch) <= 4 and patch.isascii() and patch.isdigit()


def check_version(header: bytes | None, query_string: bytes) -> None:
    """Raise unless the request says 1.0, in the header or the query, and says nothing else.

    header: the value of ``A2A-Version``; query_string: as in the ASGI scope.
    Raises Malformed("a2a_version") for another version, none, or two that differ.
    """
    said: set[str] = set()
    if header is not None and header.strip():
        said.add(header.strip().decode("latin-1"))
    try:
        pairs = parse_qsl(query_string.decode("ascii"), keep_blank_values=True, max_num_fields=16)
    except (UnicodeDecodeError, ValueError):
        raise Malformed("a2a_version") from None
    said |= {value for name, value in pairs if name.lower() == QUERY.lower() and value}
    if len(said) != 1 or not is_current(said.pop()):
        raise Malformed("a2a_version")


def check_method(method: str) -> Method:
    """Return the operation, or raise by name.

    Raises Malformed: a2a_version (the 0.3 spelling, with a slash), operation_unsupported,
    push_unsupported, method_unknown.
    """
    if "/" in method:
        raise Malformed("a2a_version")
    if method in REFUSED:
        raise Malformed(REFUSED[method])
    carried = CARRIED.get(method)
    if carried is None:
        raise Malformed("method_unknown")
    return carried
