"""Codes as the decision record states them."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from relaygr.model import codes


@given(st.integers(0, 2**40))
def test_gap_code_is_one_plus_the_logarithm(gap):
    assert codes.gap_codes(torch.tensor([gap]), 64).item() == (gap + 1).bit_length()


def test_gap_codes_end_at_the_table_and_negative_gaps_count_as_zero():
    gaps = torch.tensor([-5, 0, 1, 2, 3, 2**30, 2**62])
    assert codes.gap_codes(gaps, 5).tolist() == [1, 1, 2, 2, 3, 4, 4]
    assert codes.gap_codes(gaps, 3).tolist() == [1, 1, 2, 2, 2, 2, 2]


def test_first_token_has_its_own_code_only_when_nothing_precedes_it():
    times = torch.tensor([100, 100, 107])
    assert codes.sequence_gap_codes(times, None, 20).tolist() == [codes.GAP_FIRST, 1, 4]
    assert codes.sequence_gap_codes(times, 99, 20).tolist() == [2, 1, 4]
    assert codes.sequence_gap_codes(times[:0], None, 20).tolist() == []


def test_positions_beyond_the_table_share_its_last_row():
    assert codes.position_codes(torch.tensor([0, 3, 4, 900]), 4).tolist() == [0, 3, 3, 3]
