"""Faults of every kind on the real processes while open-loop load goes on: `python -m tests.chaos`."""
