"""The Model Context Protocol gateway: wire to Action and back, in both eras."""
