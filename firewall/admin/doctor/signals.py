"""Security events: the transmitters that are configured can reach us or be reached, and have not fallen silent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from firewall.admin.doctor.check import Check, Patient
from firewall.config import front_door
from firewall.core.errors import UpstreamFault
from firewall.identity.oidc.secret import secret_reader
from firewall.identity.records import SECOND_US
from firewall.identity.ssf.health import StreamHealth
from firewall.identity.ssf.settings import LEAST_SECRET_CHARS
from firewall.state.sqlite import SQLiteStore

MISSED: Final = 5  # polls in a row without an answer
LEAST_S: Final = 60


def signals(patient: Patient) -> Iterator[Check]:
    """Secrets are there and long enough; no stream is paused or silent."""
    transmitters = front_door.transmitters(patient.config)
    read = secret_reader(os.environ)
    for one in transmitters:
        for source in (one.push_secret, one.poll_secret):
            if not source:
                continue
            try:
                weak = len(read(source)) < LEAST_SECRET_CHARS
            except UpstreamFault:
                # A running node has its own environment, which we do not see.
                where = f"{one.name}: {source} is not set here, or others can read it"
                yield Check("signals", "warn", where, "set it for the node; chmod 600 a file")
                continue
            if weak:
                mend = f"choose {LEAST_SECRET_CHARS} or more random characters"
                yield Check("signals", "fail", f"{one.name}: the secret behind {source} is too short", mend)
    path = patient.config.state / "state.db"
    if not transmitters or not path.exists():
        return
    store = SQLiteStore(path, clock=patient.clock)
    try:
        streams = StreamHealth(store, patient.clock).of(transmitters)
    finally:
        store.close()
    now_s = patient.clock.now_us() // SECOND_US
    polled = {one.name: max(MISSED * one.poll_s, LEAST_S) for one in transmitters if one.poll_url}
    for stream in streams:
        if stream.silent:
            yield Check(
                "signals",
                "fail",
                f"{stream.name}: nothing was heard for longer than silent_minutes",
                "look at the stream at the transmitter; events that do not come end nothing",
            )
        elif stream.status not in ("", "enabled"):
            yield Check("signals", "fail", f"{stream.name}: the transmitter says {stream.status}", "enable it there")
        elif patient.running and stream.name in polled and now_s - stream.last_s > polled[stream.name]:
            # Every answer to a poll is a word, an empty one too.
            yield Check(
                "signals",
                "warn",
                f"{stream.name}: its poll address does not answer as it must",
                f"see that identity.signals.{stream.name}.poll_url is right and reachable, and takes poll_secret",
                f"the last word came {now_s - stream.last_s} s ago" if stream.last_s else "there was no answer yet",
            )
        else:
            yield Check("signals", "ok", f"{stream.name}: " + ("events come" if stream.last_s else "nothing came yet"))
