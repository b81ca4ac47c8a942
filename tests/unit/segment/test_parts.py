"""An entry is copied and digested part by part, by as many threads as there are, and stamps say whether it counts."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from relaygr.segment import ContentDigest, Geometry, MappedSegment, OwnedSegment, Transfer, copy_in, remove_stale
from relaygr.segment.digest import PART_BYTES
from tests.unit.segment.hashers import WAYS, hasher_of

BOOT = "0" * 32
BLOCK_BYTES = 64 * 1024
LENGTH = 3 * PART_BYTES + 12_345
GEOMETRY = Geometry(BLOCK_BYTES, -(-LENGTH // BLOCK_BYTES))
BLOCKS = tuple(reversed(range(GEOMETRY.block_count)))
PAGES = np.array_split(np.random.default_rng(7).integers(0, 256, LENGTH, dtype=np.uint8), 5)


@pytest.fixture
def owned(tmp_path: Path):
    made = OwnedSegment(tmp_path, "d", BOOT, GEOMETRY)
    made.stamp(BLOCKS, 3)
    yield made
    made.close()


@pytest.fixture
def mapped(owned: OwnedSegment):
    made = map_of(owned)
    yield made
    made.close()


def map_of(owned: OwnedSegment) -> MappedSegment:
    return MappedSegment.open(owned.path, boot_id=BOOT, segment_bytes=GEOMETRY.total_bytes, block_bytes=BLOCK_BYTES)


def digest_of(way: str = WAYS[-1]) -> ContentDigest:
    return ContentDigest(b"identity", 9, LENGTH, lambda: hasher_of(way))


def never() -> bool:
    return False


@pytest.mark.parametrize("way", WAYS)
def test_threads_that_share_a_transfer_move_each_byte_once(mapped, way):
    whole, read = digest_of("xxhash"), digest_of(way)
    for page in PAGES:
        whole.update(page)
    assert copy_in(mapped, BLOCKS, 3, PAGES, digest_of(way), never)
    target = [np.zeros_like(page) for page in PAGES]
    transfer = Transfer(mapped, BLOCKS, 3, target, read, is_store=False)
    together = threading.Barrier(3)

    def work() -> bool:
        together.wait(10)
        return transfer.work(never)

    with ThreadPoolExecutor(3) as threads:
        assert all([job.result() for job in [threads.submit(work) for _ in range(3)]])
    assert transfer.is_sound() and read.digest() == whole.digest()
    assert all(np.array_equal(one, other) for one, other in zip(PAGES, target, strict=True))


def test_a_thread_that_is_stopped_leaves_the_transfer_undone(mapped):
    transfer = Transfer(mapped, BLOCKS, 3, PAGES, digest_of(), is_store=True)
    answers = iter([False, True])
    assert not transfer.work(lambda: next(answers))
    assert transfer.work(never), "another one goes on with the parts that nobody took"


def test_once_a_block_changed_hands_every_thread_gives_up(owned, mapped):
    transfer = Transfer(mapped, BLOCKS, 3, PAGES, digest_of(), is_store=True)
    owned.stamp(BLOCKS[1:2], 4)
    assert not transfer.work(never) and not transfer.work(never)
    owned.stamp(BLOCKS[1:2], 3)
    assert not transfer.is_sound(), "also when it came back"


def test_parts_that_changed_places_have_another_digest():
    right, swapped = digest_of(), digest_of()
    run = np.concatenate(PAGES)
    right.update(run)
    swapped.update(np.concatenate([run[PART_BYTES : 2 * PART_BYTES], run[:PART_BYTES], run[2 * PART_BYTES :]]))
    assert right.digest() != swapped.digest()


def test_an_owner_that_closes_takes_back_what_it_granted(owned):
    mapped = map_of(owned)
    assert mapped.owns(BLOCKS, 3)
    owned.close()
    assert not any(mapped.owns((block,), 3) for block in BLOCKS)
    mapped.close()


def test_the_next_start_takes_back_what_a_dead_owner_granted(tmp_path):
    owned = OwnedSegment(tmp_path, "d", BOOT, GEOMETRY)
    owned.stamp(BLOCKS, 3)
    mapped = map_of(owned)
    _die(owned)
    assert mapped.owns(BLOCKS, 3)
    assert remove_stale(tmp_path, "d") == 1
    assert not any(mapped.owns((block,), 3) for block in BLOCKS)
    mapped.close()


def _die(owned: OwnedSegment) -> None:
    """As by SIGKILL: the lock goes, the files stay."""
    owned.locks.close()
    del owned._generations
    owned.presence.detach()
    owned._map.close()
    os.close(owned._fd)
    owned._fd = -1
