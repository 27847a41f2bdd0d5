"""What one record says in one line: who, of which client, what and how, in the same words for every kind of record.

A decision names ``subject`` and ``client``; an event of the front door names the same two as tokens do, ``sub`` and
``client_id`` (RFC 9068 §2.2); an operator's act names ``by``. Lists and filters read them here, so that a question
about a person finds all three. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from firewall.core.jsonvalue import JSON, JSONObject
from firewall.record.record import AUTH

# In this order: why something was refused or ended, before what it was about.
_WHY: Final = ("error", "code", "reason")
_REFUSALS: Final = frozenset(
    {"refused", "failed", "failure", "denied", "delayed", "mixed_up", "refresh_refused", "stranger"}
)
_ABOUT: Final = ("grant_type", "method", "factor", "acr", "idp", "wait_s")


@dataclass(frozen=True, slots=True)
class Face:
    """One line. Each is "" where the record does not say.

    what: the event of the front door, or the resource that was asked for, or what an operator changed.
    how: the effect of a decision; of an event the codes of its refusal or the reason, else what it was done with.
    who: the subject, or the operator; where there is neither, ``client`` and its id, or the host that a client which
        nobody knows called itself by.
    """

    time_us: int
    kind: str
    point: str
    what: str
    how: str
    who: str
    client: str
    uid: str


def face(record: JSONObject) -> Face:
    """Return a record's line. record: whole, as `record.index` yields it; a member of another type counts as absent."""
    time_us, subject, client = record.get("time_us"), subject_of(record), client_of(record)
    return Face(
        time_us=time_us if isinstance(time_us, int) else 0,
        kind=_text(record, "kind"),
        point=_text(record, "point"),
        what=event_of(record) or resource_of(record) or _text(record, "object"),
        how=_how(record),
        who=subject or _text(record, "by") or _named(client or _text(record, "client_host")),
        client=client,
        uid=_text(record, "uid"),
    )


def subject_of(record: JSONObject) -> str:
    """Return whom a record is about, by the id that tokens carry as ``sub``."""
    return _text(record, "subject") or _text(record, "sub")


def client_of(record: JSONObject) -> str:
    """Return the client's id."""
    return _text(record, "client") or _text(record, "client_id")


def event_of(record: JSONObject) -> str:
    """Return the name of a front-door event, "" for other kinds of record."""
    return _text(record, "event") if record.get("kind") == AUTH else ""


def phase_of(record: JSONObject) -> str:
    """Return intent, outcome, refused or note; of an event that refuses somebody, by the last word of its name, refused."""
    if event_of(record).rpartition(".")[2] in _REFUSALS:
        return "refused"
    return _text(record, "phase")


def effect_of(record: JSONObject) -> str:
    """Return the effect of a decision, "" where none was taken."""
    decision = record.get("decision")
    return _text(decision, "effect") if isinstance(decision, dict) else ""


def resource_of(record: JSONObject) -> str:
    """Return what was asked for: a tool of a server, or of an event the resource that a token is for."""
    action = record.get("action")
    return (_text(action, "resource") if isinstance(action, dict) else "") or _text(record, "resource")


def fault_of(record: JSONObject) -> str:
    """Return the code of a refusal: what the caller of a decision was told, or the event's own code."""
    return _text(record, "fault") or (_text(record, "code") if record.get("kind") == AUTH else "")


def _how(record: JSONObject) -> str:
    if not event_of(record):
        told = " ".join(filter(None, (_text(record, "fault"), _text(record, "detail"))))
        return effect_of(record) or _text(record, "verb") or told
    why = " ".join(dict.fromkeys(_text(record, name) for name in _WHY if _text(record, name)))
    return why or next((str(record[name]) for name in _ABOUT if record.get(name)), "")


def _named(client: str) -> str:
    return f"client {client}" if client else ""


def _text(record: dict[str, JSON], name: str) -> str:
    value = record.get(name)
    return value if isinstance(value, str) else ""
