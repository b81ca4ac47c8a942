"""What touches the world: the router, the behaviour store, the registry."""
