"""Which grants can open a point: read from the policy, for people who ask why something was allowed.

A permitted decision says that every package of `granted` granted, and not by which of its rules: to carry that would
cost every decision 1.6 to 1.8 µs. At nearly all points one rule of each package is all that is left of it
(`specialise`), so the policy itself has the answer; a record names its revision.
"""

from __future__ import annotations

import re
from typing import Final

from firewall.core.errors import PolicyFault
from firewall.core.points import Point
from firewall.decide.bundle import Bundle

_PACKAGE: Final = re.compile(r"^package firewall(?:\.rules\.([a-z0-9_]+))?$", re.MULTILINE)
_NEEDED: Final = re.compile(r"data\.firewall\.rules\.([a-z0-9_]+)\.grant\b")
_GRANT: Final = re.compile(r'^grant contains (?:"([a-z0-9_.]+)")?', re.MULTILINE)


def openings(bundle: Bundle, point: Point) -> tuple[tuple[str, ...], ...]:
    """Return for each package that must grant at a point its grants that can, in order of the packages' names.

    () where the policy does not say so by itself: a grant with a computed name, or a source that is not in the form
    that `specialise` reads.
    """
    try:
        sources = bundle.specialised(point).values()
    except PolicyFault:
        return ()
    grants: dict[str, tuple[str, ...]] = {}
    needed: set[str] = set()
    for source in sources:
        package = _PACKAGE.search(source)
        if package is None:
            continue
        if package[1] is None:
            needed = set(_NEEDED.findall(source))
        else:
            grants[package[1]] = tuple(_GRANT.findall(source))
    found = tuple(grants.get(name, ()) for name in sorted(needed))
    return found if all(found) and all(all(names) for names in found) else ()
