"""Pure values and rules that all services share. Standard library only."""
