"""Behaviour histories: columns, and the store they are read from. No torch here."""
