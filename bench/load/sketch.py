"""What to expect before measuring: a sketch of queues on the back of an envelope.

It gives the searches their first guess, and the reader something to hold the figures against.
"""

from __future__ import annotations

import heapq

import numpy as np

ARRIVALS = 20_000
_STEPS = 14


def full_rate_hz(service_ms: float, budget_ms: float, servers: int, quantile: float, seed: int = 1) -> float:
    """The rate at which Poisson arrivals of one service time, at the least loaded of some servers, keep a budget.

    0 when the service alone takes longer.
    """
    if service_ms >= budget_ms:
        return 0.0
    units = np.cumsum(np.random.default_rng(seed).exponential(1.0, ARRIVALS))
    low, high = 0.0, servers * 1000.0 / service_ms
    for _ in range(_STEPS):
        rate_hz = (low + high) / 2
        if _latency_ms(units / rate_hz * 1000.0, service_ms, servers, quantile) <= budget_ms:
            low = rate_hz
        else:
            high = rate_hz
    return low


def _latency_ms(arrivals_ms: np.ndarray, service_ms: float, servers: int, quantile: float) -> float:
    free_ms = [0.0] * servers
    heapq.heapify(free_ms)
    latencies = []
    for arrival_ms in arrivals_ms.tolist():
        begins_ms = max(arrival_ms, free_ms[0])
        heapq.heapreplace(free_ms, begins_ms + service_ms)
        latencies.append(begins_ms + service_ms - arrival_ms)
    return float(np.quantile(latencies, quantile))


def relay_bound_hz(work_ms: float, rankers: int) -> float:
    """The rate at which rankers do nothing but the work of requests."""
    return rankers * 1000.0 / work_ms
