"""RFC 7662: token introspection, for clients about tokens that are theirs or meant for them."""
