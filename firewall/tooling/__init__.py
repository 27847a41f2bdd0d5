"""Tools for policy authors: lint, test, replay, diff."""
