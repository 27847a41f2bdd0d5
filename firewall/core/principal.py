"""Principal: the verified caller, and the order of its actor chain.

A Principal is built only from a verified token (`identity.resource_server`), a verified client
certificate, or the local operator's own configuration; never from message content.

``chain[0]`` is the principal on whose behalf all happens, the last entry is the immediate caller
(DESIGN §8). RFC 8693 §4.1 nests the other way round: its outermost ``act`` is the current actor.
`chain_from_act` is the one function that converts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from firewall.core.bounds import ACTOR_CHAIN
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON
from firewall.core.tool_details import ToolDetail


@dataclass(frozen=True, slots=True)
class Actor:
    """One link of a delegation: its subject and what kind of thing it is (user, agent, service)."""

    sub: str
    type: str = "user"


@dataclass(frozen=True, slots=True)
class Principal:
    """The verified caller. ``expires_at`` is Unix seconds; ``audience`` is the resource URI.

    details: the only calls of tools that its token permits, () where scopes alone decide (`core.tool_details`).
    run: the clean context that its flow labels belong to (`core.run`), "" for the caller's plain one.
    session_id: the sign-in behind the token. txn, hop: the transaction, and how many exchanges lie behind it.
    """

    tenant: str
    issuer: str
    subject: str
    client_id: str
    scopes: frozenset[str]
    audience: str
    chain: tuple[Actor, ...]
    expires_at: int
    kind: str = "user"  # user | service | local
    auth_method: str = "oauth"
    token_id: str = ""
    grant_id: str = ""
    acr: str = ""
    auth_time: int = 0
    roles: tuple[str, ...] = ()
    cimd_verified: bool = False
    cnf: str = ""
    run: str = ""
    details: tuple[ToolDetail, ...] = ()
    session_id: str = ""
    txn: str = ""
    hop: int = 0
    key: tuple[str, str, str] = field(init=False, compare=False, default=("", "", ""))

    def __post_init__(self) -> None:
        # The flow-label key of DESIGN §6b-1: labels follow the caller, not the conversation.
        object.__setattr__(self, "key", (self.tenant, self.subject, self.client_id))


def chain_from_act(subject: Actor, act: object) -> tuple[Actor, ...]:
    """Return the actor chain, delegation order, for a token's subject and its ``act`` claim.

    act: the claim's value as parsed JSON, or None. The outermost ``act`` is the current actor
    (RFC 8693 §4.1), so it becomes the last entry.
    Raises Malformed: actor_chain_shape, actor_chain_too_long (more than 8 entries in all).
    """
    inner_first: list[Actor] = []
    while act is not None:
        if not isinstance(act, Mapping) or not isinstance(act.get("sub"), str) or not act["sub"]:
            raise Malformed("actor_chain_shape")
        kind = act.get("sub_type", "agent")
        inner_first.append(Actor(act["sub"], kind if isinstance(kind, str) else "agent"))
        if len(inner_first) >= ACTOR_CHAIN:
            raise Malformed("actor_chain_too_long")
        act = act.get("act")
    return (subject, *reversed(inner_first))


def act_of_chain(actors: Sequence[Actor]) -> dict[str, JSON] | None:
    """Return the nested ``act`` claim for the actors after the subject, in delegation order; None for none.

    The inverse of `chain_from_act`: the last actor becomes the outermost. Raises Malformed: actor_chain_too_long.
    """
    if len(actors) >= ACTOR_CHAIN:
        raise Malformed("actor_chain_too_long")
    act: dict[str, JSON] | None = None
    for actor in actors:
        claim: dict[str, JSON] = {"sub": actor.sub}
        if actor.type != "agent":
            claim["sub_type"] = actor.type
        if act is not None:
            claim["act"] = act
        act = claim
    return act
