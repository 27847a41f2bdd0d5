"""The three grants of OAuth 2.1: authorization code, refresh token, client credentials (§4.1.3, §4.3, §4.2)."""
