"""The documents that clients find us by: RFC 9728, RFC 8414, OIDC Discovery, JWK Set.

Every URL is built from the configured public URL, never from the request (OP-02). What is not
listed is not offered: no implicit or password grant, no ``plain``, no fragment, no registration (OP-09).
"""

from __future__ import annotations

from firewall.core.jsonvalue import JSONObject
from firewall.core.step_up import LEVELS
from firewall.identity.engine import registered
from firewall.identity.resources import Resources
from firewall.identity.rfc9068.tokens import ALGORITHM
from firewall.identity.rfc9396.requested import TYPES_SUPPORTED, has_tools
from firewall.identity.rfc9449.proof import ALGORITHMS as DPOP_ALGORITHMS
from firewall.identity.settings import IdentitySettings, ProtectedResource
from firewall.wire import jwt

ID_JAG = "urn:ietf:params:oauth:grant-profile:id-jag"
AUTH_METHODS = ("none", "private_key_jwt", "client_secret_basic")


def resource_metadata(resources: Resources, resource: ProtectedResource, *, others: tuple[str, ...] = ()) -> JSONObject:
    """Return the protected resource metadata (RFC 9728 §2). scopes_supported is the minimal useful set (MCP).

    others: further issuers whose access tokens are taken here (direct mode).
    """
    return {
        "resource": resources.uri(resource.path),
        "resource_name": resource.title,
        "authorization_servers": [resources.public_url, *others],
        "scopes_supported": list(resource.default_scopes),
        "bearer_methods_supported": ["header"],
        "dpop_signing_alg_values_supported": list(DPOP_ALGORITHMS),
        **({"dpop_bound_access_tokens_required": True} if resource.dpop_required else {}),
        **({"authorization_details_types_supported": list(TYPES_SUPPORTED)} if has_tools(resource.path) else {}),
    }


def server_metadata(settings: IdentitySettings, resources: Resources) -> JSONObject:
    """Return the authorization server metadata (RFC 8414 §2; oauth reference §6.1)."""
    url = settings.public_url
    return {
        "issuer": url,
        "authorization_endpoint": f"{url}/authorize",
        "token_endpoint": f"{url}/token",
        "revocation_endpoint": f"{url}/revoke",
        "introspection_endpoint": f"{url}/introspect",
        "pushed_authorization_request_endpoint": f"{url}/par",
        "jwks_uri": f"{url}/.well-known/jwks.json",
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": list(registered.grant_types(settings)),
        # The MCP extension enterprise-managed-authorization looks for it (SEP-990).
        **({"authorization_grant_profiles_supported": [ID_JAG]} if settings.trusted_issuers else {}),
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": list(AUTH_METHODS),
        "token_endpoint_auth_signing_alg_values_supported": list(jwt.ALGORITHMS),
        "revocation_endpoint_auth_methods_supported": list(AUTH_METHODS),
        "revocation_endpoint_auth_signing_alg_values_supported": list(jwt.ALGORITHMS),
        # Who introspects proves itself: a name alone is no proof (RFC 7662 §2.1).
        "introspection_endpoint_auth_methods_supported": [m for m in AUTH_METHODS if m != "none"],
        "introspection_endpoint_auth_signing_alg_values_supported": list(jwt.ALGORITHMS),
        "require_pushed_authorization_requests": False,
        # offline_access belongs here and never into resource metadata or challenges (MCP 2026-07-28).
        "scopes_supported": [*resources.all_scopes(), "offline_access"],
        "client_id_metadata_document_supported": settings.cimd_policy != "off",
        # Clients pick registration where both are offered, so it is named only where somebody switched it on.
        **({"registration_endpoint": f"{url}/register"} if settings.registration else {}),
        "authorization_response_iss_parameter_supported": True,
        "dpop_signing_alg_values_supported": list(DPOP_ALGORITHMS),
        "authorization_details_types_supported": list(TYPES_SUPPORTED),
        "acr_values_supported": list(LEVELS),
        **({"device_authorization_endpoint": f"{url}/device_authorization"} if settings.device_grant else {}),
    }


def openid_configuration(settings: IdentitySettings, resources: Resources) -> JSONObject:
    """Return the same document for clients that look only here; no ID tokens are issued."""
    return {
        **server_metadata(settings, resources),
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [ALGORITHM],
    }
