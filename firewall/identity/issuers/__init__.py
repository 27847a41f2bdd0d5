"""Direct mode: access tokens of issuers that are not ours, each under its own validation profile (oauth reference §10)."""
