"""What a run consists of: the short one behind the two claims, and the long one with every mode and sweep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from bench.load.alone import GRID_SHARES, L0_SHARE, L1_SHARE, length_at, measure_alone
from bench.load.campaign import RATE_LEAST_HZ, Campaign
from bench.load.deployment import Deployment
from bench.load.pool import SAFE
from bench.load.profile import Profile
from bench.load.search import Estimate
from bench.load.sketch import full_rate_hz, relay_bound_hz
from relaygr.domain.cost import CostModel

FULL, RELAY_DRAM = "full", "relay_dram"
FIXED_SHARE = 0.5
"""The length search's rate, of the rate that full inference holds at L0."""
L0_SEARCH, L1_SEARCH = "search_l0", "search_l1"
RELAY_GUESS_SHARES = {L0_SEARCH: 0.26, L1_SEARCH: 0.17}
"""Of the devices' bound, where the search for the relay's rate begins, by its purpose: the host's own work has to fit
too, and the longer a pre-infer, the fewer may meet. A guess that is off costs probes, no more."""
LENGTH_GUESS_SHARE = 0.4
"""Of stages and budget, what a cold user's pre-infer and rank may take where the search for the length begins."""
ABLATIONS = ("relay", "no_trigger", "no_affinity", "ring_hash", "remote_pool")
SHORT_TOKENS = 128
SAFE_TIMES = 6.0
"""Of the rate that the relay holds at L1, where histories of SHORT_TOKENS are near what the host can serve."""
OVERLOAD_TIMES = 2.0
"""Of the rate that the relay holds at L1."""
OVERHEAD_HZ = 12.0
SWEEP_SHARES = (0.5, 0.75, 1.25, 1.5)
LENGTH_TIMES = (0.5, 1.5)
_TOKENS_MOST = 65_536


@dataclass(frozen=True, slots=True)
class Lengths:
    """The two lengths of the run, tokens, and the work of a request at each, milliseconds."""

    l0: int
    l1: int
    work_ms: dict[int, float]
    full_ms: dict[int, float]


def claims(campaign: Campaign, profile: Profile) -> Lengths:
    """`make bench`: full inference against the relay, at two lengths and at one rate."""
    with campaign.mode(FULL) as full:
        lengths = find_lengths(campaign, full, profile)
        cost = full.costs()[0]
        guess_hz = _full_guess_hz(profile, lengths.full_ms[lengths.l0])
        at_l0 = campaign.search_rate(full, L0_SEARCH, lengths.l0, guess_hz, within_s=230)
        # Where one request takes most of the limit, only rates hold that take minutes to probe, if any does. So
        # the lowest comes first: when that is missed, nothing else need be asked.
        campaign.search_rate(full, L1_SEARCH, lengths.l1, RATE_LEAST_HZ, within_s=300, probes_least=1)
        fixed_hz = fixed_rate_hz(at_l0)
        campaign.search_length(full, fixed_hz, _full_guess_tokens(profile, cost, fixed_hz), within_s=230)
    with campaign.mode(RELAY_DRAM) as relay:
        for purpose, tokens in ((L0_SEARCH, lengths.l0), (L1_SEARCH, lengths.l1)):
            campaign.search_rate(relay, purpose, tokens, _relay_guess_hz(profile, lengths, purpose), within_s=210)
        campaign.search_length(relay, fixed_hz, _relay_guess_tokens(profile, cost), within_s=230)
    return lengths


def everything(campaign: Campaign, profile: Profile) -> None:
    """`make bench-full`: the claims, every mode at L1, and where the relay helps less."""
    lengths = known_lengths(campaign, profile) or claims(campaign, profile)
    relayed = campaign.result_hz(RELAY_DRAM, lengths.l1) or _relay_guess_hz(profile, lengths, L1_SEARCH)
    for name in ABLATIONS:
        with campaign.mode(name) as deployment:
            campaign.probe(deployment, "sweep", lengths.l1, relayed)
            campaign.search_rate(deployment, L1_SEARCH, lengths.l1, 0.8 * relayed, within_s=160)
    needed(campaign, lengths, relayed)
    for name in (RELAY_DRAM, FULL):
        with campaign.mode(name) as deployment:
            losses(campaign, profile, deployment, lengths, relayed)
    with campaign.mode(RELAY_DRAM) as relay:
        campaign.probe(relay, "overhead", lengths.l1, OVERHEAD_HZ)
        for share in SWEEP_SHARES:
            campaign.probe(relay, "sweep", lengths.l1, round(share * relayed, 2))
        for times in LENGTH_TIMES:
            tokens = round(times * lengths.l1 / 16) * 16
            campaign.search_rate(relay, "sweep", tokens, relayed / times, within_s=160)


def needed(campaign: Campaign, lengths: Lengths, rate_hz: float) -> None:
    """Where trigger and DRAM have the most to do: nobody is at risk; more users return than the device holds."""
    for name in (RELAY_DRAM, "no_trigger"):
        with campaign.mode(name) as deployment:
            campaign.probe(deployment, SAFE, SHORT_TOKENS, round(SAFE_TIMES * rate_hz, 2))
    at_l0_hz = campaign.result_hz(RELAY_DRAM, lengths.l0)
    if at_l0_hz is not None:
        with campaign.mode("relay") as deployment:
            campaign.probe(deployment, "sweep", lengths.l0, at_l0_hz)


def losses(campaign: Campaign, profile: Profile, deployment: Deployment, lengths: Lengths, rate_hz: float) -> None:
    """Where a relay has less to give: nobody returns, short or mixed histories, bursts, overload."""
    traffic = profile.traffic
    campaign.probe(deployment, "cold", lengths.l1, rate_hz, replace(traffic, return_share=0.0))
    campaign.probe(deployment, "short", SHORT_TOKENS, 2 * rate_hz)
    campaign.probe(deployment, "mix", profile.lengths, rate_hz)
    campaign.probe(deployment, "bursts", lengths.l1, rate_hz, replace(traffic, arrivals="bursty"))
    campaign.probe(deployment, "overload", lengths.l1, OVERLOAD_TIMES * rate_hz)


def known_lengths(campaign: Campaign, profile: Profile) -> Lengths | None:
    """Of a run that is continued, once its claims are all there."""
    if not campaign.has_searched(RELAY_DRAM, "length"):
        return None
    lengths = campaign.run["lengths"]
    return _lengths(campaign, profile, lengths["l0_tokens"], lengths["l1_tokens"])


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
    return _lengths(campaign, profile, l0, l1)


def _lengths(campaign: Campaign, profile: Profile, l0: int, l1: int) -> Lengths:
    budget_ms, work = profile.slo.rank_ms, campaign.run["work"]
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
    """The length search's rate, from what full inference held at L0, else from the least rate that it missed."""
    return round(max(RATE_LEAST_HZ, FIXED_SHARE * (at_l0.value or at_l0.high or 0.0)), 2)


def _relay_guess_hz(profile: Profile, lengths: Lengths, purpose: str) -> float:
    tokens = lengths.l1 if purpose == L1_SEARCH else lengths.l0
    return RELAY_GUESS_SHARES[purpose] * relay_bound_hz(lengths.work_ms[tokens], profile.deployment.rankers)


def _full_guess_hz(profile: Profile, service_ms: float) -> float:
    slo = profile.slo
    return max(1.0, 0.75 * full_rate_hz(service_ms, slo.rank_ms, profile.deployment.rankers, slo.quantile))


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
