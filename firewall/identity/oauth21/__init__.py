"""draft-ietf-oauth-v2-1: the authorization endpoint, codes, refresh tokens, the token endpoint."""
