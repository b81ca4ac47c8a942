"""Two servers, Poisson arrivals, one queue: what a search is tried on."""

import heapq
import itertools
from collections.abc import Callable

import numpy as np

from bench.load.estimate import bursts_of
from bench.load.search import Estimate, MonotoneSearch, Verdict

LIMIT_S = 0.05
WARMUP = 150


def late_flags(rate_hz: float, service_s: float, count: int, random: np.random.Generator) -> list[bool]:
    """Of each request, whether it took longer than the limit."""
    free, flags = [0.0, 0.0], []
    arrivals = itertools.accumulate(random.exponential(1 / rate_hz, WARMUP + count).tolist())
    for arrival in arrivals:
        done = max(heapq.heappop(free), arrival) + service_s
        heapq.heappush(free, done)
        flags.append(done - arrival > LIMIT_S)
    return flags[WARMUP:]


def probe(rate_hz: float, service_s: float, random: np.random.Generator) -> Verdict:
    """15 s of traffic, 1,000 requests at least."""
    flags = late_flags(rate_hz, service_s, max(1000, round(15 * rate_hz)), random)
    return Verdict(sum(flags), len(flags), 0, 0, False, bursts_of(flags))


def run(search: MonotoneSearch, answer: Callable[[float], Verdict]) -> Estimate:
    """To the search's own end."""
    while (position := search.next()) is not None:
        search.observe(position, answer(position))
    return search.result()
