"""What an exchanged token may say, from what was presented: only ever less (TX-01, TX-02). Pure.

    presented (subject, client A, scopes, exp, chain, transaction, hop)
        ── exchanged by client B ──▶ same subject, client B, fewer scopes, no later end, chain + B, hop + 1

TX-01: B may exchange what was given to B's own resource, or what names B in ``may_act``.
TX-02: never beyond the scopes, the lifetime and the transaction of what was presented.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from firewall.core.bounds import ACTOR_CHAIN
from firewall.core.jsonvalue import JSONObject
from firewall.core.principal import Actor, Principal
from firewall.wire import oauth
from firewall.wire.oauth import OAuthError


@dataclass(frozen=True, slots=True)
class Presented:
    """A verified access token of ours. may_act: the client that it names, "" for none.

    details: its ``authorization_details`` (RFC 9396), as they stand in it.
    """

    principal: Principal
    amr: tuple[str, ...] = ()
    may_act: str = ""
    details: tuple[JSONObject, ...] = ()


def check_may_exchange(presented: Presented, client_id: str, own_resource: str) -> None:
    """Raise OAuthError invalid_request: exchange_not_allowed, unless TX-01 holds.

    own_resource: URI of the resource that the exchanging client stands behind, "" for none.
    """
    if own_resource and presented.principal.audience == own_resource:
        return
    if presented.may_act and presented.may_act == client_id:
        return
    raise OAuthError("invalid_request", "exchange_not_allowed")


def actors_behind(presented: Presented) -> tuple[Actor, ...]:
    """Return the actors after the subject, in delegation order; the client that holds the token is the last.

    Before the first exchange no ``act`` names that client; a service that is its own subject needs none.
    """
    principal = presented.principal
    actors = principal.chain[1:]
    if actors or principal.client_id == principal.subject:
        return actors
    return (Actor(principal.client_id, "agent"),)


def actors_after(presented: Presented, client_id: str) -> tuple[Actor, ...]:
    """Return the actors once the client has taken over. Raises OAuthError invalid_request.

    A client that goes on with its own token stays where it is. chain_loop: it stands further back already
    (A2A GW-51). chain_long: more than `ACTOR_CHAIN` actors or exchanges.
    """
    actors = actors_behind(presented)
    if presented.principal.hop + 1 >= ACTOR_CHAIN:
        raise OAuthError("invalid_request", "chain_long")
    last = actors[-1].sub if actors else presented.principal.subject
    if client_id == last:
        return actors
    if client_id == presented.principal.subject or any(actor.sub == client_id for actor in actors):
        raise OAuthError("invalid_request", "chain_loop")
    if len(actors) + 2 > ACTOR_CHAIN:
        raise OAuthError("invalid_request", "chain_long")
    return (*actors, Actor(client_id, "agent"))


def narrowed(
    presented: Presented, wanted: tuple[str, ...], target: Iterable[str], permissions: Iterable[Iterable[str]]
) -> tuple[str, ...]:
    """Return the scopes that the exchanged token gets, in order. Raises OAuthError invalid_scope.

    wanted: what is asked, () for all there is. target: the scopes that exist at the target. permissions: sets
    of patterns, of the person and of every client of the chain: what is given is what each of them allows.
    """
    held = presented.principal.scopes
    oauth.check_not_wider(wanted, held)
    scopes = oauth.intersect(wanted or sorted(held), held, target, *permissions)
    if not scopes:
        raise OAuthError("invalid_scope", "scope_empty")
    return scopes
