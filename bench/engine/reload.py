"""How fast a psi comes back from the DRAM tier, verified, against a copy of the same bytes.

    python -m bench.engine.reload

A reload is what the ranker does: `copy_out` from a segment into pages, digest included, and the
digest compared. A copy is the faster of numpy's and libc's over the same pages. Segment and
arena are each larger than the last-level cache, rows of the arena are in no
order, and the candidates take turns within each round, so that all meet the same neighbours.

Source: design, section 3 (expander).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from relaygr.native import load
from relaygr.segment import ContentDigest, Geometry, MappedSegment, OwnedSegment, copy_in, copy_out
from relaygr.segment.digest import Hasher, fastest_hasher

MIB = 1024 * 1024
SEGMENTS = Path("/dev/shm")  # noqa: S108 - where rankers and expanders share memory; a private folder is made in it
IDENTITY = b"reload"
GENERATION = 1
WARM_UP_ROUNDS = 1

Pages = Sequence[NDArray[np.uint8]]


def measure_reload(
    *,
    total_bytes: int = 192 * MIB,
    page_bytes: int = MIB,
    block_bytes: int = 64 * 1024,
    rounds: int = 15,
    directory: Path = SEGMENTS,
) -> dict[str, Any]:
    """Time reloads and copies of the same pages, in turns.

    Args:
        total_bytes: of one reload; a multiple of page and block, larger than the last-level cache.
        page_bytes: of a row of the arena.
        block_bytes: of a block of the segment.
        rounds: each candidate runs once a round; one more round goes before them, unmeasured.
        directory: where the segment lies.

    Returns:
        Medians in GB/s (1e9 bytes of payload a second) with their quartiles and counts: `reload_gbps`,
        `memcpy_gbps` (the faster of `numpy_gbps` and `libc_gbps`), `unfused_gbps` (numpy copies,
        xxhash digests), `digest_gbps` (xxhash alone), and `reload_per_memcpy`.
    """
    with tempfile.TemporaryDirectory(dir=directory, prefix="relaygr-bench-") as folder:
        geometry = Geometry(block_bytes, total_bytes // block_bytes)
        owned = OwnedSegment(Path(folder), "bench", "0" * 32, geometry)
        try:
            mapped = MappedSegment.open(
                owned.path, boot_id=owned.boot_id, segment_bytes=geometry.total_bytes, block_bytes=block_bytes
            )
            owned.stamp(range(geometry.block_count), GENERATION)
            samples = _measure(mapped, _arena(total_bytes, page_bytes), rounds)
            mapped.close()
        finally:
            owned.close()
    return _report(samples, total_bytes, page_bytes, block_bytes)


def _arena(total_bytes: int, page_bytes: int) -> Pages:
    """Rows of one faulted-in arena on 4,096-byte boundaries, shuffled as a page table is after a while."""
    arena = np.frombuffer(mmap.mmap(-1, total_bytes), dtype=np.uint8).reshape(-1, page_bytes)
    generator = np.random.default_rng(5)
    words = arena.reshape(-1).view(np.uint64)
    words[:] = generator.integers(0, 2**63, MIB // 8, dtype=np.uint64).repeat(-(-len(words) // (MIB // 8)))[
        : len(words)
    ]
    words ^= np.arange(len(words), dtype=np.uint64)
    return [arena[row] for row in generator.permutation(len(arena))]


def _measure(mapped: MappedSegment, pages: Pages, rounds: int) -> dict[str, list[float]]:
    total_bytes = sum(page.nbytes for page in pages)
    blocks = range(mapped.geometry.block_count)

    def digest_of(make_hasher: Callable[[], Hasher] = fastest_hasher) -> ContentDigest:
        return ContentDigest(IDENTITY, 1, total_bytes, make_hasher)

    stored = digest_of()
    assert copy_in(mapped, blocks, GENERATION, pages, stored, lambda: False)

    def reload(make_hasher: Callable[[], Hasher] = fastest_hasher) -> None:
        digest = digest_of(make_hasher)
        assert copy_out(mapped, blocks, GENERATION, pages, digest, lambda: False)
        assert digest.digest() == stored.digest()

    cuts = np.cumsum([0, *(page.nbytes for page in pages)])
    sources = [mapped.blocks[first : first + page.nbytes] for first, page in zip(cuts, pages, strict=False)]
    memmove = ctypes.CDLL(None).memcpy
    memmove.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    addresses = [
        (page.ctypes.data, source.ctypes.data, page.nbytes) for page, source in zip(pages, sources, strict=True)
    ]

    def copy_by_numpy() -> None:
        for page, source in zip(pages, sources, strict=True):
            np.copyto(page, source)

    def copy_by_libc() -> None:
        for target, source, count in addresses:
            memmove(target, source, count)

    candidates: dict[str, Callable[[], None]] = {
        "reload": reload,
        "numpy": copy_by_numpy,
        "libc": copy_by_libc,
        "unfused": lambda: reload(xxhash.xxh3_128),
        "digest": lambda: digest_of(xxhash.xxh3_128).update(mapped.blocks),
    }
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(WARM_UP_ROUNDS + rounds):
        for name, run in candidates.items():
            start_ns = time.perf_counter_ns()
            run()
            if number >= WARM_UP_ROUNDS:
                samples[name].append(total_bytes / (time.perf_counter_ns() - start_ns))
    return samples


def _report(samples: dict[str, list[float]], total_bytes: int, page_bytes: int, block_bytes: int) -> dict[str, Any]:
    medians = {name: statistics.median(found) for name, found in samples.items()}
    library = load()
    memcpy = max("numpy", "libc", key=medians.__getitem__)
    return {
        **{f"{name}_gbps": round(median, 2) for name, median in medians.items()},
        "memcpy_gbps": round(medians[memcpy], 2),
        "memcpy_by": memcpy,
        "reload_per_memcpy": round(medians["reload"] / medians[memcpy], 3),
        "quartiles_gbps": {
            name: [round(float(q), 2) for q in np.quantile(found, (0.25, 0.75))] for name, found in samples.items()
        },
        "count": {name: len(found) for name, found in samples.items()},
        "total_bytes": total_bytes,
        "page_bytes": page_bytes,
        "block_bytes": block_bytes,
        "kernels": "none: numpy and xxhash" if library is None else library.isa,
    }


def main() -> int:
    """The command: one JSON document on standard output."""
    parser = argparse.ArgumentParser(description="Reload speed, verified, against a copy of the same bytes.")
    parser.add_argument("--mib", type=int, default=192, help="MiB of one reload")
    parser.add_argument("--page-kib", type=int, default=1024)
    parser.add_argument("--block-kib", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    found = measure_reload(
        total_bytes=arguments.mib * MIB,
        page_bytes=arguments.page_kib * 1024,
        block_bytes=arguments.block_kib * 1024,
        rounds=arguments.rounds,
    )
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
