"""Measurements: what the engine does on this machine, beside what it should do; above everything else."""
