"""Credentials towards upstream servers: never the caller's own token (RS-16)."""
