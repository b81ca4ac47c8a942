"""One byte of a lock file per owner: held while its process may still write.

Open-file-description locks, not POSIX ones: a POSIX lock goes when the process closes
*any* descriptor of the file, and is not seen by other threads of the process. The kernel
lets an OFD lock go when the last copy of the descriptor is closed, so a process that was
killed has let go and a process that was merely stopped has not. A forked child shares the
lock, as it shares the mapping.

Source: design, section 3 (expander), invariant I7.
"""

from __future__ import annotations

import os
from pathlib import Path

from relaygr.segment.files import create_private, is_byte_locked, lock_byte, open_private


class OwnerLock:
    """A ranker's hold on its byte."""

    def __init__(self, path: Path, index: int):
        """Take the lock.

        Raises:
            SegmentRejected: the file is missing or not ours.
            BlockingIOError: another process holds the byte.
        """
        self._fd = open_private(path)
        if not lock_byte(self._fd, index):
            os.close(self._fd)
            self._fd = -1
            raise BlockingIOError(f"owner byte {index} is held by another process")

    def release(self) -> None:
        """Let go: promises that this process writes nothing more into what it was granted."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class LockTable:
    """The expander's view of the lock file; takes no lock itself."""

    def __init__(self, path: Path):
        self.path = path
        self._fd = create_private(path)

    def is_held(self, index: int) -> bool:
        """True while the owner's process lives and has not let go."""
        return is_byte_locked(self._fd, index)

    def close(self) -> None:
        """Remove the file."""
        if self._fd >= 0:
            self.path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1
