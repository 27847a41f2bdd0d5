"""ID-JAG (draft-ietf-oauth-identity-assertion-authz-grant): an identity provider lets a client act for somebody."""
