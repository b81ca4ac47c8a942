"""Which blocks hold whose psi, and who may touch them. Pure: no clock, no memory, no files."""
