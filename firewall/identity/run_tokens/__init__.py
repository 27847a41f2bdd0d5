"""Run tokens: a fresh, user-authenticated start of a clean context, and registered orchestrators (DESIGN §6b-1)."""
