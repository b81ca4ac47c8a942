"""Judges a history: scores, answers, errors, recovery. Pure.

A request that nobody answered and nobody refused is *unanswered*: the one thing that callers cannot cope with. One that
ended later than its deadline is *late*, and counts as a broken rule too. Recovery is where the first two seconds begin
in which no request failed and none was slower than the limit: twice the P99 before the fault and 20 ms.

Source: design, section 5, invariants I5, I6.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bench.load.traffic import PlannedRequest
from relaygr.client.ranking import score_difference
from tests.chaos.history import Call, History
from tests.chaos.scenario import Ending, Holds, Pace, Scenario
from tests.system.world import SCORE_DIFFERENCE_MOST

LATE_SLACK_MS = 300.0
"""Beyond the deadline: what a loaded machine takes to say so."""
LAG_MS_MAX = 100.0
"""A machine that holds the callers up for longer holds the services up as well: latencies are not judged."""
GOOD_NS = 2_000_000_000
STEP_NS = 100_000_000
SLOWER_TIMES, SLOWER_MS = 2.0, 20.0
SENT_SLACK_NS = 500_000_000
"""A request that was due so long before the load's stop has been sent."""
IN_FLIGHT_SLACK_NS = 50_000_000
"""A signal takes effect a little after it was sent."""

Scores = Callable[[PlannedRequest, str], NDArray[np.float32]]
"""What is right for a request and a version of the model."""


@dataclass(slots=True)
class Verdict:
    """What came of one scenario."""

    requests: int = 0
    answered: int = 0
    refused: int = 0
    unanswered: int = 0
    late: int = 0
    lag_ms: float = 0.0
    """The longest that the callers' own process was held up."""
    wrong_scores: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    errors_after_fence: int = 0
    errors_after_return: int = 0
    in_flight: int = 0
    p50_ms: dict[str, float] = field(default_factory=dict)
    p99_ms: dict[str, float] = field(default_factory=dict)
    recovery_s: float | None = None
    tier_back_s: float | None = None
    tiers: Counter[str] = field(default_factory=Counter)
    versions_after: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    unjudged: list[str] = field(default_factory=list)
    """What was too slow while the callers' own process was held up: the machine had other work, and it says nothing."""


def judge(
    scenario: Scenario,
    pace: Pace,
    requests: Sequence[PlannedRequest],
    history: History,
    right: Scores,
    versions: Sequence[str],
) -> Verdict:
    """Count, compare, and say what is broken.

    Args:
        scenario: what was done, and what must hold.
        pace: the callers' patience.
        requests: all that was planned; those due after the load's stop are not asked about.
        history: what the callers saw.
        right: the scores.
        versions: of the model that may have answered.
    """
    by_index = {request.index: request for request in requests}
    begun_ns = history.begun_ns(by_index)
    last_ns = history.stop_ns - SENT_SLACK_NS
    requests = [one for one in requests if one.index in history.calls or begun_ns + one.arrives_ns < last_ns]
    # From when ranking was due by the plan, so that neither a queue nor a slow generator hides.
    rank_ms = {
        index: (call.ended_ns - begun_ns - by_index[index].due_ns) / 1e6 for index, call in history.calls.items()
    }
    verdict = Verdict(requests=len(requests), lag_ms=history.lag_ns / 1e6)
    _count(verdict, pace, requests, history)
    _compare(verdict, requests, history, right, versions)
    _time(verdict, scenario, history, rank_ms)
    deadline_ns = int((pace.rank_timeout_ms + LATE_SLACK_MS) * 1e6)
    failed = [call for call in history.calls.values() if call.error]
    verdict.errors_after_fence = sum(call.ended_ns > history.fault_ns + deadline_ns for call in failed)
    if history.end_ns:
        verdict.errors_after_return = sum(call.ended_ns > history.end_ns + deadline_ns for call in failed)
    window_ns = history.fault_ns, history.fault_ns + IN_FLIGHT_SLACK_NS
    verdict.in_flight = sum(call.was_ranking(*window_ns) for call in history.calls.values())
    verdict.broken = broken_rules(verdict, scenario.holds)
    (verdict.unjudged if verdict.lag_ms > LAG_MS_MAX else verdict.broken).extend(too_slow(verdict, scenario.holds))
    return verdict


def _count(verdict: Verdict, pace: Pace, requests: Sequence[PlannedRequest], history: History) -> None:
    late_ns = int((pace.rank_timeout_ms + LATE_SLACK_MS) * 1e6) + history.lag_ns
    for request in requests:
        call = history.calls.get(request.index)
        if call is None or not call.ended_ns:
            verdict.unanswered += 1
            continue
        verdict.answered += call.is_answered
        verdict.refused += not call.is_answered
        verdict.late += bool(call.ranked_ns) and call.ended_ns - call.ranked_ns > late_ns
        if call.is_answered:
            verdict.tiers[call.tier] += 1
        if call.error:
            verdict.errors[call.error] += 1


def _compare(
    verdict: Verdict, requests: Sequence[PlannedRequest], history: History, right: Scores, versions: Sequence[str]
) -> None:
    for request in requests:
        call = history.calls.get(request.index)
        if call is None or call.scores is None:
            continue
        fitting = [version for version in versions if is_right(call.scores, right(request, version))]
        verdict.wrong_scores += not fitting
        if history.end_ns and call.sent_ns > history.end_ns:
            verdict.versions_after.update(fitting)


def is_right(scores: NDArray[np.float32], reference: NDArray[np.float32]) -> bool:
    """The same, to the tolerance of the system tests; what is no number is not right."""
    same_shape = scores.shape == reference.shape
    return same_shape and score_difference(scores, reference) <= SCORE_DIFFERENCE_MOST


def _time(verdict: Verdict, scenario: Scenario, history: History, rank_ms: Mapping[int, float]) -> None:
    phases: dict[str, list[float]] = {"before": [], "during": [], "after": []}
    for call in history.calls.values():
        if call.is_answered:
            phases[history.phase_of(call.ended_ns)].append(rank_ms[call.index])
    for phase, times_ms in phases.items():
        if times_ms:
            verdict.p50_ms[phase] = float(np.quantile(times_ms, 0.5, method="inverted_cdf"))
            verdict.p99_ms[phase] = float(np.quantile(times_ms, 0.99, method="inverted_cdf"))
    begin_ns = history.fault_ns if scenario.holds.is_fenced or not history.end_ns else history.end_ns
    limit_ms = SLOWER_TIMES * verdict.p99_ms.get("before", 0.0) + SLOWER_MS
    verdict.recovery_s = recovery_s(list(history.calls.values()), rank_ms, begin_ns, limit_ms)
    back_ns = [
        call.ended_ns - history.end_ns
        for call in history.calls.values()
        if history.end_ns and call.tier and call.tier == scenario.holds.tier_back and call.sent_ns > history.end_ns
    ]
    verdict.tier_back_s = min(back_ns) / 1e9 if back_ns else None


def recovery_s(calls: Sequence[Call], rank_ms: Mapping[int, float], begin_ns: int, limit_ms: float) -> float | None:
    """Seconds from `begin_ns` until two seconds begin in which all is well; None when none do."""
    times_ns = np.array([call.ranked_ns or call.sent_ns for call in calls])
    bad = np.array([not call.is_answered or rank_ms[call.index] > limit_ms for call in calls])
    at_ns, last_ns = begin_ns, int(times_ns.max(initial=0))
    while at_ns + GOOD_NS <= last_ns:
        inside = (times_ns >= at_ns) & (times_ns < at_ns + GOOD_NS)
        if inside.any() and not bad[inside].any():
            return (at_ns - begin_ns) / 1e9
        at_ns += STEP_NS
    return None


def broken_rules(verdict: Verdict, holds: Holds) -> list[str]:
    """What does not hold, whatever the machine does, in words."""
    found: list[tuple[object, str]] = [
        (verdict.unanswered, f"{verdict.unanswered} requests were neither answered nor refused"),
        (verdict.late, f"{verdict.late} requests ended after their deadline"),
        (verdict.wrong_scores, f"{verdict.wrong_scores} answers have wrong scores"),
        (holds.errors is Ending.NEVER and verdict.errors, f"requests failed: {dict(verdict.errors)}"),
        (
            holds.errors is Ending.FENCE and verdict.errors_after_fence,
            f"{verdict.errors_after_fence} requests failed later than a call's deadline after the fault",
        ),
        (
            holds.errors is not Ending.NEVER and verdict.errors_after_return,
            f"{verdict.errors_after_return} requests failed later than a call's deadline after the fault's end",
        ),
        (
            holds.is_only_in_flight and verdict.refused > verdict.in_flight,
            f"{verdict.refused} requests failed, {verdict.in_flight} were in flight",
        ),
    ]
    if holds.versions_after and set(verdict.versions_after) != holds.versions_after:
        found.append((True, f"afterwards versions {sorted(verdict.versions_after)} answered"))
    return [text for is_broken, text in found if is_broken]


def too_slow(verdict: Verdict, holds: Holds) -> list[str]:
    """What came back too late, in words."""
    found = []
    most_s = holds.recovery_s_max
    if most_s is not None and (verdict.recovery_s is None or verdict.recovery_s > most_s):
        found.append(f"recovered after {_seconds(verdict.recovery_s)}, not within {most_s:g} s")
    if holds.tier_back and (verdict.tier_back_s is None or verdict.tier_back_s > holds.tier_back_s):
        back = _seconds(verdict.tier_back_s)
        found.append(f"{holds.tier_back} was back after {back}, not within {holds.tier_back_s:g} s")
    return found


def _seconds(value_s: float | None) -> str:
    return "more than was waited for" if value_s is None else f"{value_s:.1f} s"
