"""Runs: clean contexts for flow labels, and who may begin one (docs/adr/0026).

``run`` among the requested scopes asks for one. It is no permission: it stands in no token's ``scope``, in no
metadata and in no challenge, so that no client asks for it by accident. There are two ways:

- at ``/authorize``: the person signs in anew within this very request and agrees to the run (`oauth21.authorize`);
- by token exchange: an orchestrator that the operator registered (`rfc8693.grant`).

Nobody else can begin one, with whatever token: an agent that stole one can only stay where it is.
"""

from __future__ import annotations

import hashlib
from typing import Final, Literal

from firewall.core.ports import Clock, Ids, Store
from firewall.core.run import PREFIX, make_run
from firewall.identity.records import SECOND_US
from firewall.identity.settings import Record
from firewall.wire.oauth import OAuthError

RUN_SCOPE: Final = "run"
PER_PERSON_AND_HOUR: Final = 60
HOUR_S: Final = 3600

By = Literal["person", "orchestrator"]


class Runs:
    """Begins runs, within bounds: each that gets a label takes a place in the node's shared memory."""

    def __init__(self, store: Store, clock: Clock, ids: Ids, record: Record, *, lifetime_s: int, per_hour: int) -> None:
        self._begun = store.collection("runs_begun")
        self._clock = clock
        self._ids = ids
        self._record = record
        self._lifetime_s = lifetime_s
        self._per_hour = per_hour

    def begin(self, tenant: str, subject: str, client_id: str, *, by: By) -> str:
        """Return a new run of a caller. Raises OAuthError temporarily_unavailable: runs_many.

        by: what entitles to it; the caller of this has checked it.
        """
        now_s = self._clock.now_us() // SECOND_US
        hour = now_s // HOUR_S
        if by == "person":
            self._count(tenant, hour, f"{client_id}\0{subject}", PER_PERSON_AND_HOUR)
        self._count(tenant, hour, client_id, self._per_hour)
        run = make_run(self._ids.new(PREFIX), now_s + self._lifetime_s)
        self._record(
            "identity.run.begun", {"tenant": tenant, "sub": subject, "client_id": client_id, "run": run, "by": by}
        )
        return run

    def _count(self, tenant: str, hour: int, who: str, ceiling: int) -> None:
        key = f"{hour}/{hashlib.sha256(who.encode('utf-8', 'surrogatepass')).hexdigest()}"
        expires_us = (hour + 2) * HOUR_S * SECOND_US
        if not self._begun.add(tenant, key, 1, ceiling=ceiling, expires_us=expires_us):
            raise OAuthError("temporarily_unavailable", "runs_many")


def asks_for_run(scopes: tuple[str, ...]) -> tuple[bool, tuple[str, ...]]:
    """Return whether a run is asked for, and the scopes without that word."""
    return RUN_SCOPE in scopes, tuple(scope for scope in scopes if scope != RUN_SCOPE)
