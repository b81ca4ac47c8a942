"""What a run consists of: the short one behind the two claims, and the long one with every mode and sweep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.load.alone import GRID_SHARES, L0_SHARE, L1_SHARE, length_at, measure_alone
from bench.load.campaign import Campaign
from bench.load.deployment import Deployment
from bench.load.profile import Profile
from bench.load.search import Estimate
from bench.load.sketch import full_rate_hz, relay_bound_hz
from relaygr.domain.cost import CostModel

FULL, RELAY_DRAM = "full", "relay_dram"
FIXED_SHARE = 0.5
"""The length search's rate, of the rate that full inference holds at L0."""
RELAY_GUESS_SHARE = 0.45
"""Of the devices' bound, where the search for the relay's rate begins: the host's own work has to fit too."""
LENGTH_GUESS_SHARE = 0.65
"""Of stages and budget, what a cold user's pre-infer and rank may take where the search for the length begins."""
_TOKENS_MOST = 65_536


@dataclass(frozen=True, slots=True)
class Lengths:
    """The two lengths of the run, tokens, and the work of a request at each, milliseconds."""

    l0: int
    l1: int
    work_ms: dict[int, float]
    full_ms: dict[int, float]


def claims(campaign: Campaign, profile: Profile) -> None:
    """`make bench`: full inference against the relay, at two lengths and at one rate."""
    with campaign.mode(FULL) as full:
        lengths = find_lengths(campaign, full, profile)
        cost = full.costs()[0]
        at_l0 = campaign.search_rate(
            full, "search_l0", lengths.l0, _full_guess_hz(profile, lengths.full_ms[lengths.l0])
        )
        campaign.search_rate(full, "search_l1", lengths.l1, _full_guess_hz(profile, lengths.full_ms[lengths.l1]))
        fixed_hz = fixed_rate_hz(at_l0)
        campaign.note("fixed_rate_hz", fixed_hz)
        campaign.search_length(full, fixed_hz, _full_guess_tokens(profile, cost, fixed_hz))
    with campaign.mode(RELAY_DRAM) as relay:
        for purpose, tokens in (("search_l0", lengths.l0), ("search_l1", lengths.l1)):
            bound_hz = relay_bound_hz(lengths.work_ms[tokens], profile.deployment.rankers)
            campaign.search_rate(relay, purpose, tokens, RELAY_GUESS_SHARE * bound_hz)
        campaign.search_length(relay, fixed_hz, _relay_guess_tokens(profile, cost))


def find_lengths(campaign: Campaign, full: Deployment, profile: Profile) -> Lengths:
    """Measure full inference alone, and with it L0, L1 and the work at both."""
    budget_ms, candidates = profile.slo.rank_ms, profile.traffic.candidates
    cost = full.costs()[0]
    grid = [
        _tokens_where(lambda tokens: cost.full_ns(candidates, 0, tokens), share * budget_ms) for share in GRID_SHARES
    ]
    alone = measure_alone(full.target, grid, candidates)
    l0, l1 = (length_at(share * budget_ms, alone) for share in (L0_SHARE, L1_SHARE))
    campaign.note("lengths", {"l0_tokens": l0, "l1_tokens": l1, "full_alone_ms": alone})
    campaign.steps([l0, l1])
    campaign.say(f"L0 {l0} tokens, L1 {l1} tokens; full inference alone: {alone}")
    work = campaign.run["work"]
    share = profile.traffic.return_share
    return Lengths(
        l0,
        l1,
        {tokens: work_of(work[str(tokens)], share) for tokens in (l0, l1)},
        {l0: L0_SHARE * budget_ms, l1: L1_SHARE * budget_ms},
    )


def work_of(steps_ms: dict[str, float], return_share: float) -> float:
    """Device work of a relayed request on average, milliseconds: pre-infer or append, and rank."""
    production_ms = (1.0 - return_share) * steps_ms["pre_infer_ms"] + return_share * steps_ms["append_ms"]
    return production_ms + steps_ms["rank_ms"]


def fixed_rate_hz(at_l0: Estimate) -> float:
    """The length search's rate."""
    assert at_l0.value, "full inference must hold some rate at L0"
    return round(FIXED_SHARE * at_l0.value, 2)


def _full_guess_hz(profile: Profile, service_ms: float) -> float:
    slo = profile.slo
    return max(1.0, 0.9 * full_rate_hz(service_ms, slo.rank_ms, profile.deployment.rankers, slo.quantile))


def _full_guess_tokens(profile: Profile, cost: CostModel, rate_hz: float) -> int:
    """Where the sketch of full inference's queue crosses the rate."""
    slo, rankers = profile.slo, profile.deployment.rankers
    service_ms = next(
        ms
        for ms in range(int(slo.rank_ms) - 1, 0, -1)
        if full_rate_hz(ms, slo.rank_ms, rankers, slo.quantile) >= rate_hz
    )
    return _tokens_where(lambda tokens: cost.full_ns(profile.traffic.candidates, 0, tokens), service_ms)


def _relay_guess_tokens(profile: Profile, cost: CostModel) -> int:
    """Where a cold user's pre-infer and rank take a share of the stages and the budget together."""
    most_ms = LENGTH_GUESS_SHARE * profile.slo.end_to_end_ms
    candidates = profile.traffic.candidates
    tokens = _tokens_where(lambda tokens: cost.extend_ns(tokens, 0) + cost.rank_ns(candidates, 0, tokens), most_ms)
    return min(tokens, profile.model.behaviours - 256)


def _tokens_where(took_ns: Callable[[int], int], wanted_ms: float) -> int:
    low, high = 1, _TOKENS_MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if took_ns(middle) <= wanted_ms * 1e6 else (low, middle)
    return low
