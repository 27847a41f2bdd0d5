"""Other gateways that ask us for a decision: AuthZEN, ext_authz."""
