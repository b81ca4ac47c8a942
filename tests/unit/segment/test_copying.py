"""What is copied in comes out whole, and the digest tells it from anything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from relaygr.domain.identity import PsiKey, UserKey
from relaygr.segment import ContentDigest, Geometry, MappedSegment, OwnedSegment, copy_in, copy_out, identity_bytes
from tests.unit.segment.hashers import WAYS, hasher_of

BOOT = "0" * 32
GEOMETRY = Geometry(4096, 32)
KEY = PsiKey(UserKey("t", "u"), "m", 0)
CHAIN = b"c" * 16


@pytest.fixture
def segments(tmp_path: Path):
    owned = OwnedSegment(tmp_path, "d", BOOT, GEOMETRY)
    mapped = MappedSegment.open(owned.path, boot_id=BOOT, segment_bytes=GEOMETRY.total_bytes, block_bytes=4096)
    yield owned, mapped
    mapped.close()
    owned.close()


def pages_of(*sizes: int) -> list[np.ndarray]:
    generator = np.random.default_rng(1)
    return [generator.integers(0, 256, size, dtype=np.uint8) for size in sizes]


@pytest.fixture(params=WAYS)
def digest_of(request):
    def made(length: int, key: PsiKey = KEY, chain: bytes = CHAIN, tokens: int = 5) -> ContentDigest:
        return ContentDigest(identity_bytes(key, chain), tokens, length, lambda: hasher_of(request.param))

    return made


def never() -> bool:
    return False


@pytest.mark.parametrize("sizes", [(4096,), (1,), (5000, 5000, 5000), (100, 8192, 3), (4096, 4096), (9000, 1, 9000)])
def test_pages_and_blocks_need_not_have_one_size(segments, digest_of, sizes):
    owned, mapped = segments
    length = sum(sizes)
    blocks = tuple(range(20, 20 - -(-length // 4096), -1))  # in no ascending order
    owned.stamp(blocks, 3)
    source, target = pages_of(*sizes), [np.zeros(size, dtype=np.uint8) for size in sizes]
    written, read = digest_of(length), digest_of(length)
    assert copy_in(mapped, blocks, 3, source, written, never)
    assert copy_out(mapped, blocks, 3, target, read, never)
    assert all(np.array_equal(a, b) for a, b in zip(source, target, strict=True))
    assert written.digest() == read.digest()


def test_a_writer_touches_no_block_of_another_generation(segments, digest_of):
    owned, mapped = segments
    owned.stamp((0, 2), 3)
    owned.stamp((1,), 4)
    assert not copy_in(mapped, (0, 1, 2), 3, pages_of(3 * 4096), digest_of(3 * 4096), never)
    assert mapped.block(0).any() and not mapped.block(1).any() and not mapped.block(2).any()


def test_a_reader_notices_a_change_of_hands_before_and_after_its_copy(segments, digest_of):
    owned, mapped = segments
    owned.stamp((0, 1), 3)
    target = [np.zeros(8192, dtype=np.uint8)]
    copy_in(mapped, (0, 1), 3, pages_of(8192), digest_of(8192), never)
    assert not copy_out(mapped, (0, 1), 2, target, digest_of(8192), never)
    assert not target[0].any()

    def change_hands() -> bool:
        owned.stamp((1,), 9)
        return False

    assert not copy_out(mapped, (0, 1), 3, target, digest_of(8192), change_hands)


def test_a_copy_stops_when_told(segments, digest_of):
    owned, mapped = segments
    owned.stamp((0, 1), 3)
    answers = iter([False, True])
    assert not copy_in(mapped, (0, 1), 3, pages_of(8192), digest_of(8192), lambda: next(answers), 4096)
    assert mapped.block(0).any() and not mapped.block(1).any()
    assert not copy_out(mapped, (0, 1), 3, pages_of(8192), digest_of(8192), lambda: True)


def test_the_digest_covers_identity_tokens_length_bytes_and_order(digest_of):
    pages = pages_of(100, 100)

    def take(digest: ContentDigest, *parts: np.ndarray) -> bytes:
        for part in parts:
            digest.update(part)
        return digest.digest()

    flipped = pages[1].copy()
    flipped[50] ^= 1
    others = [
        take(digest_of(200, key=PsiKey(UserKey("t", "v"), "m", 0)), *pages),
        take(digest_of(200, key=PsiKey(UserKey("x", "u"), "m", 0)), *pages),
        take(digest_of(200, key=PsiKey(UserKey("t", "u"), "n", 0)), *pages),
        take(digest_of(200, key=PsiKey(UserKey("t", "u"), "m", 1)), *pages),
        take(digest_of(200, chain=b"d" * 16), *pages),
        take(digest_of(200, tokens=6), *pages),
        take(digest_of(201), *pages),
        take(digest_of(200), pages[1], pages[0]),
        take(digest_of(200), pages[0], flipped),
        take(digest_of(200), pages[0]),
    ]
    right = take(digest_of(200), *pages)
    assert right not in others and len(set(others)) == len(others)
    assert take(digest_of(200), np.concatenate(pages)) == right, "bytes in order, however they are cut"


def test_no_two_identities_share_their_bytes():
    left = identity_bytes(PsiKey(UserKey("ab", "c"), "m", 0), CHAIN)
    right = identity_bytes(PsiKey(UserKey("a", "bc"), "m", 0), CHAIN)
    assert left != right
