"""The two tiers of psi: how fast each step is on this machine, and what is not computed again on recorded traffic."""
