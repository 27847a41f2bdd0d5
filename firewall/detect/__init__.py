"""Inspection: hygiene, pattern database, value checks, injection advice, definition review."""
