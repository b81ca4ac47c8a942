"""The ways of taking a digest that this machine has: the library, and the kernels level by level."""

import xxhash

from relaygr.native import LEVELS, load
from relaygr.segment.digest import Hasher
from relaygr.segment.kernels import KernelHash

KERNEL_LEVELS = tuple(isa for isa in LEVELS if (found := load(isa_max=isa)) is not None and found.isa == isa)
WAYS = ("xxhash", *KERNEL_LEVELS)


def hasher_of(way: str) -> Hasher:
    """An unused hasher."""
    if way == "xxhash":
        return xxhash.xxh3_128()
    library = load(isa_max=way)
    assert library is not None
    return KernelHash(library)
