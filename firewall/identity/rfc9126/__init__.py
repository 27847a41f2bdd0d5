"""RFC 9126: pushed authorization requests."""
