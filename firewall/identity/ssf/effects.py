"""What an event does here: end everything a person has given and every session, or be noted. A closed table.

Ending goes by the same counters as a disabled account: codes, refresh tokens and cached access tokens of every
worker die with the next look at the node's epoch, and the person signs in anew, with what is true by then. What
an event leaves open is taken for the worse; what nobody wrote down is noted and does nothing.

Source: OpenID CAEP 1.0 §3; Shared Signals Framework 1.0 §7 (verification, stream updates).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal

from firewall.core.jsonvalue import JSON, JSONObject

Effect = Literal["end", "note", "verify", "stream"]

CAEP: Final = "https://schemas.openid.net/secevent/caep/event-type/"
SSF: Final = "https://schemas.openid.net/secevent/ssf/event-type/"


def _always(effect: Effect) -> Callable[[JSONObject], Effect]:
    return lambda _payload: effect


def _unless(member: str, harmless: frozenset[JSON]) -> Callable[[JSONObject], Effect]:
    """Return "end" unless a member says that the change is harmless."""

    def judge(payload: JSONObject) -> Effect:
        told = payload.get(member)
        return "note" if isinstance(told, str) and told in harmless else "end"

    return judge


EFFECTS: Final[Mapping[str, Callable[[JSONObject], Effect]]] = {
    f"{CAEP}session-revoked": _always("end"),
    f"{CAEP}token-claims-change": _always("end"),
    f"{CAEP}credential-change": _unless("change_type", frozenset({"create"})),
    f"{CAEP}assurance-level-change": _unless("change_direction", frozenset({"increase"})),
    f"{CAEP}device-compliance-change": _unless("current_status", frozenset({"compliant"})),
    f"{CAEP}risk-level-change": _unless("current_level", frozenset({"LOW"})),
    f"{CAEP}session-established": _always("note"),
    f"{CAEP}session-presented": _always("note"),
    f"{SSF}verification": _always("verify"),
    f"{SSF}stream-updated": _always("stream"),
}


def effect_of(uri: str, payload: JSONObject) -> Effect:
    """Return what an event of this type does."""
    judge = EFFECTS.get(uri)
    return judge(payload) if judge else "note"


def short_name(uri: str) -> str:
    """Return an event type as records name it; one that is not of the table is ``other``."""
    return uri.rpartition("/")[2] if uri in EFFECTS else "other"
