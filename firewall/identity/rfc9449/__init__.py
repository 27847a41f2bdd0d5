"""DPoP: tokens that only the holder of a key can use (RFC 9449), at our token endpoint, resources and upstreams."""
