"""The Agent2Agent gateway: wire to Action and back, cards rebuilt and signed by us."""
