"""Reading a rank's reply."""

from __future__ import annotations

import numpy as np
import pytest

from relaygr.client.ranking import ranking_of, score_difference
from relaygr.errors import CorruptData
from relaygr.v1.ranker_pb2 import RankResponse
from relaygr.v1.router_pb2 import RouterServiceRankResponse


def reply(logits, tasks=("click",), **fields):
    rank = RankResponse(logits=np.asarray(logits, "<f4").tobytes(), tasks=tasks, **fields)
    return RouterServiceRankResponse(rank=rank, branch="BRANCH_TICKET", attempts=2)


def test_difference_is_relative_for_large_scores_and_absolute_for_small():
    assert score_difference(np.float32([[101.0]]), np.float32([[100.0]])) == pytest.approx(0.01)
    assert score_difference(np.float32([[0.25]]), np.float32([[0.0]])) == 0.25
    assert score_difference(np.float32([[1.0, 2.0]]), np.float32([[1.0, 3.0]])) == pytest.approx(1 / 3)


def test_equal_scores_keep_the_order_asked():
    ranking = ranking_of(np.array([7, 8, 9]), reply([1.0, 2.0, 2.0]), admitted=True, trace_id="t")
    assert ranking.order().tolist() == [1, 2, 0]
    assert ranking.top(2) == [(8, 2.0), (9, 2.0)]
    even = ranking_of(np.arange(500), reply(np.arange(500) % 3), admitted=True, trace_id="t")
    assert even.order().tolist() == [i for score in (2, 1, 0) for i in range(500) if i % 3 == score]


def test_names_are_short_and_a_used_psi_has_no_fallback():
    used = ranking_of(np.array([7]), reply([1.0], tier="TIER_DRAM"), admitted=True, trace_id="t")
    lost = reply([1.0], tier="TIER_FULL", fallback="FALLBACK_REASON_ABSENT")
    full = ranking_of(np.array([7]), lost, admitted=True, trace_id="t")
    assert (used.tier, used.fallback, used.branch, used.attempts) == ("DRAM", "", "TICKET", 2)
    assert (full.tier, full.fallback) == ("FULL", "ABSENT")


def test_scores_that_do_not_fit_the_items_are_refused():
    with pytest.raises(CorruptData):
        ranking_of(np.array([7, 8]), reply([1.0]), admitted=False, trace_id="t")


def test_unknown_task_is_an_error():
    with pytest.raises(ValueError, match="not in tuple"):
        ranking_of(np.array([7]), reply([1.0]), admitted=False, trace_id="t").top(1, "buy")
