"""Who calls, and what they may call: TLS material, identities in certificates, roles, the list of allowed methods."""
