"""Names of segment files and how they are opened.

Files are private to one user (0600) and are never followed through symbolic links: the
directory (/dev/shm) is one that anybody may write to.

Source: design, section 3 (expander), invariant I3.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import struct
from pathlib import Path

from relaygr.segment.layout import SegmentRejected

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]{0,47}")
# struct flock of 64-bit Linux: type, whence, start, length, pid; padded by native alignment.
_FLOCK = struct.Struct("@hhqqi4x")
DEPLOYMENT_RULE = "letters, digits, '_' and '.', at most 48"


def is_deployment(name: str) -> bool:
    """Whether a deployment's name can be part of a file name."""
    return _NAME.fullmatch(name) is not None


def segment_path(directory: Path, deployment: str, boot_id: str) -> Path:
    """Where the segment of one boot lies.

    Raises:
        SegmentRejected: the deployment's name cannot be part of a file name.
    """
    if not is_deployment(deployment):
        raise SegmentRejected(f"deployment {deployment!r}: {DEPLOYMENT_RULE}")
    return directory / f"relaygr-{deployment}-{boot_id}"


def create_private(path: Path) -> int:
    """A new file, mode 0600 whatever the umask; fails if it is there already."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    os.fchmod(fd, 0o600)
    return fd


def open_private(path: Path) -> int:
    """Open a file that only this user can have written.

    Raises:
        SegmentRejected: missing, a link, not a plain file, another user's, or open to others.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        # A name with a zero byte in it is no name at all, which is a ValueError.
        raise SegmentRejected(f"{path.name}: {getattr(error, 'strerror', error)}") from error
    facts = os.fstat(fd)
    problem = None
    if not stat.S_ISREG(facts.st_mode):
        problem = "not a plain file"
    elif facts.st_uid != os.geteuid():
        problem = f"belongs to user {facts.st_uid}"
    elif facts.st_mode & 0o077:
        problem = "open to other users"
    if problem:
        os.close(fd)
        raise SegmentRejected(f"{path.name}: {problem}")
    return fd


def lock_byte(fd: int, index: int) -> bool:
    """Take the write lock on one byte for this open file; False when another holds it."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, index, 1, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True


def is_byte_locked(fd: int, index: int) -> bool:
    """True when another open file holds a lock on this byte."""
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, index, 1, 0))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
