"""Who holds which blocks."""

import pytest

from services.expander.core.blocks import Blocks


@pytest.fixture
def blocks():
    return Blocks(8)


def test_what_was_given_back_last_goes_out_first_and_what_was_never_out_last(blocks):
    assert blocks.allocate(3, 1, ("a",)) == (0, 1, 2)
    assert blocks.allocate(2, 2, ("a",)) == (3, 4)
    blocks.free((0, 1, 2), 1, ("a",))
    assert blocks.free_count == 6
    assert blocks.allocate(5, 3, ("b",)) == (0, 1, 2, 5, 6)
    assert blocks.free_count == 1 and blocks.allocate(2, 4, ("b",)) is None
    assert blocks.allocate(1, 4, ("b",)) == (7,) and not blocks.free_count
    assert dict(blocks.counts()) == {"a": 2, "b": 6}
    blocks.check([(2, ("a",), (3, 4)), (3, ("b",), (0, 1, 2, 5, 6)), (4, ("b",), (7,))])


@pytest.mark.parametrize(
    "held",
    [
        [(1, ("a",), (0, 1))],
        [(1, ("a",), (0, 1)), (2, ("a",), (2,))],
        [(1, ("a",), (0, 1)), (2, ("b",), (2, 3))],
        [(1, ("a",), (0, 1)), (2, ("a",), (2, 3)), (2, ("a",), (2, 3))],
        [(1, ("a",), (0, 0)), (2, ("a",), (2, 3))],
        [(1, ("a",), (0, 2)), (2, ("a",), (1, 3))],
        [(1, ("a",), (0, 1)), (2, ("a",), (2, 3)), (3, (), (4,))],
    ],
    ids=["one is missing", "a block is", "wrong holder", "named twice", "a block twice", "exchanged", "one free"],
)
def test_check_finds_whoever_is_wrong_about_what_is_held(blocks, held):
    blocks.allocate(2, 1, ("a",))
    blocks.allocate(2, 2, ("a",))
    blocks.allocate(1, 3, ())
    blocks.free((4,), 3, ())
    blocks.check([(1, ("a",), (0, 1)), (2, ("a",), (2, 3))])
    with pytest.raises(AssertionError):
        blocks.check(held)


@pytest.mark.parametrize("free", [[], [1, 2, 2], [1], [0, 1, 2]], ids=["lost", "twice", "one lost", "held and free"])
def test_check_finds_whatever_is_wrong_with_what_is_free(blocks, free):
    blocks.allocate(3, 1, ("a",))
    blocks.free((0, 1, 2), 1, ("a",))
    assert blocks.allocate(1, 2, ("a",)) == (0,)
    blocks.check([(2, ("a",), (0,))])
    blocks._free = free
    with pytest.raises(AssertionError):
        blocks.check([(2, ("a",), (0,))])
