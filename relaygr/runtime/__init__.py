"""Running pure cores and the event loop in real time."""
