"""Huge pages under a segment, where its file system gives them: fewer entries in the page tables of every copy.

What a tmpfs gives is decided by its mount (`huge=advise`, `within_size` or `always`; the default is never) and can be
overruled for the whole machine (`deny` or `force` in `/sys/kernel/mm/transparent_hugepage/shmem_enabled`). Small pages
stay small once they are allocated, so the owner of a new segment asks before it allocates. Without huge pages
everything works as well.

Source: Linux, Documentation/admin-guide/mm/transhuge.rst.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MADV_POPULATE_WRITE = 23
"""Of Linux 5.14; not among Python's constants."""
SYSTEM_POLICY = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
_MOUNTS = Path("/proc/self/mountinfo")
_MAPPINGS = Path("/proc/self/smaps")


@dataclass(frozen=True, slots=True)
class HugePages:
    """What a segment came to lie on."""

    huge_bytes: int
    """Of the segment, bytes that were mapped by huge pages when it was allocated."""
    reason: str
    """What decided, in words."""

    def __str__(self) -> str:
        return f"yes, {self.huge_bytes >> 20} MiB ({self.reason})" if self.huge_bytes else f"no ({self.reason})"


def allocate_huge(fd: int, path: Path, length_bytes: int) -> HugePages:
    """Allocate a new file on huge pages as far as there are any; what is missing afterwards is missing still.

    Args:
        fd: of the file, which is empty.
        path: its path.
        length_bytes: its length from now on.
    """
    is_given, reason = policy_of(fd)
    if not is_given:
        return HugePages(0, reason)
    os.ftruncate(fd, length_bytes)
    with mmap.mmap(fd, length_bytes) as mapping:
        advise(mapping)
        try:
            mapping.madvise(MADV_POPULATE_WRITE)
        except OSError as error:
            # Out of room, or an older kernel: allocating the rest in the usual way tells which.
            reason = f"{reason}; {error.strerror}"
        return HugePages(huge_bytes_of(_read(_MAPPINGS).splitlines(), str(path)), reason)


def advise(mapping: mmap.mmap) -> None:
    """Ask for huge pages under a mapping; nothing happens where there are none."""
    try:
        mapping.madvise(mmap.MADV_HUGEPAGE)
    except (AttributeError, OSError):
        return  # a Python or a kernel without


def policy_of(fd: int) -> tuple[bool, str]:
    """Whether the file's file system gives huge pages to who asks, and what says so."""
    device = os.fstat(fd).st_dev
    mounted = _mounted_with(_read(_MOUNTS).splitlines(), f"{os.major(device)}:{os.minor(device)}")
    system = _read(SYSTEM_POLICY).partition("[")[2].partition("]")[0] or "unknown"
    reason = f"mounted with huge={mounted}, shmem_enabled is {system}"
    return system == "force" or (mounted != "never" and system != "deny"), reason


def huge_bytes_of(smaps: Iterable[str], path: str) -> int:
    """Bytes that a process has mapped of a file by huge pages, from the lines of its smaps."""
    found_kb, is_its = 0, False
    for line in smaps:
        name, _, rest = line.partition(":")
        if " " in name:
            # The head of a mapping: its addresses, then its path.
            is_its = line.endswith(" " + path)
        elif is_its and name in ("ShmemPmdMapped", "FilePmdMapped"):
            found_kb += int(rest.split()[0])
    return 1024 * found_kb


def _mounted_with(mountinfo: Iterable[str], device: str) -> str:
    """The `huge=` option of a device's mount; `never` where there is none."""
    for line in mountinfo:
        before, _, after = line.partition(" - ")
        if before.split()[2] == device:
            options = after.split()[-1].split(",")
            return next((option[5:] for option in options if option.startswith("huge=")), "never")
    return "never"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
