"""Fakes that tests, also those of integrators, put in place of the real services."""
