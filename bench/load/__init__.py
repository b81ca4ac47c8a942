"""How much load a cluster holds within its service-level objective, and how long a history."""
