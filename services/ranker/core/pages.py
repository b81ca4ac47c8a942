"""Who owns which page of the device arena. Exact: a page is free or in one entry.

Source: design, section 3 (ranker), invariant I3.
"""

from __future__ import annotations

from relaygr.domain.chain import PAGE_TOKENS


def pages_of(tokens: int) -> int:
    """Pages that hold `tokens` tokens; token i lies in page i // PAGE_TOKENS."""
    return -(-tokens // PAGE_TOKENS)


class PageAllocator:
    """Hands out page ids; the page freed last is handed out first, since it is the warmest."""

    def __init__(self, pages_total: int):
        assert pages_total > 0
        self.pages_total = pages_total
        self._free = list(range(pages_total - 1, -1, -1))
        self._is_free = bytearray(b"\x01" * pages_total)

    @property
    def free_pages(self) -> int:
        """Pages that nobody owns."""
        return len(self._free)

    @property
    def used_pages(self) -> int:
        """Pages that entries own."""
        return self.pages_total - len(self._free)

    def take(self, pages: int) -> list[int]:
        """Ids of `pages` pages, now owned by the caller. The caller has checked that they are there."""
        assert 0 <= pages <= len(self._free), "taking pages that are not free"
        taken = [self._free.pop() for _ in range(pages)]
        for page_id in taken:
            self._is_free[page_id] = 0
        return taken

    def give_back(self, page_ids: list[int]) -> None:
        """Free pages. Nothing may read or write them any more."""
        for page_id in reversed(page_ids):
            assert not self._is_free[page_id], f"page {page_id} freed twice"
            self._is_free[page_id] = 1
            self._free.append(page_id)

    def check(self, owned: list[int]) -> None:
        """Assert that `owned`, the pages of all entries, and the free list are a partition."""
        assert len(owned) + len(self._free) == self.pages_total, "pages leaked"
        assert sorted(owned + self._free) == list(range(self.pages_total)), "a page is owned twice"
        assert sum(self._is_free) == len(self._free)
