"""The security best practices of MCP, one attack per row of the page, each run with its control and without it."""
