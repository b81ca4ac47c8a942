"""How a service's process treats its memory once it is set up."""

from __future__ import annotations

import gc

YOUNG_MAX = 20_000
"""Objects made, less those freed, until the youngest are looked through; Python's own 700 is a request or two."""


def settle() -> None:
    """Leave what exists now out of garbage collection, and collect less often; when start-up is over.

    A full collection walks every object that the imports made, on the event loop: tens of milliseconds
    in a process with torch, all to find nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_MAX, 10, 10)
