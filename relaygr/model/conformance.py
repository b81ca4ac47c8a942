"""The exactness suite: what any model behind the interface must hold before it is served.

Plain functions that raise AssertionError, so that any test runner will do:

    from relaygr.model.conformance import CHECKS, Subject

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_my_model_is_exact(check):
        check(Subject(model=my_model(), item_ids=my_item_ids), seed=1)

float32: cached against full within 1e-5. bfloat16: give the same weights in float32 as
`oracle`; the error of any relay then must not exceed that of full bfloat16 against it.

Arenas start out as NaN: a slot that is read before it is written spoils the score.

Shapes: C candidates, K tasks, D hidden width.

Source: design, section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relaygr.behaviours.columns import Behaviours, Candidates, Cross, Profile
from relaygr.domain.chain import PAGE_TOKENS
from relaygr.model.error import logit_error
from relaygr.model.interface import PageView, RelayModel, new_arena
from relaygr.model.run import RankInputs, append, infer_full, pre_infer, rank_on_psi, run

TOLERANCE = 1e-5
"""Of float32, by logit_error."""

DIFFERENCE_MIN = 100 * TOLERANCE
"""What another user's psi must move the logits by."""

PREFIX = 300
"""Behaviours of a long prefix here: two full pages and a part."""

START_S = 1_700_000_000


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model under test.

    item_ids are some of its vocabulary; limits, if smaller than what the checks use, are
    not enforced by a model and so do not matter here.
    """

    model: RelayModel
    item_ids: NDArray[np.int64]
    oracle: RelayModel | None = None
    """The same weights in float32; needed, and used, for bfloat16 only."""


class Bench:
    """Inputs and pages for the checks; the same for the same seed."""

    def __init__(self, subject: Subject, seed: int):
        self.subject, self.model = subject, subject.model
        self.rng = np.random.default_rng(seed)
        assert subject.oracle or self.model.spec.identity.dtype == "float32", "bfloat16 needs an oracle"
        self._arena = new_arena(self.model, 24).fill_(float("nan"))
        self._free = [int(page) for page in self.rng.permutation(24)]

    @property
    def arena(self) -> Tensor:
        """All pages."""
        return self._arena

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

    def inputs(self, prefix_count: int, delta_count: int = 5, candidate_count: int = 12) -> RankInputs:
        """A random request."""
        features, prefix = self.model.spec.features, self.behaviours(prefix_count)
        last_s = int(prefix.timestamps_s[-1]) if prefix_count else START_S
        delta = self.behaviours(delta_count, last_s)
        cross_count = 2 if features.cross_dense else 0
        candidates = Candidates.of(
            self.rng.choice(self.subject.item_ids, candidate_count),
            self.rng.normal(size=(candidate_count, features.candidate_dense)),
            self._codes(candidate_count, features.candidate_categorical),
        )
        return RankInputs(
            profile=self.profile(),
            prefix=prefix,
            delta=delta,
            cross=Cross.of(self.rng.normal(size=(cross_count, features.cross_dense))),
            candidates=candidates,
            request_time_s=(int(delta.timestamps_s[-1]) if delta_count else last_s) + 60,
        )

    def pages(self, tokens: int) -> PageView:
        """Unused pages for so many tokens, scattered and out of order."""
        count = -(-tokens // PAGE_TOKENS)
        taken, self._free = self._free[:count], self._free[count:]
        assert len(taken) == count, "the bench is out of pages"
        return PageView(self._arena, tuple(taken), 0)

    def produce(self, inputs: RankInputs, chunk_tokens: int = PAGE_TOKENS, end_token: int | None = None) -> PageView:
        """Psi of a request's prefix."""
        psi = self.pages(inputs.prefix_tokens)
        steps = pre_infer(
            self.model, inputs.profile, inputs.prefix, psi, chunk_tokens=chunk_tokens, end_token=end_token
        )
        return run(steps)

    def full(self, inputs: RankInputs) -> Tensor:
        """What the scores should be, by full inference."""
        return run(infer_full(self.model, inputs))

    def allowed(self, inputs: RankInputs, full_CK: Tensor) -> float:
        """The error a relay of this request may have."""
        if self.subject.oracle is None:
            return TOLERANCE
        return logit_error(full_CK, run(infer_full(self.subject.oracle, inputs)))

    def assert_scores(self, inputs: RankInputs, psi: PageView | None, what: str) -> None:
        """Ranking on psi gives what full inference gives."""
        full_CK = self.full(inputs)
        error, allowed = logit_error(run(rank_on_psi(self.model, inputs, psi)), full_CK), self.allowed(inputs, full_CK)
        assert error <= allowed, f"{what}: error {error:.3g}, allowed {allowed:.3g}"

    def _codes(self, count: int, sizes: Sequence[int]) -> NDArray[np.int32]:
        columns = [self.rng.integers(0, size, count) for size in sizes]
        return np.stack(columns, axis=1).astype(np.int32) if columns else np.zeros((count, 0), np.int32)


def check_contract(subject: Subject, seed: int) -> None:
    """Shapes, types and sizes are as the interface says; unknown items and users score."""
    bench = Bench(subject, seed)
    model = subject.model
    assert isinstance(model, RelayModel)
    assert model.page_elements == PAGE_TOKENS * model.token_elements
    assert model.known_items(subject.item_ids).all(), "item_ids must be of the vocabulary"
    unknown = np.array([int(subject.item_ids.max()) + 1])
    assert not model.known_items(unknown).any()
    for prefix_count, delta_count in ((0, 0), (0, 3), (3, 0), (3, 3)):
        inputs = bench.inputs(prefix_count, delta_count, 4)
        items = np.concatenate([unknown, inputs.candidates.item_ids[1:]])
        inputs = replace(inputs, candidates=replace(inputs.candidates, item_ids=items))
        logits_CK = bench.full(inputs)
        assert logits_CK.shape == (4, len(model.spec.tasks)) and logits_CK.dtype == torch.float32
        assert bool(logits_CK.isfinite().all())


def check_relay_equals_full(subject: Subject, seed: int) -> None:
    """Rank on psi equals full inference, for prefixes around page edges and psi on scattered pages."""
    bench = Bench(subject, seed)
    for prefix_count in (0, 1, 126, 127, 128, PREFIX):
        inputs = bench.inputs(prefix_count)
        bench.assert_scores(inputs, bench.produce(inputs), f"{prefix_count} behaviours")


def check_any_chunking(subject: Subject, seed: int) -> None:
    """How pre-infer is cut into passes does not show."""
    bench = Bench(subject, seed)
    inputs = bench.inputs(200)
    for chunk_tokens in (17, 127, 128, 129, 201):
        bench.assert_scores(inputs, bench.produce(inputs, chunk_tokens), f"chunks of {chunk_tokens}")
    short = bench.inputs(9)
    bench.assert_scores(short, bench.produce(short, 1), "chunks of 1")


def check_append_equals_one_pass(subject: Subject, seed: int) -> None:
    """A psi extended by new behaviours equals one made at once, and its old tokens stay bit for bit."""
    bench = Bench(subject, seed)
    inputs = bench.inputs(PREFIX)
    for first_count in (1, 100, 127, 128, PREFIX - 1):
        psi = bench.produce(inputs, end_token=first_count + 1)
        earlier = replace(inputs, prefix=inputs.prefix.slice(0, first_count))
        before_CK = run(rank_on_psi(subject.model, earlier, psi))
        whole = run(append(subject.model, inputs.profile, inputs.prefix, psi, chunk_tokens=64))
        bench.assert_scores(inputs, whole, f"append after {first_count}")
        assert torch.equal(before_CK, run(rank_on_psi(subject.model, earlier, psi))), "an append changed old tokens"


def check_truncated_psi(subject: Subject, seed: int) -> None:
    """A psi of any true prefix serves: the rest is inferred inside the rank."""
    bench = Bench(subject, seed)
    inputs = bench.inputs(PREFIX)
    psi = bench.produce(inputs)
    for tokens in (0, 1, 127, 128, 129, PREFIX, PREFIX + 1):
        bench.assert_scores(inputs, replace(psi, token_count=tokens), f"first {tokens} tokens")


def check_stale_slots_are_never_read(subject: Subject, seed: int) -> None:
    """What earlier tenants of a page left beyond token_count does not show."""
    bench = Bench(subject, seed)
    earlier, inputs = bench.inputs(PREFIX), bench.inputs(150)
    pages = replace(bench.produce(earlier), token_count=0)
    psi = run(pre_infer(subject.model, inputs.profile, inputs.prefix, pages, chunk_tokens=40))
    bench.assert_scores(inputs, psi, "on another user's pages")


def check_writes_only_where_told(subject: Subject, seed: int) -> None:
    """Ranking writes nothing; pre-infer writes its own pages only."""
    bench = Bench(subject, seed)
    inputs, other = bench.inputs(PREFIX), bench.inputs(PREFIX)
    psi = bench.produce(inputs)
    before = _bits(bench.arena)
    run(rank_on_psi(subject.model, inputs, psi))
    assert torch.equal(before, _bits(bench.arena)), "a rank wrote to the arena"
    mine = bench.produce(other).page_ids
    others = [page for page in range(len(before)) if page not in mine]
    assert torch.equal(before[others], _bits(bench.arena)[others]), "a pre-infer wrote to pages that are not its own"


def check_micro_batches(subject: Subject, seed: int) -> None:
    """Candidates scored in parts get the scores they get at once."""
    bench = Bench(subject, seed)
    inputs = bench.inputs(150, candidate_count=13)
    psi, full_CK = bench.produce(inputs), bench.full(inputs)
    allowed = bench.allowed(inputs, full_CK)
    for size in (1, 5):
        parts = []
        for first in range(0, 13, size):
            part = replace(inputs, candidates=_picked(inputs.candidates, np.arange(first, min(first + size, 13))))
            parts.append(run(rank_on_psi(subject.model, part, psi)))
        error = logit_error(torch.cat(parts), full_CK)
        assert error <= allowed, f"micro-batches of {size}: error {error:.3g}, allowed {allowed:.3g}"


def check_candidate_order(subject: Subject, seed: int) -> None:
    """A candidate's score does not depend on its place nor on the other candidates."""
    bench = Bench(subject, seed)
    inputs = bench.inputs(150)
    psi, full_CK = bench.produce(inputs), bench.full(inputs)
    allowed, order = bench.allowed(inputs, full_CK), bench.rng.permutation(len(inputs.candidates))
    permuted = replace(inputs, candidates=_picked(inputs.candidates, order))
    error = logit_error(run(rank_on_psi(subject.model, permuted, psi)), full_CK[torch.from_numpy(order)])
    assert error <= allowed, f"permuted: error {error:.3g}, allowed {allowed:.3g}"


def check_prefix_depends_on_itself_alone(subject: Subject, seed: int) -> None:
    """Prefix rows and K/V are the same whatever follows: later behaviours, delta, candidates, request time."""
    bench = Bench(subject, seed)
    model, inputs = subject.model, bench.inputs(140)
    prefix, tokens = inputs.prefix, inputs.prefix_tokens
    alone_TD = model.embed_prefix(inputs.profile, prefix, 0, tokens)
    longer = prefix.concat(bench.behaviours(50, int(prefix.timestamps_s[-1])))
    _assert_same_rows(model.embed_prefix(inputs.profile, longer, 0, tokens), alone_TD, "later behaviours show")
    split_TD = [model.embed_prefix(inputs.profile, prefix, *ends) for ends in ((0, 1), (1, 2), (2, 90), (90, tokens))]
    _assert_same_rows(torch.cat(split_TD), alone_TD, "where a chunk ends shows")
    for delta_count, later_s in ((3, 5), (20, 10**7)):
        follow = bench.inputs(0, delta_count, 7)
        last_s = int(prefix.timestamps_s[-1])
        delta = bench.behaviours(delta_count, last_s)
        asked_s = int(delta.timestamps_s[-1]) + later_s
        x_delta_TD, x_CD = model.embed_suffix(len(prefix), last_s, delta, follow.cross, follow.candidates, asked_s)
        pages = bench.pages(tokens + len(x_delta_TD))
        run(model.extend(torch.cat([alone_TD, x_delta_TD, x_CD]), len(x_CD), None, pages))
        bench.assert_scores(inputs, replace(pages, token_count=tokens), f"K/V written before a delta of {delta_count}")


def check_interleaved_runs(subject: Subject, seed: int) -> None:
    """A model keeps no state of a request: two that take turns score as they do alone, bit for bit."""
    bench = Bench(subject, seed)
    requests = [bench.inputs(130), bench.inputs(40)]
    psis = [bench.produce(inputs) for inputs in requests]
    alone = [run(rank_on_psi(subject.model, *pair)) for pair in zip(requests, psis, strict=True)]
    running = {place: rank_on_psi(subject.model, *pair) for place, pair in enumerate(zip(requests, psis, strict=True))}
    turns = 0
    while running:
        for place, steps in list(running.items()):
            try:
                next(steps)
                turns += 1
            except StopIteration as stop:
                assert torch.equal(stop.value, alone[place]), "interleaving shows"
                del running[place]
    assert turns >= 2, "extend must yield after each layer"


def check_another_psi_shows(subject: Subject, seed: int) -> None:
    """The suite can fail: another user's psi moves the logits by 100 times the tolerance."""
    bench = Bench(subject, seed)
    inputs, other = bench.inputs(PREFIX), bench.inputs(PREFIX)
    wrong_CK = run(rank_on_psi(subject.model, inputs, bench.produce(other)))
    error = logit_error(wrong_CK, bench.full(inputs))
    assert error >= DIFFERENCE_MIN, f"another user's psi moves the logits by {error:.3g} only"


CHECKS: tuple[Callable[[Subject, int], None], ...] = (
    check_contract,
    check_relay_equals_full,
    check_any_chunking,
    check_append_equals_one_pass,
    check_truncated_psi,
    check_stale_slots_are_never_read,
    check_writes_only_where_told,
    check_micro_batches,
    check_candidate_order,
    check_prefix_depends_on_itself_alone,
    check_interleaved_runs,
    check_another_psi_shows,
)


def _assert_same_rows(got_TD: Tensor, wanted_TD: Tensor, complaint: str) -> None:
    # Not bit for bit: a matrix product may sum in another order when it has another number of rows.
    tolerance = TOLERANCE if wanted_TD.dtype == torch.float32 else 2.0**-7
    assert logit_error(got_TD, wanted_TD) <= tolerance, complaint


def _picked(candidates: Candidates, places: NDArray[np.int64]) -> Candidates:
    return Candidates(candidates.item_ids[places], candidates.dense[places], candidates.categorical[places])


def _bits(arena: Tensor) -> Tensor:
    # NaN does not equal itself; its bits do.
    return arena.view(torch.int32 if arena.dtype == torch.float32 else torch.int16).clone()
