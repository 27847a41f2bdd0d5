"""Admin API and console, on a listener of their own."""
