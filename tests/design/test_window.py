"""Design, section 4, condition 4: the window's anchor moves in large steps, so appends stay appends."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from relaygr.domain.identity import ModelLimits
from relaygr.domain.window import anchor_of


@given(step=st.integers(1, 300), spare=st.integers(0, 700), log_count=st.integers(0, 20_000))
def test_the_anchor_moves_in_whole_steps_and_keeps_the_window_full(step, spare, log_count):
    limits = ModelLimits(step + spare, step, 32, 64)
    anchor = anchor_of(log_count, limits)
    length = log_count - anchor
    assert anchor % step == 0
    assert length <= limits.window_behaviours_max
    # A log that is longer than the window loses at most one step of it.
    assert length == log_count or length > limits.window_behaviours_max - step
    assert 0 <= anchor_of(log_count + 1, limits) - anchor <= step, "an anchor never goes back nor leaps"


def test_between_two_steps_every_new_behaviour_is_an_append():
    limits = ModelLimits(1_000, 250, 32, 64)
    anchors = [anchor_of(count, limits) for count in range(10_001)]
    moves = sum(before != after for before, after in itertools.pairwise(anchors))
    assert moves == (10_000 - 1_000) / 250
