"""Our policy as a decision point for other enforcers: OpenID AuthZEN Authorization API 1.0, COAZ-MCP mapping."""
