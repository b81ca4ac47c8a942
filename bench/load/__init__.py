"""Load on a running cluster: requests at given times, whatever the answers do."""
