"""Proof that an issuer meets the needs of direct mode: written by ``bartizan doctor idp``, demanded at start.

The record names the digest of the whole profile. A profile that was changed since is one that nobody proved.
"""

from __future__ import annotations

from dataclasses import dataclass

from firewall.core.errors import ConfigFault
from firewall.core.jsonvalue import JSON
from firewall.core.ports import Clock, Store
from firewall.identity import records
from firewall.identity.issuers.profile import IssuerProfile
from firewall.identity.records import SECOND_US
from firewall.identity.throttle import NODE

COLLECTION = "idp_preflight"


@dataclass(frozen=True, slots=True)
class Preflight:
    """What was proved. direct: whether the issuer meets every need. missing: names of the needs that it does not."""

    profile: str
    direct: bool
    missing: tuple[str, ...]
    checked_s: int


class Preflights:
    """Keeps the newest preflight of each issuer."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._proofs = store.collection(COLLECTION)
        self._clock = clock

    def write(self, profile: IssuerProfile, missing: tuple[str, ...]) -> Preflight:
        """Keep the outcome of a preflight, good or bad; return it."""
        found = Preflight(profile.digest(), not missing, missing, self._clock.now_us() // SECOND_US)
        listed: list[JSON] = list(missing)
        value = records.encode(
            {"profile": found.profile, "direct": found.direct, "missing": listed, "checked_s": found.checked_s}
        )
        self._proofs.put(NODE, profile.issuer, value)
        return found

    def read(self, profile: IssuerProfile) -> Preflight | None:
        """Return the newest preflight of the issuer, whatever profile it was made with."""
        entry = self._proofs.get(NODE, profile.issuer)
        if entry is None:
            return None
        value = records.decode(entry.value)
        return Preflight(
            records.text(value, "profile"),
            value.get("direct") is True,
            records.texts(value, "missing"),
            records.number(value, "checked_s"),
        )

    def require(self, profile: IssuerProfile) -> None:
        """Raise ConfigFault("issuer_unproved") unless this very profile was proved."""
        where, found = f"issuer {profile.name!r}", self.read(profile)
        run = f"run `bartizan doctor idp {profile.issuer}`"
        if found is None:
            raise ConfigFault("issuer_unproved", f"{where} was never checked", fix=run)
        if found.profile != profile.digest():
            raise ConfigFault("issuer_unproved", f"{where} changed since it was checked", fix=run)
        if not found.direct:
            needs = ", ".join(found.missing)
            raise ConfigFault(
                "issuer_unproved",
                f"{where} does not meet the needs of direct mode: {needs}",
                fix=f"mend these and {run}",
            )
