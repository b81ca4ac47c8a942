"""A collector of our own: OTLP in, bounded memory, a live page and relay waterfalls out."""
