"""One process of the deployment a file: the core it wraps, and what performs the core's effects."""
