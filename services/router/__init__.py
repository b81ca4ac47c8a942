"""The router: where production and consumption of psi meet."""
