"""The relay on real histories, in one command: `make demo`."""
