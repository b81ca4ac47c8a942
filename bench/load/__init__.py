"""Load under an SLO."""
