"""The front door: resource server, authorization server, client metadata, upstream credentials."""
