"""Lets threads that wake up go before one that computes for a long time.

Linux divides a core fairly, but a thread that wakes up waits until the present one has had its
slice, 3 to 4 ms, unless its own slice is the shorter one. A relayed request wakes a dozen
threads one after another, each on a core where a pre-infer may be computing. A computing
thread that asks for long slices gets the same share of the core and lets all others by at once.

Source: sched(7), EEVDF; measured in docs/decisions/0009-long-slices.md.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

LONG_SLICE_NS = 100_000_000
"""The longest that Linux takes. A shorter one of another thread always goes first."""
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
_ATTRIBUTES = "=IIQiIQQQII"
"""struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period, util_min, util_max."""
_SCHED_OTHER = 0


def ask_for_long_slices() -> bool:
    """For the calling thread; True when the kernel took it (Linux 6.12 and later heed it), else nothing changes.

    Takes no privilege. Threads that this one starts inherit it.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if sys.platform != "linux" or number is None:
        return False
    size = struct.calcsize(_ATTRIBUTES)
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    packed = struct.pack(_ATTRIBUTES, size, _SCHED_OTHER, 0, nice, 0, LONG_SLICE_NS, 0, 0, 0, 0)
    attributes = ctypes.create_string_buffer(packed, size)
    return ctypes.CDLL(None).syscall(number, 0, attributes, 0) == 0
