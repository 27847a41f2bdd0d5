"""Standards as functions and machines: JSON, JSON-RPC, SSE, HTTP, OAuth, JWT. Pure: no I/O, no clock, no chance."""
