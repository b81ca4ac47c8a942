"""This process's memory, from the kernel's own account.

The peak is VmHWM of /proc/self/status and not ru_maxrss: the latter is carried over from
the parent when a process is started, and a parent of some size would show in every case.

Linux only; elsewhere there is nothing to read and an OSError says so.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path

MB = 1024 * 1024


def peak_rss_mb() -> float:
    """The most memory this process has had resident."""
    return _status_kb("VmHWM") / 1024


def rss_mb() -> float:
    """Resident now."""
    return rss_kb() / 1024


def rss_kb() -> int:
    """Resident now."""
    return _status_kb("VmRSS")


def available_bytes() -> int:
    """What the machine could give without swapping."""
    return _field_kb(Path("/proc/meminfo").read_text(), "MemAvailable") * 1024


@dataclass(frozen=True, slots=True)
class Account:
    """What the kernel has counted for this process so far."""

    minor_faults: int
    involuntary_switches: int
    rss_kb: int


def account() -> Account:
    """Now."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return Account(usage.ru_minflt, usage.ru_nivcsw, rss_kb())


def _status_kb(name: str) -> int:
    return _field_kb(Path("/proc/self/status").read_text(), name)


def _field_kb(text: str, name: str) -> int:
    for line in text.splitlines():
        field, _, value = line.partition(":")
        if field == name:
            return int(value.split()[0])
    raise OSError(f"the kernel does not report {name}")
