"""What the segment gives back is what was put in, or is not taken for it."""

from dataclasses import replace

import pytest
import torch

from relaygr.model.conformance.dram import BLOCK_BYTES, Dram

PAGE_BYTES, PAGES = 5000, 4


@pytest.fixture
def dram():
    with Dram(PAGE_BYTES, PAGES) as dram:
        yield dram


@pytest.fixture
def arena():
    return torch.arange(2 * PAGES * PAGE_BYTES // 4, dtype=torch.float32).view(2 * PAGES, -1)


def _flip_a_bit(dram, spilled):
    dram._mapped.block(0)[BLOCK_BYTES // 2] ^= 1
    return spilled


TORN = {
    "a bit": _flip_a_bit,
    "count": lambda dram, spilled: replace(spilled, token_count=spilled.token_count + 1),
    "generation": lambda dram, spilled: replace(spilled, generation=spilled.generation - 1),
}


def test_bytes_come_back_to_other_pages_in_order(dram, arena):
    wanted = arena[[3, 0, 2, 1]].clone()
    spilled = dram.store(arena, (3, 0, 2, 1), 300)
    assert dram.load(spilled, arena, (7, 4, 6, 5))
    assert torch.equal(arena[[7, 4, 6, 5]], wanted)


@pytest.mark.parametrize("tear", TORN.values(), ids=TORN)
def test_what_is_torn_is_not_taken(dram, arena, tear):
    spilled = dram.store(arena, (0, 1, 2, 3), 300)
    assert not dram.load(tear(dram, spilled), arena, (4, 5, 6, 7))


def test_a_page_of_another_psi_between_copies_is_not_taken(dram, arena):
    """The owner reused the blocks: what was spilled before is gone."""
    first = dram.store(arena, (0, 1, 2, 3), 300)
    dram.store(arena, (4, 1, 2, 3), 300)
    assert not dram.load(first, arena, (4, 5, 6, 7))
