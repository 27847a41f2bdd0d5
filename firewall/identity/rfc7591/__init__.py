"""RFC 7591: clients that register themselves. Off unless ``identity.registration`` is on (AS-22)."""
