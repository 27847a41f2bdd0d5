"""The parameters of a token exchange request, checked (RFC 8693 §2.1). Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from firewall.identity.run_tokens.runs import asks_for_run
from firewall.wire import oauth
from firewall.wire.oauth import Form, OAuthError

GRANT_TYPE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a token type
JWT: Final = "urn:ietf:params:oauth:token-type:jwt"


@dataclass(frozen=True, slots=True)
class ExchangeRequest:
    """What is asked. target: a resource's URI, "" for the one that the subject token is for. scopes: () for all."""

    subject_token: str = field(repr=False)
    actor_token: str = field(repr=False)
    target: str
    scopes: tuple[str, ...]
    run: bool


def parse_request(form: Form) -> ExchangeRequest:
    """Return the checked request. Raises OAuthError: invalid_request, invalid_target, invalid_scope.

    Both tokens are access tokens of ours; the same is asked for in return. ``audience`` and ``resource`` name
    the same thing here, a resource's URI: where both are sent, they must agree.
    """
    if not form.get("subject_token") or form.get("subject_token_type") not in (ACCESS_TOKEN, JWT):
        raise OAuthError("invalid_request", "subject_token_type")
    # RFC 8693 §2.1: the type goes with the token, and never without it.
    wanted = (ACCESS_TOKEN, JWT) if form.get("actor_token") else ("",)
    if form.get("actor_token_type") not in wanted:
        raise OAuthError("invalid_request", "actor_token_type")
    if form.get("requested_token_type") not in ("", ACCESS_TOKEN, JWT):
        raise OAuthError("invalid_request", "requested_token_type")
    resource, audience = (oauth.canonical_resource(form.get(name)) for name in ("resource", "audience"))
    if resource and audience and resource != audience:
        raise OAuthError("invalid_target", "target_ambiguous")
    run, scopes = asks_for_run(oauth.parse_scope(form.get("scope")))
    scopes = tuple(scope for scope in scopes if scope != "offline_access")
    return ExchangeRequest(form.get("subject_token"), form.get("actor_token"), resource or audience, scopes, run)
