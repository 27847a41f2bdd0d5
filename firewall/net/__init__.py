"""ASGI edge, pooled upstream client, SSRF-safe dialler, supervised tasks and clock."""
