"""Finds, checks and loads the shared object of kernels.

A file that was built from other sources than those beside it is not loaded: a kernel whose
arguments have changed is worse than none. Calls through ctypes let other Python threads run.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

_log = logging.getLogger(__name__)

_HERE = Path(__file__).resolve().parent
SOURCES = _HERE / "src"
LIBRARY_PATH = _HERE / f"_kernels{sysconfig.get_config_var('EXT_SUFFIX') or '.so'}"

LEVELS = ("none", "avx2", "avx512", "avx512-bf16", "amx")
"""Instruction sets, each including those before it; their places are the levels that kernels take."""

MARK = b"rgr-sources:"


@dataclass(frozen=True, slots=True)
class NativeLibrary:
    """The loaded kernels, and how far they may go on this machine."""

    isa: str
    """What this processor, its operating system and the build all have, or the lower one asked for."""
    path: Path
    functions: ctypes.CDLL = field(repr=False)
    """Its functions; a caller declares the types of those it uses."""

    @property
    def level(self) -> int:
        """The place of `isa` in LEVELS; what kernels take."""
        return LEVELS.index(self.isa)


def source_digest(sources: Path = SOURCES) -> str:
    """What the shared object must have been built from: every source and the recipe."""
    hashed = hashlib.sha256()
    for path in (*sorted(sources.glob("*.cpp")), *sorted(sources.glob("*.h")), sources.parent / "build.py"):
        hashed.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return hashed.hexdigest()


def is_current(path: Path, sources: Path = SOURCES) -> bool:
    """True when the file was built from these sources; it is not loaded for that."""
    return MARK + source_digest(sources).encode() in path.read_bytes()


@functools.cache
def load(path: Path = LIBRARY_PATH, isa_max: str = LEVELS[-1]) -> NativeLibrary | None:
    """The kernels, or None when there are none to be had; one log line says which and why.

    Args:
        path: of the shared object.
        isa_max: goes no higher than this, whatever the machine can do.
    """
    try:
        if not is_current(path):
            raise OSError(f"{path.name} was not built from these sources; `make native` builds it")
        functions = ctypes.CDLL(str(path))
        functions.rgr_cpu_isa.restype = ctypes.c_char_p
        found = functions.rgr_cpu_isa().decode()
    except (OSError, AttributeError) as error:
        reason = f"{path.name} is not built; `make native` builds it" if not path.exists() else error
        _log.warning("no native kernels, numpy, xxhash and torch serve instead: %s", reason)
        return None
    isa = min(found, isa_max, key=LEVELS.index)
    _log.info("native kernels: %s of %s in %s", isa, found, path)
    return NativeLibrary(isa, path, functions)
