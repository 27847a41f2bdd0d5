"""RFC 9068: JWT access tokens and the keys that sign them."""
