"""Random requests, pages to put psi on, and the comparison with full inference.

Arenas start out as NaN: a slot that is read before it is written spoils the score. Pages
that are given back keep what they hold, as in a ranker.

Shapes: C candidates, K tasks.

Source: design, section 4 (identity and exactness).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relaygr.behaviours.columns import Behaviours, Candidates, Cross, Profile
from relaygr.model.conformance.subject import TOLERANCE, Subject
from relaygr.model.error import logit_error
from relaygr.model.interface import PageView, new_arena
from relaygr.model.run import RankInputs, infer_full, pre_infer, rank_on_psi, run

START_S = 1_700_000_000

ARENA_PAGES = 32


class Bench:
    """Inputs and pages for the checks; the same for the same seed."""

    def __init__(self, subject: Subject, seed: int):
        self.subject, self.model, self.page = subject, subject.model, subject.page
        self.rng = np.random.default_rng(seed)
        self._arena = new_arena(self.model, ARENA_PAGES)
        self.wipe(range(ARENA_PAGES))
        self._free = [int(page) for page in self.rng.permutation(ARENA_PAGES)]

    @property
    def arena(self) -> Tensor:
        """All pages."""
        return self._arena

    @property
    def long(self) -> int:
        """Behaviours of a long prefix here: two full pages and a part, an odd number of tokens."""
        return 2 * self.page + self.page // 3 // 2 * 2

    def behaviours(self, count: int, after_s: int = START_S) -> Behaviours:
        """A random history; about one item in twenty is unknown."""
        rng, features = self.rng, self.model.spec.features
        items = rng.choice(self.subject.item_ids, count)
        items = np.where(rng.random(count) < 0.05, items.max(initial=0) + 1 + items, items)
        return Behaviours.of(
            items,
            after_s + np.cumsum(rng.integers(0, 100_000, count) * (rng.random(count) < 0.8)),
            rng.integers(0, 3, count),
            rng.normal(size=(count, features.behaviour_dense)),
            self._codes(count, features.behaviour_categorical),
        )

    def profile(self) -> Profile:
        """A random user token."""
        features = self.model.spec.features
        return Profile.of(self.rng.normal(size=features.user_dense), self._codes(1, features.user_categorical)[0])

    def candidates(self, count: int) -> Candidates:
        """Random candidates."""
        features = self.model.spec.features
        return Candidates.of(
            self.rng.choice(self.subject.item_ids, count),
            self.rng.normal(size=(count, features.candidate_dense)),
            self._codes(count, features.candidate_categorical),
        )

    def inputs(
        self, prefix_count: int, delta_count: int = 5, candidate_count: int = 12, cross_count: int = 2
    ) -> RankInputs:
        """A random request; cross tokens only for a model that takes them."""
        width = self.model.spec.features.cross_dense
        prefix = self.behaviours(prefix_count)
        last_s = int(prefix.timestamps_s[-1]) if prefix_count else START_S
        delta = self.behaviours(delta_count, last_s)
        return RankInputs(
            profile=self.profile(),
            prefix=prefix,
            delta=delta,
            cross=Cross.of(self.rng.normal(size=(cross_count if width else 0, width))),
            candidates=self.candidates(candidate_count),
            request_time_s=(int(delta.timestamps_s[-1]) if delta_count else last_s) + 60,
        )

    def pages(self, tokens: int) -> PageView:
        """Unused pages for so many tokens, scattered and out of order."""
        count = -(-tokens // self.page)
        taken, self._free = self._free[:count], self._free[count:]
        assert len(taken) == count, "the bench is out of pages"
        return PageView(self._arena, tuple(taken), 0)

    def give_back(self, view: PageView) -> None:
        """Pages may be used again, from now on and in another order."""
        self._free = [int(page) for page in self.rng.permutation([*self._free, *view.page_ids])]

    def wipe(self, page_ids: Sequence[int]) -> None:
        """Fill pages with ones in every bit: NaN in every float format, whatever the layout."""
        for page in page_ids:
            self._arena[page].view(torch.uint8).fill_(255)

    def produce(
        self,
        inputs: RankInputs,
        chunk_tokens: int | None = None,
        end_token: int | None = None,
        on: PageView | None = None,
    ) -> PageView:
        """Psi of a request's prefix, or of its first tokens, in chunks of a page unless told otherwise."""
        psi = on or self.pages(inputs.prefix_tokens)
        chunk_tokens = chunk_tokens or self.page
        return run(
            pre_infer(self.model, inputs.profile, inputs.prefix, psi, chunk_tokens=chunk_tokens, end_token=end_token)
        )

    def rank(self, inputs: RankInputs, psi: PageView | None) -> Tensor:
        """The scores on psi."""
        return run(rank_on_psi(self.model, inputs, psi))

    def full(self, inputs: RankInputs) -> Tensor:
        """What the scores should be, by full inference."""
        return run(infer_full(self.model, inputs))

    def allowed(self, inputs: RankInputs, full_CK: Tensor) -> float:
        """The error a relay of this request may have."""
        if self.subject.relay_error_max is not None:
            return self.subject.relay_error_max
        if self.subject.oracle is None:
            return TOLERANCE
        return logit_error(full_CK, run(infer_full(self.subject.oracle, inputs)))

    def assert_equal(self, got_CK: Tensor, inputs: RankInputs, what: str) -> None:
        """These scores are what full inference gives."""
        full_CK = self.full(inputs)
        error, allowed = logit_error(got_CK, full_CK), self.allowed(inputs, full_CK)
        assert error <= allowed, f"{what}: error {error:.3g}, allowed {allowed:.3g}"

    def assert_scores(self, inputs: RankInputs, psi: PageView | None, what: str) -> None:
        """Ranking on psi gives what full inference gives."""
        self.assert_equal(self.rank(inputs, psi), inputs, what)

    def _codes(self, count: int, sizes: Sequence[int]) -> NDArray[np.int32]:
        columns = [self.rng.integers(0, size, count) for size in sizes]
        return np.stack(columns, axis=1).astype(np.int32) if columns else np.zeros((count, 0), np.int32)


def with_candidates(inputs: RankInputs, places: Sequence[int]) -> RankInputs:
    """The request with these of its candidates, in this order."""
    items, at = inputs.candidates, np.asarray(places, np.int64)
    return replace(inputs, candidates=Candidates(items.item_ids[at], items.dense[at], items.categorical[at]))
