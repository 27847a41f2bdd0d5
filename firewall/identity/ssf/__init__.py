"""Shared Signals receiver: security events (RFC 8417, CAEP) by push (RFC 8935) and poll (RFC 8936) end what they name."""
