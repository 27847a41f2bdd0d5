"""Rich authorization requests, of the one type ``mcp_tool`` (RFC 9396)."""
