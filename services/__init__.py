"""The four services of RelayGR; they meet only in protos."""
