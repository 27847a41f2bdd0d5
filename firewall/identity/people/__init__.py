"""People: accounts, sign-in, sessions, pages, and what they agreed to."""
