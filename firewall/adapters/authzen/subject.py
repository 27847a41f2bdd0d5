"""Whom a question is about: a Principal made of what an enforcer vouches for, never wider than what we know.

An enforcer has verified its caller's token, we have verified the enforcer's. What it says counts within its own
tenant, up to the scopes and roles it is registered for; of a person whom we know, roles are ours and scopes are
cut to what that person may give at all (DESIGN §6b-6).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from firewall.adapters.authzen.message import Evaluation
from firewall.adapters.authzen.settings import Enforcer
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON
from firewall.core.principal import Actor, Principal
from firewall.identity.people.users import User
from firewall.wire import oauth

SERVICES: Final = frozenset({"service", "client", "workload"})
AGENT_CHARS: Final = 2048
WORDS: Final = 200  # scopes or roles in one question


@dataclass(frozen=True, slots=True)
class Known:
    """What our own records say of a subject. user: None for a stranger. barred: the account is disabled."""

    user: User | None = None
    barred: bool = False


class People(Protocol):
    """Our accounts, by subject, or by what an issuer calls them."""

    def __call__(self, tenant: str, issuer: str, subject: str) -> Known:
        """Return what is known; issuer "" means our own subject."""


class Unfit(Malformed):
    """A question that gets no for an answer before policy is asked; ``status`` as of HTTP, for the enforcer."""

    def __init__(self, code: str, text: str, status: int = 403) -> None:
        super().__init__(code, text)
        self.status = status


def principal_of(
    question: Evaluation,
    enforcer: Enforcer,
    caller: Principal,
    people: People,
    *,
    issuer: str,
    audience: str,
    names: Mapping[str, str],
) -> Principal:
    """Return whom the question is about. caller: the enforcer's own verified principal.

    names: issuer → our name of it, of those whose own tokens count here: their people and clients are the same in
    both places (``corp|00u1``), so that a stop of one of them stops them here too.

    Raises Unfit: tenant_foreign, subject_unknown, subject_barred, params_invalid.
    """
    told = question.subject.properties
    for holder in (told, question.resource.properties, question.context):
        if holder.get("tenant", caller.tenant) != caller.tenant:
            raise Unfit("tenant_foreign", "An enforcer speaks for its own tenant.")
    named = told.get("issuer", "")
    if not isinstance(named, str) or len(named) > AGENT_CHARS:
        raise Unfit("params_invalid", "subject.properties.issuer must be a string", 400)
    if named != issuer and named.rstrip("/").lower() == issuer.lower():
        # As a stranger, somebody of ours would have lost the account's rights and its being disabled as well.
        raise Unfit("params_invalid", "subject.properties.issuer must be spelt exactly", 400)
    agent = question.context.get("agent", "")
    if not isinstance(agent, str) or len(agent) > AGENT_CHARS:
        raise Unfit("params_invalid", "context.agent must be a string", 400)
    known = people(caller.tenant, "" if named == issuer else named, question.subject.id)
    if known.barred:
        raise Unfit("subject_barred", "This subject's account is disabled.")
    if known.user is None and not enforcer.strangers:
        raise Unfit("subject_unknown", "This subject is not known here.", 404)
    scopes = frozenset(s for s in _words(told, "scopes") if oauth.scope_allowed(s, enforcer.scopes))
    roles = tuple(r for r in _words(told, "roles") if r in enforcer.roles)
    subject = _theirs(question.subject.id, named or "authzen", names)
    if known.user is not None:
        scopes = frozenset(s for s in scopes if oauth.scope_allowed(s, known.user.scopes))
        roles, subject = known.user.roles, known.user.subject
    kind = "service" if question.subject.type in SERVICES else "user"
    chain = [Actor(subject, kind)]
    if agent:
        if named not in ("", issuer):
            agent = _theirs(agent, named, names)
        chain.append(Actor(agent, "agent"))
    return Principal(
        tenant=caller.tenant,
        issuer=named or issuer,
        subject=subject,
        client_id=agent or caller.client_id,
        scopes=scopes,
        audience=audience,
        chain=(*chain, Actor(caller.client_id, "service")),
        expires_at=caller.expires_at,
        kind=kind,
        auth_method="authzen",
        roles=roles,
    )


def _theirs(name: str, issuer: str, names: Mapping[str, str]) -> str:
    """Return what we call somebody, or a client, of another issuer: never by a name that is one of ours."""
    return f"{names[issuer]}|{name}" if issuer in names else f"{issuer}#{name}"


def _words(told: dict[str, JSON], name: str) -> tuple[str, ...]:
    """Return a list of words; scopes may also stand in one string, as in a token."""
    value = told.get(name, told.get("scope", []) if name == "scopes" else [])
    words = value.split(" ") if isinstance(value, str) else value
    if not isinstance(words, list) or len(words) > WORDS:
        raise Unfit("params_invalid", f"subject.properties.{name} must be a list of words", 400)
    return tuple(w for w in words if isinstance(w, str) and w)
