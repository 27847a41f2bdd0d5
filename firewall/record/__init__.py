"""Audit chain, checkpoints and proofs; telemetry with all names in one module."""
