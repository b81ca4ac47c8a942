"""The kernels' digest is xxhash's, however the bytes come; and what they copy is what they digest."""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from relaygr.native import build as building
from relaygr.native import load
from relaygr.segment import ContentDigest, Geometry, MappedSegment, OwnedSegment, copy_in, copy_out
from relaygr.segment.kernels import KernelHash
from tests.unit.segment.hashers import KERNEL_LEVELS, WAYS, hasher_of

ROOT = Path(__file__).resolve().parent.parent.parent.parent
BOOT = "0" * 32
BLOCK_BYTES = 8192
GEOMETRY = Geometry(BLOCK_BYTES, 64)
BYTES = np.random.default_rng(3).integers(0, 256, 300_000, dtype=np.uint8)

of_each_level = pytest.mark.parametrize("level", KERNEL_LEVELS)
of_each_way = pytest.mark.parametrize("way", WAYS)


@pytest.fixture
def mapped(tmp_path):
    owned = OwnedSegment(tmp_path, "d", BOOT, GEOMETRY)
    owned.stamp(range(64), 3)
    made = MappedSegment.open(
        owned.path, boot_id=BOOT, segment_bytes=GEOMETRY.total_bytes, block_bytes=GEOMETRY.block_bytes
    )
    yield made
    made.close()
    owned.close()


@pytest.mark.skipif(building.compiler_of(os.environ) is None, reason="no C++ compiler: nothing is built here")
def test_the_kernels_are_what_is_used_where_they_can_be_built():
    assert load() is not None and isinstance(ContentDigest(b"i", 1, 1).part(0), KernelHash)


@of_each_level
def test_the_digest_of_every_length_is_the_librarys(level):
    """Up to 240 bytes xxh3 is another function; 1024 is a block; one byte more or less matters at each stripe."""
    for length in (*range(1200), 2047, 2048, 2049, 65_535, 65_536, 65_537, 299_999):
        hasher = hasher_of(level)
        hasher.update(BYTES[:length].data)
        assert hasher.digest() == xxhash.xxh3_128_digest(BYTES[:length].data), length


@of_each_level
@given(lengths=st.lists(st.integers(0, 3000), max_size=20), start=st.integers(0, 200))
def test_pieces_may_be_cut_and_aligned_in_any_way(level, lengths, start):
    kernels, library = hasher_of(level), xxhash.xxh3_128()
    for length in lengths:
        piece = BYTES[start : start + length]
        kernels.update(piece.data)
        library.update(piece.data)
        assert kernels.digest() == library.digest(), "also in the middle, and it goes on from there"
        start += length


@of_each_level
@given(data=st.data())
def test_what_arrives_and_its_digest_are_those_of_the_library(level, mapped_for_all, data):
    """Pages of any length at any address, blocks in any order, steps of any size; both ways through the segment."""
    mapped = mapped_for_all
    sizes = data.draw(st.lists(st.integers(0, 30_000), min_size=1, max_size=6))
    offset, step = data.draw(st.integers(0, 70)), data.draw(st.sampled_from([1000, 4096, 8192, 10_000, 1 << 20]))
    total = sum(sizes)
    blocks = data.draw(st.permutations(range(64)))[: -(-total // BLOCK_BYTES)]
    cuts = np.cumsum([offset, *sizes])
    source = [BYTES[a:b] for a, b in itertools.pairwise(cuts)]
    arena = np.zeros(total + offset + 1, dtype=np.uint8)
    target = [arena[a:b] for a, b in itertools.pairwise(cuts)]
    digests = [ContentDigest(b"identity", 9, total, partial(hasher_of, way)) for way in (level, level, "xxhash")]
    assert copy_in(mapped, blocks, 3, source, digests[0], lambda: False, step)
    assert copy_out(mapped, blocks, 3, target, digests[1], lambda: False, step)
    for piece in source:
        digests[2].update(piece)
    assert np.array_equal(arena[offset:-1], BYTES[offset : offset + total])
    assert not arena[:offset].any() and not arena[-1], "nothing beside the pages is touched"
    assert len({digest.digest() for digest in digests}) == 1


@pytest.fixture(scope="module")
def mapped_for_all(tmp_path_factory):
    owned = OwnedSegment(tmp_path_factory.mktemp("segment"), "d", BOOT, GEOMETRY)
    owned.stamp(range(64), 3)
    made = MappedSegment.open(
        owned.path, boot_id=BOOT, segment_bytes=GEOMETRY.total_bytes, block_bytes=GEOMETRY.block_bytes
    )
    yield made
    made.close()
    owned.close()


@of_each_way
def test_one_flipped_bit_anywhere_changes_the_digest(mapped, way):
    pages = [BYTES[:BLOCK_BYTES].copy(), BYTES[BLOCK_BYTES : 2 * BLOCK_BYTES].copy()]

    def digest_after(flip: int | None) -> bytes:
        digest = ContentDigest(b"identity", 9, 2 * BLOCK_BYTES, partial(hasher_of, way))
        assert copy_in(mapped, (5, 2), 3, pages, ContentDigest(b"identity", 9, 2 * BLOCK_BYTES), lambda: False)
        if flip is not None:
            mapped.block(5 if flip < BLOCK_BYTES else 2)[flip % BLOCK_BYTES] ^= 1 << flip % 8
        assert copy_out(mapped, (5, 2), 3, [np.zeros_like(page) for page in pages], digest, lambda: False)
        return digest.digest()

    right = digest_after(None)
    flips = (0, 1, 63, 64, 4095, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 65, 2 * BLOCK_BYTES - 1)
    assert right not in [digest_after(flip) for flip in flips]


@of_each_way
def test_more_bytes_than_blocks_and_blocks_outside_the_segment_are_mistakes_of_the_caller(mapped, way):
    for blocks in ((1,), (1, 64)):
        digest = ContentDigest(b"i", 1, 2 * BLOCK_BYTES, partial(hasher_of, way))
        moved = False
        try:
            moved = copy_in(mapped, blocks, 3, [BYTES[: 2 * BLOCK_BYTES]], digest, lambda: False)
        except (AssertionError, IndexError):
            continue
        assert not moved


@pytest.mark.skipif(not KERNEL_LEVELS, reason="the kernels are not built here")
def test_other_threads_run_during_a_call():
    """CDLL lets the interpreter go for the time of a call; its subclass PyDLL does not."""
    library = load()
    assert library is not None and type(library.functions) is ctypes.CDLL


def test_a_process_without_kernels_stores_what_one_with_them_loads():
    """The fallback is not a dialect: same bytes, same digest."""
    code = (
        "from pathlib import Path\n"
        "from relaygr.native import library\n"
        "library.load.__wrapped__.__defaults__ = (Path('/nowhere'), 'amx')\n"
        "from relaygr.segment import ContentDigest\n"
        "import numpy, sys\n"
        "digest = ContentDigest(b'identity', 9, 5000)\n"
        "digest.update(numpy.arange(5000, dtype=numpy.uint8))\n"
        "print(type(digest.part(0)).__module__.split('.')[0], digest.digest().hex())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    here = ContentDigest(b"identity", 9, 5000)
    here.update(np.arange(5000, dtype=np.uint8))
    assert done.stdout.split() == ["xxhash", here.digest().hex()]
