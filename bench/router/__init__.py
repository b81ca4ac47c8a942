"""The router at scale: its choices among a thousand instances, and the whole process under a million users."""
