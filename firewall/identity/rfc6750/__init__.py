"""RFC 6750: bearer tokens at a resource."""
