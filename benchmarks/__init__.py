"""Measures what enforcement costs; nothing here is part of a test's verdict."""
