"""Step-up: asking for a stronger or fresher sign-in (RFC 9470)."""
