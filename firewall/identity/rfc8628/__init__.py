"""The device grant, for programs without a browser (RFC 8628)."""
