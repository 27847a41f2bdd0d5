"""RFC 8693: token exchange. A client that got a token goes on with it, as itself, with less."""
