"""What int8 in DRAM costs is measured on psi that went through it, and on nothing else."""

import torch

from bench.engine.shapes import TORCH, Shape
from bench.engine.subject import Subject, model_of
from bench.tiers.int8 import through_int8
from relaygr.model.error import logit_error
from relaygr.model.packed import PackedLayout

SHAPE = Shape(width=64, heads=2, head_dim=32, layers=2)
TOKENS = 200


def test_packed_psi_that_went_through_int8_scores_almost_as_before():
    subject = Subject(model_of("small", SHAPE, 1, kernel=TORCH), TOKENS, 1)
    psi = subject.prefix()
    before, kept = subject.rank(50), psi.arena.clone()
    through_int8(psi)
    assert 0.0 < logit_error(subject.rank(50), before) < 0.03
    once = psi.arena.clone()
    assert not torch.equal(once, kept)
    through_int8(psi)
    assert torch.equal(psi.arena, once), "a second trip changes nothing"


def test_slots_behind_the_last_token_stay_zero():
    """A step of the native kernel reads values to the next multiple of 32 slots."""
    subject = Subject(model_of("small", SHAPE, 1, kernel=TORCH), TOKENS, 1)
    assert isinstance(subject.model.layout, PackedLayout)
    psi = subject.prefix()
    is_zero = psi.arena == 0
    through_int8(psi)
    assert is_zero.any() and not psi.arena[is_zero].any()
