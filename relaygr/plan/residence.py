"""How long psi stays on a device and in DRAM, and which returns find it there.

Both tiers are taken as ordered by last use. Psi that was used stays until so many bytes of others came after it, so a
tier of B bytes keeps psi for the time t that solves

    rate * E[bytes] * integral from 0 to t of (1 - return_share * F(s)) ds = B

(Che's approximation), with F the distribution of gaps: users who return within s do not count twice. What the ranker
keeps is chosen by what it saves, which finds at least as much.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from relaygr.plan.demand import Demand

STEPS, HALVINGS = 32, 30
FAR_GAPS = 0.999
"""Psi kept for longer than so many gaps is kept for all."""


@dataclass(frozen=True, slots=True)
class Residence:
    """Seconds since the last use, and shares of all requests."""

    device_s: float
    dram_s: float
    device_share: float
    dram_share: float


def residence(demand: Demand, rate_hz: float, psi_bytes: float, device_bytes: float, dram_bytes: float) -> Residence:
    """Of one instance: `rate_hz` requests a second leave `psi_bytes` on average; bytes are those free for reuse."""
    device_s = kept_s(demand, rate_hz * psi_bytes, device_bytes)
    dram_s = kept_s(demand, rate_hz * psi_bytes, device_bytes + dram_bytes)
    on_device = demand.return_share * demand.gap_share(device_s)
    return Residence(device_s, dram_s, on_device, demand.return_share * demand.gap_share(dram_s) - on_device)


def kept_s(demand: Demand, bytes_per_s: float, room_bytes: float) -> float:
    """How long psi stays; infinite when all gaps are shorter."""
    far_s = demand.gap_quantile_s(FAR_GAPS)
    if bytes_per_s * held_s(demand, far_s) <= room_bytes:
        return inf
    low, high = 0.0, far_s
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if bytes_per_s * held_s(demand, middle) <= room_bytes else (low, middle)
    return low


def held_s(demand: Demand, seconds: float) -> float:
    """The integral: seconds that psi of one request counts, when it is kept for so long."""
    width = seconds / STEPS
    return sum(width * (1.0 - demand.return_share * demand.gap_share((step + 0.5) * width)) for step in range(STEPS))
