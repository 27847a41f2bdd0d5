"""The tables of A2A 1.0 messages, and their strict reading. Pure.

Rules of this file (a2a reference §5.2, §5.3 GW-02…04):

- A value is rebuilt from the tables below, so what leaves holds only known members, each once,
  under its one spelling. ``metadata``, ``data`` and nothing else may hold free JSON.
- The snake_case twin of a known member is refused, alone as well as beside it: peers disagree
  about which of the two wins. So are 0.3 members (``kind``, ``file``, ``final``), numeric enums,
  unknown enum words, two arms of a oneof, and repeated ids.
- Unknown members are dropped (spec §4.1: receivers ignore them); an empty string of an optional
  member is an absent one (ProtoJSON).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.wire.http import parse_url

ID_CHARS: Final = 256
PARTS: Final = 256
LIST_ITEMS: Final = 64
HISTORY: Final = 1024
WORD_CHARS: Final = 512
URL_CHARS: Final = 2048

TASK_STATES: Final = frozenset(
    f"TASK_STATE_{name}"
    for name in (
        "SUBMITTED",
        "WORKING",
        "COMPLETED",
        "FAILED",
        "CANCELED",
        "INPUT_REQUIRED",
        "REJECTED",
        "AUTH_REQUIRED",
    )
)

Parser = Callable[[JSON], JSON]
Kind = Literal["message", "task", "statusUpdate", "artifactUpdate"]
KINDS: Final[tuple[Kind, ...]] = ("task", "message", "statusUpdate", "artifactUpdate")


def bad(detail: str) -> Malformed:
    """Return the one fault of this file; ``detail`` names our own table, never the peer's bytes."""
    return Malformed("params_invalid", detail)


# -- leaves ------------------------------------------------------------------------------------------


def _string(value: JSON, most: int, what: str) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise bad(what)
    return value


def _text(value: JSON) -> JSON:
    if not isinstance(value, str):
        raise bad("text")
    return value


def _word(value: JSON) -> JSON:
    return _string(value, WORD_CHARS, "word")


def _id(value: JSON) -> JSON:
    """An identifier: 0–256 visible ASCII characters; "" counts as absent."""
    text = _string(value, ID_CHARS, "id")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise bad("id")
    return text


def _url(value: JSON) -> JSON:
    """An absolute http or https URL that equals its normal form (DESIGN §6b-5)."""
    text = _string(value, URL_CHARS, "url")
    try:
        normal = str(parse_url(text))
    except Malformed:
        raise bad("url") from None
    if text != normal and f"{text}/" != normal:
        raise bad("url")
    return text


def _base64(value: JSON) -> JSON:
    if not isinstance(value, str):
        raise bad("raw")
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise bad("raw") from None
    if base64.b64encode(data).decode() != value:  # one value, one spelling
        raise bad("raw")
    return value


def _media_type(value: JSON) -> JSON:
    text = _string(value, 255, "mediaType")
    if text and (text.count("/") < 1 or not text.isascii() or not text.isprintable()):
        raise bad("mediaType")
    return text


def _timestamp(value: JSON) -> JSON:
    """RFC 3339 shape; one without a zone is UTC (some agents leave it out)."""
    text = _string(value, 40, "timestamp")
    if len(text) < 19 or not set(text) <= set("0123456789-:T.Z+"):
        raise bad("timestamp")
    return text if text.endswith("Z") or "+" in text or text.count("-") == 3 else f"{text}Z"


def _bool(value: JSON) -> JSON:
    if not isinstance(value, bool):
        raise bad("bool")
    return value


def _count(value: JSON) -> JSON:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 2**31 - 1:
        raise bad("count")
    return value


def _any(value: JSON) -> JSON:
    return value


def _enum(words: frozenset[str]) -> Parser:
    def parse(value: JSON) -> JSON:
        if not isinstance(value, str) or value not in words:
            raise bad("enum")
        return value

    return parse


def _list(item: Parser, most: int, *, least: int = 0, unique: str | None = None) -> Parser:
    """A list of 0…most items; unique: "" for the items themselves, else the member that must differ."""

    def parse(value: JSON) -> JSON:
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise bad("list")
        out = [item(entry) for entry in value]
        if unique is not None:
            keys = [str(entry.get(unique)) if isinstance(entry, dict) else str(entry) for entry in out]
            if len(set(keys)) != len(keys):
                raise bad("duplicate id")
        return out

    return parse


# -- objects -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shape:
    """One message type: its members in wire order.

    required: must be present and not empty. one_of: exactly one of these is present.
    foreign: members of 0.3 whose presence mixes versions.
    """

    name: str
    members: Mapping[str, Parser]
    required: frozenset[str] = frozenset()
    one_of: frozenset[str] = frozenset()
    foreign: frozenset[str] = frozenset({"kind"})
    twins: frozenset[str] = field(init=False, default=frozenset())

    def __post_init__(self) -> None:
        twins = {snake(member) for member in self.members} - self.members.keys()
        object.__setattr__(self, "twins", frozenset(twins))

    def read(self, value: JSON) -> JSONObject:
        """Return the object rebuilt from its known members; raises Malformed("params_invalid")."""
        if not isinstance(value, dict):
            raise bad(self.name)
        if not self.twins.isdisjoint(value) or not self.foreign.isdisjoint(value):
            raise bad(f"{self.name}: spelling")
        if self.one_of and sum(arm in value for arm in self.one_of) != 1:
            raise bad(f"{self.name}: oneof")
        out: JSONObject = {}
        for member, parse in self.members.items():
            if member not in value:
                continue
            raw = value[member]
            if raw is None and member not in self.one_of:
                continue  # ProtoJSON: null is absent
            parsed = parse(raw)
            if parsed == "" and member not in self.one_of:
                continue
            out[member] = parsed
        if not self.required <= out.keys():
            raise bad(f"{self.name}: required")
        return out


def snake(name: str) -> str:
    """Return the proto field name of a JSON name: ``taskId`` → ``task_id``."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name)


def _metadata(value: JSON) -> JSON:
    if not isinstance(value, dict):
        raise bad("metadata")
    return value


_REQUIRED_TEXT: Final = frozenset({"text", "raw", "url", "data"})

PART: Final = Shape(
    "Part",
    {
        "text": _text,
        "raw": _base64,
        "url": _url,
        "data": _any,
        "metadata": _metadata,
        "filename": _word,
        "mediaType": _media_type,
    },
    one_of=_REQUIRED_TEXT,
    foreign=frozenset({"kind", "file"}),
)
MESSAGE: Final = Shape(
    "Message",
    {
        "messageId": _id,
        "contextId": _id,
        "taskId": _id,
        "role": _enum(frozenset({"ROLE_USER", "ROLE_AGENT"})),
        "parts": _list(PART.read, PARTS, least=1),
        "metadata": _metadata,
        "extensions": _list(_word, LIST_ITEMS),
        "referenceTaskIds": _list(_id, LIST_ITEMS, unique=""),
    },
    required=frozenset({"messageId", "role", "parts"}),
)
STATUS: Final = Shape(
    "TaskStatus",
    {"state": _enum(TASK_STATES), "message": MESSAGE.read, "timestamp": _timestamp},
    required=frozenset({"state"}),
)
ARTIFACT: Final = Shape(
    "Artifact",
    {
        "artifactId": _id,
        "name": _word,
        "description": _text,
        "parts": _list(PART.read, PARTS, least=1),
        "metadata": _metadata,
        "extensions": _list(_word, LIST_ITEMS),
    },
    required=frozenset({"artifactId", "parts"}),
)
TASK: Final = Shape(
    "Task",
    {
        "id": _id,
        "contextId": _id,
        "status": STATUS.read,
        "artifacts": _list(ARTIFACT.read, HISTORY, unique="artifactId"),
        "history": _list(MESSAGE.read, HISTORY),
        "metadata": _metadata,
    },
    required=frozenset({"id", "status"}),
)
STATUS_UPDATE: Final = Shape(
    "TaskStatusUpdateEvent",
    {"taskId": _id, "contextId": _id, "status": STATUS.read, "metadata": _metadata},
    required=frozenset({"taskId", "contextId", "status"}),
    foreign=frozenset({"kind", "final"}),
)
ARTIFACT_UPDATE: Final = Shape(
    "TaskArtifactUpdateEvent",
    {
        "taskId": _id,
        "contextId": _id,
        "artifact": ARTIFACT.read,
        "append": _bool,
        "lastChunk": _bool,
        "metadata": _metadata,
    },
    required=frozenset({"taskId", "contextId", "artifact"}),
)
RESULT: Final = Shape(
    "SendMessageResponse",
    {"task": TASK.read, "message": MESSAGE.read},
    one_of=frozenset({"task", "message"}),
)
EVENT: Final = Shape(
    "StreamResponse",
    {
        "task": TASK.read,
        "message": MESSAGE.read,
        "statusUpdate": STATUS_UPDATE.read,
        "artifactUpdate": ARTIFACT_UPDATE.read,
    },
    one_of=frozenset(KINDS),
)


def _no_push(_value: JSON) -> JSON:
    raise Malformed("push_unsupported")


CONFIGURATION: Final = Shape(
    "SendMessageConfiguration",
    {
        "acceptedOutputModes": _list(_media_type, LIST_ITEMS),
        "taskPushNotificationConfig": _no_push,
        "historyLength": _count,
        "returnImmediately": _bool,
    },
    foreign=frozenset({"blocking", "pushNotificationConfig"}),
)


def _no_tenant(value: JSON) -> JSON:
    # Our card offers no tenant path, and a client copies what the card says (spec §3.6).
    if value != "":
        raise bad("tenant")
    return ""


SEND: Final = Shape(
    "SendMessageRequest",
    {
        "tenant": _no_tenant,
        "message": MESSAGE.read,
        "configuration": CONFIGURATION.read,
        "metadata": _metadata,
    },
    required=frozenset({"message"}),
)
GET: Final = Shape(
    "GetTaskRequest", {"tenant": _no_tenant, "id": _id, "historyLength": _count}, required=frozenset({"id"})
)
CANCEL: Final = Shape(
    "CancelTaskRequest", {"tenant": _no_tenant, "id": _id, "metadata": _metadata}, required=frozenset({"id"})
)
