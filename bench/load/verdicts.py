"""What a run claims, and whether it may: limits written before the run, ablations beside the whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.load.estimate import DISPERSION_PRIOR, wilson_interval
from bench.load.pool import Pool, compared_pools
from bench.load.schema import ABLATIONS, FULL, LENGTH, RATE, RELAY_DRAM, Run
from bench.load.summary import Interval, ceiling, found, ratio, summary

PUBLISHED_THROUGHPUT, PUBLISHED_LENGTH = 3.6, 1.5
"""Of arXiv 2601.01712, on Ascend NPUs."""
TARGET_L0, TARGET_L1, TARGET_LENGTH = 2.5, 3.6, 1.5
GOAL_L0_OF_CEILING, GOAL_L1, GOAL_LENGTH = 0.85, 8.0, 3.0

WORSE, SAME, BETTER = "worse", "not shown to be worse", "better"


@dataclass(frozen=True, slots=True)
class Claim:
    """One ratio of relay_dram over full."""

    figure: str
    where: str
    published: float
    measured: Interval | None
    target: float
    goal: float | None

    @property
    def verdict(self) -> str:
        """Against target and goal, with what the interval leaves open."""
        if not self.measured:
            return "not measured"
        if self.measured["value"] is None:
            least = self.measured["low"]
            return (
                "not measured" if least is None else f"at least {least:g}: full inference held nothing that was tried"
            )
        value, low, high = self.measured["value"], self.measured["low"], self.measured["high"]
        if value < self.target:
            return "short" if high is not None and high < self.target else "short, but the interval reaches the target"
        doubt = "" if low is not None and low >= self.target else "; the interval reaches below the target"
        if self.goal is None:
            return f"target met{doubt}; the goal is not known"
        return f"{'goal met' if value >= self.goal else 'target met, goal not'}{doubt}"


def claims(run: Run) -> list[Claim]:
    """The three ratios."""
    told = summary(run)
    at_l0, at_l1 = (f"{told[name] or '?'} tokens" for name in ("l0_tokens", "l1_tokens"))
    rate_hz = "?" if told["fixed_rate_hz"] is None else f"{told['fixed_rate_hz']:g}"
    ceiling_l0 = ceiling(run)
    goal_l0 = GOAL_L0_OF_CEILING * ceiling_l0 if ceiling_l0 else None
    return [
        _throughput("throughput_ratio_l0", at_l0, told["throughput_ratio_l0"], TARGET_L0, goal_l0),
        _throughput("throughput_ratio_l1", at_l1, told["throughput_ratio_l1"], TARGET_L1, GOAL_L1),
        Claim(
            "length_ratio", f"{rate_hz} requests/s", PUBLISHED_LENGTH, told["length_ratio"], TARGET_LENGTH, GOAL_LENGTH
        ),
    ]


def _throughput(figure: str, where: str, measured: Interval | None, target: float, goal: float | None) -> Claim:
    return Claim(figure, where, PUBLISHED_THROUGHPUT, measured, target, goal)


@dataclass(frozen=True, slots=True)
class Comparison:
    """An ablation beside relay_dram, by one figure."""

    mode: str
    figure: str
    found: Interval
    reference: Interval
    verdict: str


def ablations(run: Run) -> list[Comparison]:
    """By each search that both have, and by late shares at each rate that both were probed at."""
    return [*_by_search(run), *_by_late_share(run)]


def _by_search(run: Run) -> Iterator[Comparison]:
    lengths = run.get("lengths", {})
    kinds = [("requests/s", RATE, lengths.get("l0_tokens")), ("requests/s", RATE, lengths.get("l1_tokens"))]
    for mode in ABLATIONS:
        for unit, kind, tokens in [*kinds, ("tokens", LENGTH, None)]:
            one, other = found(run, mode, kind, tokens), found(run, RELAY_DRAM, kind, tokens)
            by = ratio(one, other)
            if one and other and by:
                where = "longest history" if tokens is None else f"{unit} at {tokens} tokens"
                yield Comparison(
                    mode, where, one, other, _verdict(by["low"], by["high"], 1.0, 1.0, more_is_worse=False)
                )


def _by_late_share(run: Run) -> Iterator[Comparison]:
    pools = compared_pools(run)
    references = {(pool.tokens, pool.rate_hz): pool for pool in pools if pool.mode == RELAY_DRAM}
    for pool in pools:
        reference = references.get((pool.tokens, pool.rate_hz))
        if pool.mode in ABLATIONS and reference:
            one, other = late_share(pool), late_share(reference)
            verdict = _verdict(one["low"], one["high"], other["low"], other["high"], more_is_worse=True)
            where = f"late share at {pool.tokens} tokens, {pool.rate_hz:g} requests/s"
            yield Comparison(pool.mode, where, one, other, verdict)


def late_share(pool: Pool) -> Interval:
    """Of the more often missed limit; late requests come in bursts, which the interval allows for."""
    late, count = pool.worst_late(), pool.requests()
    low, high = wilson_interval(late, count, dispersion=DISPERSION_PRIOR)
    return {"value": late / count if count else None, "low": low, "high": high}


def losses(run: Run, tokens: int, rate_hz: float, purpose: str) -> str | None:
    """relay_dram beside full on the same traffic, in a sentence; None if only one of them was probed."""
    beside = {
        probe["mode"]: probe
        for probe in run.get("probes", [])
        if (probe.get("purpose"), probe["tokens"], probe["rate_hz"]) == (purpose, tokens, rate_hz)
        if not probe.get("is_disturbed")
    }
    if not {FULL, RELAY_DRAM} <= beside.keys():
        return None
    parts = []
    for name in ("p50", "p99"):
        full, relayed = (beside[mode].get("rank_ms", {}).get(name) for mode in (FULL, RELAY_DRAM))
        if isinstance(full, int | float) and isinstance(relayed, int | float) and full:
            parts.append(f"{name.upper()} {relayed:.3g} ms against {full:.3g} ({relayed / full:.2f}x)")
    return (
        f"{tokens} tokens, {rate_hz:g} requests/s, {RELAY_DRAM} against {FULL}: {', '.join(parts)}." if parts else None
    )


def _verdict(
    low: float | None, high: float | None, least: float | None, most: float | None, more_is_worse: bool
) -> str:
    """Of an interval beside another; where they overlap nothing is shown."""
    is_less = high is not None and least is not None and high < least
    is_more = low is not None and most is not None and low > most
    if not is_less and not is_more:
        return SAME
    return WORSE if is_more == more_is_worse else BETTER
