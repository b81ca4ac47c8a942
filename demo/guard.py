"""Runs a command that ends when its starter ends, also when the starter is killed.

    python guard.py STARTER_PID COMMAND [ARGUMENT ...]

On Linux the parent-death signal outlives execve, so the guard asks for it and then
becomes the command: no process more, no thread, no code between fork and exec. Only the
standard library is used, since every process of a cluster passes through here.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Arm the parent-death signal, then become the command."""
    starter_pid, command = int(arguments[0]), arguments[1:]
    if sys.platform == "linux":
        # SIGKILL and not SIGTERM: a service that hangs while it drains must end too.
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != starter_pid:
        return 1  # The starter ended before the signal was armed.
    os.execvp(command[0], command)  # noqa: S606  (no shell is the point)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
