"""RelayGR: long-sequence generative recommendation inside ranking's P99 budget."""
