"""The tokens of a person's grant: the first ones, and what each further one says."""

from __future__ import annotations

from dataclasses import replace

from firewall.identity.engine.grant import TokenBody, TokenGrant
from firewall.identity.grants import OAuthGrant
from firewall.identity.oauth21.codes import CodeFacts
from firewall.identity.oauth21.refresh import RefreshFacts
from firewall.identity.people.users import User
from firewall.identity.records import SECOND_US
from firewall.identity.rfc9068.tokens import TokenFacts
from firewall.identity.rfc9396.requested import requested_details
from firewall.wire.oauth import OAuthError


def first_tokens(grant: TokenGrant, facts: CodeFacts, user: User, *, renewable: bool) -> TokenBody:
    """Save what a person agreed to and return its first tokens, all for its one resource.

    A replay may have ended the grant since its code was taken (AS-10). The answer is given all the same, so that
    one redemption of a code always succeeds (AS-09); its tokens name a grant that is over, and are dead from birth.
    renewable: whether there is a refresh token. Raises OAuthError: invalid_grant (grant_ended), invalid_target,
    invalid_scope, invalid_authorization_details.
    """
    parts, client, proof = grant.parts, grant.client, grant.proof
    scopes = grant.entitled(facts.scopes, facts.resource, user, acr=facts.acr, auth_time=facts.auth_time)
    details = requested_details(grant.form, facts.authorization_details, facts.resource)
    # Read before what the code says is compared: an ending in between leaves what is issued here behind it.
    standing = parts.grants.standing.of(facts.tenant, facts.subject, facts.resource, scopes)
    if not parts.grants.stands(facts.tenant, facts.subject, facts.resource, facts.scopes, facts.standing):
        raise OAuthError("invalid_grant", "grant_ended")
    now_s = parts.clock.now_us() // SECOND_US
    parts.grants.save(
        OAuthGrant(
            facts.tenant,
            facts.subject,
            facts.grant_id,
            client.client_id,
            facts.client_name,
            facts.resource,
            scopes,
            now_s,
            standing,
            facts.authorization_details,
        )
    )
    agreed = RefreshFacts(
        tenant=facts.tenant,
        subject=facts.subject,
        client_id=client.client_id,
        resource=facts.resource,
        scopes=scopes,
        grant_id=facts.grant_id,
        session_id=facts.session_id,
        auth_time=facts.auth_time,
        acr=facts.acr,
        created_s=now_s,
        standing=standing,
        amr=facts.amr,
        # A confidential client proves itself anyway (RFC 9449 §5).
        jkt=proof if client.auth_method == "none" else "",
        authorization_details=facts.authorization_details,
        run=facts.run,
    )
    refresh_token = parts.refresh.issue(agreed) if renewable else ""
    issued = grant.issue(person_token(replace(agreed, authorization_details=details), user, scopes, standing, proof))
    return grant.body(issued, refresh_token=refresh_token, details=details)


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
        run=facts.run,
    )
