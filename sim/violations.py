"""What is raised when a rule of the design does not hold. By itself, since a compiled module cannot derive from it."""

from __future__ import annotations


class Violation(AssertionError):
    """A rule of the design does not hold: its name there, and what was seen."""
