"""What the newest records say happened at the front door: reused refresh tokens, sign-ins that failed and why, and
programs that go round in circles.

A client shows its person "authorization failed" and a number; the reason stands in our records alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from firewall.admin.doctor.check import Check, Examination, Patient, count
from firewall.config import Config
from firewall.core.errors import BartizanError, Malformed
from firewall.core.jsonvalue import JSONObject
from firewall.record.log import iter_bundles
from firewall.record.tiles import entries_path
from firewall.wire import strict_json

DAY_US: Final = 86_400_000_000
ROUNDS: Final = 5  # refusals of one connection for want of one scope, before that is more than a person who tries again
BUNDLES: Final = 8  # of 256 records each, per log, from its end
FAILED: Final = (
    "identity.idp.failed",
    "identity.token.refused",
    "identity.client.refused",
    "identity.authorize.refused",
    "identity.device.refused",
    "identity.pushed.refused",
    "identity.upstream.failed",
    "identity.failure",
    "identity.login.failed",
)

# Answers to a client that asks whether its person is here without asking them (OpenID Connect Core §3.1.2.6), to a
# device that asks again too soon or too early (RFC 8628 §3.5), to a proof without our nonce (RFC 9449 §8), and what the
# person wanted: nothing is wrong.
EXPECTED: Final = frozenset(
    {"login_required", "consent_required", "access_denied", "authorization_pending", "slow_down", "use_dpop_nonce"}
)


def reuse(patient: Patient) -> Iterator[Check]:
    """oauth-07: refreshing twice at once signs people out."""
    ended = [e for e in recent(patient) if e.get("reason") == "refresh_reused"]
    if ended:
        yield Check(
            "oauth-07",
            "warn",
            f"{count(len(ended), 'OAuth grant')} ended within a day since a refresh token came back after its grace of 30 s",
            "look for two copies of one program that share a token store, or for one that does not keep the new token",
            f"last: gid {ended[-1].get('gid')}; bartizan doctor trace GID tells what was before it",
        )
    else:
        yield Check(
            "oauth-07", "ok", "a refresh token that comes twice within 30 s gets the same successor; none came later"
        )


def failures(patient: Patient) -> Iterator[Check]:
    """oauth-20: a client says that authorization failed, and nobody can tell why."""
    found = list(recent(patient))
    counted = Counter(
        " ".join(str(e.get(name)) for name in ("event", "idp", "upstream", "error", "code", "detail") if e.get(name))
        for e in found
        if e.get("event") in FAILED and e.get("error") not in EXPECTED
    )
    if counted:
        worst = counted.most_common(5)
        yield Check(
            "oauth-20",
            "warn",
            f"{sum(counted.values())} sign-ins or token requests were refused within a day; the reasons are in the records",
            "bartizan doctor trace tells each with its time, and what came before and after it",
            "; ".join(f"{count} × {what}" for what, count in worst),
        )
    else:
        yield Check("oauth-20", "ok", f"{count(len(found), 'event')} of the front door within a day, none refused")


def circles(patient: Patient) -> tuple[str, str, int] | None:
    """Return what was refused most within a day: the OAuth grant, the scope that its calls lack, and how often.

    A program that does not know step-up renews its token when a call is answered 403, and asks again with the same
    scopes. None where no grant was refused one scope `ROUNDS` times.
    """
    counted = Counter(
        (str(found["gid"]), str(found["scope"]))
        for found in _events(patient.config, patient.clock.now_us() - DAY_US, "decision")
        if found.get("fault") == "scope_missing" and found.get("gid") and found.get("scope")
    )
    for (grant, scope), times in counted.most_common(1):
        if times >= ROUNDS:
            return grant, scope, times
    return None


def recent(patient: Patient) -> Iterator[JSONObject]:
    """Yield the front door's events of the last day, of each log's newest records, oldest first."""
    return _events(patient.config, patient.clock.now_us() - DAY_US, "auth")


def _events(config: Config, since_us: int, kind: str) -> Iterator[JSONObject]:
    for folder in sorted(config.audit_dir.glob("log_*")):
        try:
            for _, entries, _ in iter_bundles(folder, max(0, _last(folder) - BUNDLES + 1)):
                for entry in entries:
                    event = _event(entry, kind)
                    time_us = event.get("time_us")
                    if event and (not isinstance(time_us, int) or time_us >= since_us):
                        yield event
        except (Malformed, OSError):
            continue  # a damaged log is what `bartizan audit verify` is for


def _event(entry: bytes, kind: str) -> JSONObject:
    if f'"{kind}"'.encode() not in entry:
        return {}
    try:
        value = strict_json.loads(entry)
    except BartizanError:
        return {}
    return value if isinstance(value, dict) and value.get("kind") == kind else {}


def _last(folder: Path) -> int:
    """Return the number of whole bundles of a log, found in steps that double and then halve."""
    have, step = 0, 1
    while (folder / entries_path(have + step - 1)).exists():
        have, step = have + step, step * 2
    while step > 1:
        step //= 2
        if (folder / entries_path(have + step - 1)).exists():
            have += step
    return have


EXAMINATIONS: Final[tuple[tuple[str, Examination], ...]] = (("oauth-07", reuse), ("oauth-20", failures))
