"""Load under an SLO: open-loop traffic against the real services, in several modes, with searches and a report."""
