"""A run of bytes over views of other sizes than the chunks that travel."""

from __future__ import annotations

import numpy as np
import pytest

from relaygr.segment import ContentDigest
from relaygr.segment.pieces import Pieces


def views_of(*lengths: int) -> list[np.ndarray]:
    return [np.arange(length, dtype=np.uint8) + 7 for length in lengths]


@pytest.mark.parametrize("chunk_bytes", [1, 3, 10, 64, 1000])
def test_what_is_read_in_chunks_is_written_elsewhere_the_same(chunk_bytes: int) -> None:
    sources, targets = views_of(10, 1, 0, 33, 20), [np.zeros(16, dtype=np.uint8) for _ in range(4)]
    read, written = (ContentDigest(b"x", 1, 60) for _ in range(2))
    source, target = Pieces(sources, 60), Pieces(targets, 60)
    while source.left_bytes:
        assert source.done_bytes == target.done_bytes
        target.write(source.read(chunk_bytes, read), written)
    assert target.left_bytes == 0 and read.digest() == written.digest()
    wanted = np.concatenate(sources)[:60]
    assert np.array_equal(np.concatenate(targets)[:60], wanted)
    assert not np.concatenate(targets)[60:].any(), "nothing is written beyond the run's end"
    assert source.read(chunk_bytes) == b""


def test_a_digest_is_of_what_arrived() -> None:
    whole = np.arange(100, dtype=np.uint8)
    expected, digest = (ContentDigest(b"x", 1, 100) for _ in range(2))
    expected.update(whole)
    Pieces([np.zeros(60, np.uint8), np.zeros(40, np.uint8)], 100).write(whole.tobytes(), digest)
    assert digest.digest() == expected.digest()
