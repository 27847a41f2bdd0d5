"""draft-ietf-oauth-client-id-metadata-document: client ids that are URLs."""
