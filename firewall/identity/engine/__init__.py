"""The token endpoint's core: authlib's framework-neutral server and grants, hardened. Loaded at the first token request."""
