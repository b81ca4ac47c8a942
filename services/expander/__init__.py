"""The expander: the DRAM tier of one host, behind the rankers' device tier."""
