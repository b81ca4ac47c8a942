"""What a fuzzing process is doing, in memory that outlives it: a process that dies leaves the input that killed it."""

from __future__ import annotations

import mmap
import struct
import time
from pathlib import Path

INPUT_BYTES_MAX = 1 << 20
_HEAD = struct.Struct("<QQQI")


class Table:
    """One process's; the process writes, its parent reads."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_HEAD.size + INPUT_BYTES_MAX))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)

    def begin(self, data: bytes) -> None:
        """An input is about to be given."""
        count, accepted, _, _ = _HEAD.unpack_from(self._map)
        length = min(len(data), INPUT_BYTES_MAX)
        self._map[_HEAD.size : _HEAD.size + length] = data[:length]
        _HEAD.pack_into(self._map, 0, count + 1, accepted, time.monotonic_ns(), length)

    def end(self, is_accepted: bool) -> None:
        """It has been."""
        count, accepted, _, length = _HEAD.unpack_from(self._map)
        _HEAD.pack_into(self._map, 0, count, accepted + is_accepted, 0, length)

    @property
    def count(self) -> int:
        """Inputs begun."""
        return int(_HEAD.unpack_from(self._map)[0])

    @property
    def accepted(self) -> int:
        """Of these, accepted."""
        return int(_HEAD.unpack_from(self._map)[1])

    def under_way_s(self) -> float:
        """How long the present input takes already; 0 between two."""
        began_ns = _HEAD.unpack_from(self._map)[2]
        return (time.monotonic_ns() - began_ns) / 1e9 if began_ns else 0.0

    @property
    def data(self) -> bytes:
        """The present input, or the last one."""
        return bytes(self._map[_HEAD.size : _HEAD.size + _HEAD.unpack_from(self._map)[3]])

    def close(self) -> None:
        self._map.close()
