"""Clients: those an operator registered and those that describe themselves."""
