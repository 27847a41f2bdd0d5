"""The access token of a person's grant: what may be renewed, and what holds only now."""

from __future__ import annotations

from firewall.identity.oauth21.refresh import RefreshFacts
from firewall.identity.people.users import User
from firewall.identity.rfc9068.tokens import TokenFacts


def person_token(facts: RefreshFacts, user: User, scopes: tuple[str, ...], standing: int, proof: str) -> TokenFacts:
    """Return what the next access token says. standing: read before anything was compared; proof: its key, or ""."""
    return TokenFacts(
        tenant=facts.tenant,
        subject=facts.subject,
        client_id=facts.client_id,
        resource=facts.resource,
        scopes=scopes,
        grant_id=facts.grant_id,
        session_id=facts.session_id,
        auth_time=facts.auth_time,
        acr=facts.acr,
        roles=user.roles,
        standing=standing,
        amr=facts.amr,
        cnf_jkt=proof,
        authorization_details=facts.authorization_details,
    )
