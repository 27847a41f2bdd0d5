"""RFC 8414: authorization server metadata."""
