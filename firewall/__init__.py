"""Bartizan: the firewall between AI agents and everything they can reach."""
