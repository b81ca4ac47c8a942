"""What lies in a device's pages and in an expander's blocks: whose tokens, of which text of the log.

The cores move page numbers; this remembers what the copies and computes they ordered have really written, so that a
rank can be held to what it reads (I5), and a writer to what it may still write.

Source: design, section 5, invariant I5.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from relaygr.domain.chain import PAGE_TOKENS
from relaygr.domain.identity import PsiKey
from sim.chains import LogChain
from sim.violations import Violation

Content = tuple[PsiKey, int, int]
"""Whose, which text of the log, and how many tokens of the psi lie in and before this page."""


@dataclass(slots=True)
class DeviceMemory:
    """Pages of one arena."""

    pages: dict[int, Content] = field(default_factory=dict)
    _leased: dict[int, list[PsiKey]] = field(default_factory=dict)
    """Pages that ranks may be reading, and as whose."""

    def lease(self, page_ids: tuple[int, ...], key: PsiKey) -> None:
        """A rank was given these pages."""
        for page_id in page_ids:
            self._leased.setdefault(page_id, []).append(key)

    def let_go(self, page_ids: tuple[int, ...], key: PsiKey) -> None:
        """It has ended."""
        for page_id in page_ids:
            keys = self._leased[page_id]
            keys.remove(key)
            if not keys:
                del self._leased[page_id]

    def claim(self, page_ids: tuple[int, ...], key: PsiKey) -> None:
        """A production may write to these pages from now on.

        Raises:
            Violation: a rank may be reading them as another psi.
        """
        for page_id in page_ids:
            others = [each for each in self._leased.get(page_id, ()) if each != key]
            if others:
                raise Violation("I1", f"page {page_id} goes to {key} while {others} are read")

    def write(self, page_ids: tuple[int, ...], key: PsiKey, chain: LogChain, begin: int, end: int) -> None:
        """Tokens from `begin` to `end` have been computed or copied in."""
        for place in range(begin // PAGE_TOKENS, -(-end // PAGE_TOKENS)):
            upto = min(end, (place + 1) * PAGE_TOKENS)
            self.pages[page_ids[place]] = (key, chain.text_at(upto), upto)

    def read(self, page_ids: tuple[int, ...], key: PsiKey, chain: LogChain, tokens: int) -> None:
        """The first `tokens` tokens are read for a history.

        Raises:
            Violation: something else lies there.
        """
        for place in range(-(-tokens // PAGE_TOKENS)):
            upto = min(tokens, (place + 1) * PAGE_TOKENS)
            found = self.pages.get(page_ids[place])
            is_right = found is not None and found[0] == key and found[2] >= upto and found[1] == chain.text_at(upto)
            if not is_right:
                raise Violation("I5", f"page {place} of {tokens} tokens of {chain} holds {found}")
