"""Ports for stored state and what implements them: memory, SQLite, migrations, sealed vault."""
