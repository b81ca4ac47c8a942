"""A disk that is full, for one process and without root: the kernel's limit on the size of the files it writes.

Python ignores the signal that comes with it, so that each write fails as on a full disk, with an error. Memory that is
mapped is not concerned.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_file_grows(pid: int) -> Iterator[None]:
    """While the block runs, no file that this process writes to can grow."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))
