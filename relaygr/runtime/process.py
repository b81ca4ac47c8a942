"""What a service asks of the interpreter; for entry points, since it holds for the whole process."""

from __future__ import annotations

import gc
import sys

SWITCH_INTERVAL_S = 0.0005
"""How long one thread may keep the interpreter when another wants it back. Python's own 5 ms is as long as a whole
rank: the device's thread would wait so long for the event loop, and the loop for the thread that sends spans. Below
half a millisecond nothing more is won (docs/decisions/0005)."""

YOUNG_MAX = 20_000
"""Objects made, less those freed, until the youngest are looked through; Python's own 700 is a request or two."""


def share_interpreter() -> None:
    """Let a thread that comes back from a native call go on soon."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)


def settle_memory() -> None:
    """Leave what exists now out of garbage collection, and collect less often; when start-up is over.

    A full collection walks every object that the imports made, on the event loop: tens of milliseconds
    in a process with torch, all to find nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_MAX, 10, 10)
