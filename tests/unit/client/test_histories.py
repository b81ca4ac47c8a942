"""What callers hold, as messages: the cut, its digest, declared feature columns."""

from __future__ import annotations

import numpy as np
import pytest

from relaygr.behaviours.columns import Behaviours, FeatureSpec, Profile, chain_of
from relaygr.behaviours.inline import parse_inline
from relaygr.client.histories import Window, candidates_of, cross_of, inline_history
from relaygr.domain.identity import ModelLimits
from relaygr.errors import InvalidRequest

WHOLE = Window(FeatureSpec(), None)
LIMITS = ModelLimits(window_behaviours_max=100, window_step_behaviours=20, delta_behaviours_max=10, candidates_max=10)


def log(count):
    return Behaviours.of(np.arange(count), np.arange(count))


def test_digest_is_what_the_ranker_computes_from_the_bytes():
    features = FeatureSpec(behaviour_dense=2, behaviour_categorical=(5,), user_dense=3)
    history = inline_history(log(10), None, 0, Window(features, None))
    profile, behaviours = parse_inline(history.inline, features, count_max=100)
    assert chain_of(profile, behaviours).digest == history.cut.digest


def test_digest_differs_for_another_profile():
    first = inline_history(log(10), Profile.of([1.0]), 0, WHOLE)
    second = inline_history(log(10), Profile.of([2.0]), 0, WHOLE)
    assert first.cut.digest != second.cut.digest


def test_history_within_the_window_is_sent_whole():
    history = inline_history(log(100), None, 0, Window(FeatureSpec(), LIMITS))
    assert (history.cut.anchor, history.cut.behaviour_count) == (0, 100)


def test_anchor_moves_by_whole_steps():
    cuts = [inline_history(log(count), None, 0, Window(FeatureSpec(), LIMITS)).cut for count in (101, 120, 121)]
    assert [(cut.anchor, cut.behaviour_count) for cut in cuts] == [(20, 81), (20, 100), (40, 81)]


def test_cut_keeps_the_newest_behaviours():
    history = inline_history(log(150), None, 0, Window(FeatureSpec(), LIMITS))
    _, behaviours = parse_inline(history.inline, FeatureSpec(), count_max=100)
    assert behaviours.item_ids.tolist() == list(range(60, 150))


def test_first_index_places_a_tail_in_the_whole_log():
    # Windows of a log of 1,090 begin at 1,000, of a log of 1,150 at 1,060.
    cuts = [inline_history(log(count), None, 1_000, Window(FeatureSpec(), LIMITS)).cut for count in (90, 150)]
    assert [(cut.anchor, cut.behaviour_count) for cut in cuts] == [(1_000, 90), (1_060, 90)]


def test_empty_history_has_a_cut_and_a_digest():
    history = inline_history({"item_ids": [], "timestamps_s": []}, None, 0, Window(FeatureSpec(), LIMITS))
    assert history.cut.behaviour_count == 0 and len(history.cut.digest) == 16 and history.inline


def test_lists_become_columns():
    assert candidates_of([3, 4]).item_ids.tolist() == [3, 4]
    assert cross_of([[1.0, 2.0]]).dense.shape == (1, 2)


@pytest.mark.parametrize(
    ("make", "field"), [(lambda: candidates_of([[1]]), "candidates"), (lambda: cross_of([1.0]), "cross")]
)
def test_wrong_shapes_name_the_argument(make, field):
    with pytest.raises(InvalidRequest) as caught:
        make()
    assert caught.value.field == field
