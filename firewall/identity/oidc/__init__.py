"""Relying party of external identity providers: OpenID Connect Core, Discovery, RP-Initiated Logout, RFC 9207."""
