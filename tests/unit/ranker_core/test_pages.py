import pytest

from services.ranker.core.pages import PageAllocator, pages_of


@pytest.mark.parametrize(("tokens", "pages"), [(0, 0), (1, 1), (127, 1), (128, 1), (129, 2), (256, 2), (257, 3)])
def test_token_i_lies_in_page_i_over_page_tokens(tokens, pages):
    assert pages_of(tokens) == pages


def test_page_freed_last_is_taken_first():
    pages = PageAllocator(4)
    first = pages.take(3)
    assert first == [0, 1, 2]
    pages.give_back([1])
    pages.give_back([0])
    assert pages.take(2) == [0, 1]
    assert (pages.free_pages, pages.used_pages) == (1, 3)


def test_pages_given_back_together_are_taken_in_the_same_order():
    pages = PageAllocator(4)
    pages.give_back(pages.take(4))
    assert pages.take(4) == [0, 1, 2, 3]


def test_freeing_a_page_twice_is_a_bug():
    pages = PageAllocator(2)
    taken = pages.take(1)
    pages.give_back(taken)
    with pytest.raises(AssertionError, match="freed twice"):
        pages.give_back(taken)


def test_taking_more_than_is_free_is_a_bug():
    with pytest.raises(AssertionError):
        PageAllocator(2).take(3)


@pytest.mark.parametrize("owned", [[0], [0, 1, 1], [0, 1, 2]])
def test_check_notices_leaked_and_doubly_owned_pages(owned):
    pages = PageAllocator(4)
    pages.take(2)
    pages.check([0, 1])
    with pytest.raises(AssertionError):
        pages.check(owned)
