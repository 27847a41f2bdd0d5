"""What a request asks of the sign-in behind it: ``acr_values``, ``max_age``, ``stepup:`` scopes (RFC 9470 §4).

A ``stepup:`` scope is no permission. It asks for a level (``stepup:mfa``) or for freshness
(``stepup:fresh``), so that clients that know nothing but scopes can follow a challenge; it is given where
the sign-in fulfils it, and lost where it does not: freshness by itself, as time goes by.
"""

from __future__ import annotations

from collections.abc import Iterable

from firewall.core.step_up import FRESH, PREFIX, reaches
from firewall.core.step_up import PASSWORD as PASSWORD
from firewall.identity.settings import ProtectedResource
from firewall.wire.oauth import AuthorizationRequest

LEEWAY_S = 60  # of another clock, where the sign-in was elsewhere
FRESH_S = 900  # from a sign-in through the pages to its token; where no resource allows more


def permissions(scopes: Iterable[str]) -> tuple[str, ...]:
    """Return the scopes that permit something."""
    return tuple(s for s in scopes if not s.startswith(PREFIX))


def steps(scopes: Iterable[str]) -> tuple[str, ...]:
    """Return the ``stepup:`` scopes."""
    return tuple(s for s in scopes if s.startswith(PREFIX))


def attained(scopes: Iterable[str], acr: str) -> tuple[str, ...]:
    """Return the ``stepup:`` scopes that a sign-in of this context fulfils; none where nobody signed in ("")."""
    wanted = ((s, s.removeprefix(PREFIX)) for s in steps(scopes))
    return tuple(s for s, level in wanted if acr and level and (level == FRESH or reaches(acr, level)))


def in_time(scopes: Iterable[str], auth_time: int, now_s: int, resource: ProtectedResource) -> tuple[str, ...]:
    """Return the scopes of a token that is issued now; without ``stepup:fresh`` where the sign-in is fresh no more.

    A rule of policy may go by that scope, and a refresh must not make it last for months. auth_time: Unix seconds,
    0 where it is not known, which is never fresh.
    """
    fresh = PREFIX + FRESH
    longest_s = max(FRESH_S, allowed_age_s((fresh,), resource))
    kept = auth_time > 0 and now_s - auth_time <= longest_s
    return tuple(s for s in scopes if kept or s != fresh)


def strong_enough(request: AuthorizationRequest, acr: str) -> bool:
    """Return whether one of ``acr_values`` is reached, and every level that scopes ask for."""
    asked = request.acr_values
    if asked and not any(reaches(acr, value) for value in asked):
        return False
    return set(steps(request.scope)) <= set(attained(request.scope, acr))


def longest_age_s(request: AuthorizationRequest, resource: ProtectedResource) -> int:
    """Return the greatest age of the sign-in in seconds, −1 for any: the request's, or the resource's if less."""
    ages = [request.max_age, allowed_age_s(request.scope, resource)]
    return min((age for age in ages if age >= 0), default=-1)


def allowed_age_s(scopes: Iterable[str], resource: ProtectedResource) -> int:
    """Return the greatest age in seconds that a resource allows to a request with these scopes, −1 for any.

    A resource that asks for freshness is asked for it by the ``stepup:`` scope that its challenge names.
    """
    asked = steps(scopes)
    ages = [rule.max_age_s for rule in resource.step_up if rule.max_age_s >= 0 and rule.asks in asked]
    return min(ages, default=0 if PREFIX + FRESH in asked else -1)
