"""The real services with one decision replaced, each a process of its own.

A mode (modes.py) says what Python runs in a service's place. Everything else of such a
process is the service's own: settings, wiring, edge, adapters.

    router, placement, ring      where a rank goes, or both halves of a relay
    trigger                      who may pre-infer
    pool, pool_ranker            psi in another process's memory, fetched while ranking
"""
