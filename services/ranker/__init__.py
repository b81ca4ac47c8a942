"""The ranker: produces, holds and consumes psi on one device."""
