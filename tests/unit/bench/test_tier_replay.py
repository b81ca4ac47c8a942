"""A trace through both cores: what was asked is accounted for, and room and returns decide what is computed again."""

from dataclasses import replace

import pytest

from bench.load.profile import load_profile
from bench.load.traffic import Plan, plan
from bench.tiers.replay import TierReplay
from relaygr.domain.cost import CostModel
from services.expander.core.limits import TieringLimits
from services.expander.core.tiering import Tiering
from services.ranker.core.eviction import POLICIES, EvictionPolicy
from services.ranker.core.residency import Residency

PROFILE = load_profile("default")
COST = CostModel(1e5, 5e3, 5.0, 2e5, 0.1, 0.1, 4096, 256)
TOKENS = 1024


def trace(*, return_share: float = 0.6, requests: int = 400):
    traffic = replace(PROFILE.traffic, return_share=return_share, requests=requests)
    return plan(
        Plan(traffic=traffic, stages=PROFILE.stages, rate_hz=40.0, seed=3, first_user=0, users=4000, tokens=TOKENS)
    )


def residency(pages: int, policy: EvictionPolicy | None = None, rest_tokens: int = 0) -> Residency:
    return Residency(
        pages_total=pages,
        tickets_max=1000,
        entries_max=4000,
        ranks_max=1000,
        spills_max=4,
        tombstone_ns=10**9,
        cost=COST,
        rest_tokens=rest_tokens,
        policy=policy,
    )


def expander(blocks: int) -> Tiering:
    block_bytes = 64 * 1024
    return Tiering(
        TieringLimits(
            block_bytes=block_bytes,
            block_count=blocks,
            pinned_blocks_max=blocks,
            staging_blocks_max=blocks,
            tenant_blocks_max=blocks,
        )
    )


def replayed(pages: int, dram_blocks: int | None = None, **arguments):
    dram = None if dram_blocks is None else expander(dram_blocks)
    made = {name: arguments.pop(name) for name in ("policy", "rest_tokens") if name in arguments}
    return TierReplay(residency(pages, **made), dram, COST).run(trace(**arguments))


def test_with_room_for_all_only_newcomers_and_what_has_grown_is_computed():
    found = replayed(100_000)
    assert found.on_device == found.returns > 150
    newcomers = found.requests - found.returns
    assert found.computed_tokens == pytest.approx(TOKENS * newcomers, rel=0.1)
    assert found.declined == 0


def test_without_returns_everything_is_computed():
    found = replayed(100_000, return_share=0.0)
    assert (found.returns, found.computed_tokens) == (0, found.asked_tokens)


def test_what_the_device_gave_up_comes_back_from_dram():
    alone, beside = replayed(200), replayed(200, 100_000)
    assert beside.from_dram > 0 == alone.from_dram
    assert beside.on_device + beside.from_dram == beside.returns
    assert beside.computed_tokens < alone.computed_tokens
    assert beside.work_ns < alone.work_ns


def test_a_dram_tier_that_is_too_small_helps_less():
    small, large = replayed(200, 8_000), replayed(200, 100_000)
    assert 0 < small.from_dram < large.from_dram


def test_the_few_tokens_left_to_the_rank_are_not_computed():
    assert replayed(100_000, rest_tokens=32).computed_tokens < replayed(100_000).computed_tokens


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_replays_the_same_traffic(name):
    found = replayed(300, policy=POLICIES[name]())
    assert found.requests == replayed(300).requests
    assert 0 < found.on_device < found.returns


def test_equal_traces_give_equal_results():
    assert replayed(200, 2000) == replayed(200, 2000)
