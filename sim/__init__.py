"""Runs the production cores under virtual time, with a simulated network, devices, clients and faults."""
