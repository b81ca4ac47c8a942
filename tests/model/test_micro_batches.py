"""Candidates in groups: what they share is inferred once, and kept on scratch pages alone."""

from dataclasses import replace

import pytest
import torch

from relaygr.model.conformance import Bench
from relaygr.model.hstu import HstuModel
from relaygr.model.run import rank_on_psi, run, scratch_pages
from tests.model.models import small_subject


class CountsRows(HstuModel):
    """Notes what every pass is asked for."""

    def extend(self, x_TD, self_only, context, write):
        self.passes.append((len(x_TD) - self_only, self_only, context.token_count if context else 0, write is not None))
        return super().extend(x_TD, self_only, context, write)


@pytest.fixture
def bench():
    subject = small_subject()
    counting = CountsRows(subject.model.config, subject.model.vocabulary)
    counting.load_state_dict(subject.model.state_dict())
    counting.requires_grad_(False).eval().passes = []
    return Bench(replace(subject, model=counting), 1)


def _grouped(bench, inputs, psi, size):
    scratch = bench.pages(scratch_pages(bench.model, inputs, psi) * bench.page)
    bench.model.passes = []
    logits_CK = run(rank_on_psi(bench.model, inputs, psi, micro_batch=size, scratch=scratch))
    return logits_CK, bench.model.passes


def test_delta_rows_are_inferred_once_and_the_groups_see_them(bench):
    inputs = bench.inputs(140, 6, 11)
    _, passes = _grouped(bench, inputs, bench.produce(inputs), 4)
    # Six behaviours and two cross tokens; then candidates alone.
    assert passes == [(8, 4, 141, True), (0, 4, 149, False), (0, 3, 149, False)]


def test_what_psi_does_not_cover_is_inferred_once_too(bench):
    inputs = bench.inputs(140, 6, 11)
    _, passes = _grouped(bench, inputs, None, 6)
    assert passes == [(149, 6, 0, True), (0, 5, 149, False)]


def test_nothing_is_written_when_psi_is_all_that_groups_share(bench):
    inputs = bench.inputs(140, 0, 11, 0)
    psi = bench.produce(inputs)
    assert scratch_pages(bench.model, inputs, psi) == 0
    logits_CK = run(rank_on_psi(bench.model, inputs, psi, micro_batch=6))
    assert bench.model.passes[-2:] == [(0, 6, 141, False), (0, 5, 141, False)]
    bench.assert_equal(logits_CK, inputs, "no scratch")


def test_one_group_is_an_ordinary_rank(bench):
    inputs = bench.inputs(140, 6, 11)
    logits_CK, passes = _grouped(bench, inputs, psi := bench.produce(inputs), 11)
    assert passes == [(8, 11, 141, False)]
    assert torch.equal(logits_CK, bench.rank(inputs, psi))


@pytest.mark.parametrize(
    ("covered", "delta", "pages"),
    [(100, 28, 1), (100, 29, 2), (128, 1, 1), (128, 128, 1), (128, 129, 2), (0, 28, 2), (127, 1, 1), (129, 127, 1)],
)
def test_scratch_begins_with_the_page_in_which_psi_ends(bench, covered, delta, pages):
    inputs = bench.inputs(covered - 1 if covered else 127, delta, 3, 0)
    psi = bench.produce(inputs) if covered else None
    assert scratch_pages(bench.model, inputs, psi) == pages
    logits_CK, _ = _grouped(bench, inputs, psi, 2)
    bench.assert_equal(logits_CK, inputs, f"{pages} scratch pages")


def test_psi_stays_as_it_is_while_groups_are_scored(bench):
    """Its last page may be leased to others or be appended to meanwhile: the delta goes elsewhere."""
    inputs = bench.inputs(140, 6, 11)
    psi = bench.produce(inputs)
    before = bench.arena[list(psi.page_ids)].view(torch.uint8).clone()
    _grouped(bench, inputs, psi, 4)
    assert torch.equal(bench.arena[list(psi.page_ids)].view(torch.uint8), before)


def test_groups_without_scratch_are_refused(bench):
    inputs = bench.inputs(140, 6, 11)
    psi = bench.produce(inputs)
    with pytest.raises(AssertionError, match="scratch"):
        run(rank_on_psi(bench.model, inputs, psi, micro_batch=4))
