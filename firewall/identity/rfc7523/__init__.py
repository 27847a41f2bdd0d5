"""RFC 7523 (and rfc7523bis): JWT client assertions."""
