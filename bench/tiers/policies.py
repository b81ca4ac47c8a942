"""What each eviction policy leaves on the device, on the same traces.

Traces are the load generator's, with the default profile's returns and gaps; lengths are mixed or one for all. Budgets
are a share of what the users seen within the median gap would need, so that a device is short of room, as it is in
production.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from bench.load.profile import Lengths, Profile
from bench.load.traffic import Plan, PlannedRequest, plan
from bench.tiers.replay import Replayed, TierReplay
from relaygr.domain.cost import CostModel
from services.expander.core.admission import AdmissionPolicy
from services.expander.core.limits import TieringLimits
from services.expander.core.tiering import Tiering
from services.ranker.core.eviction import POLICIES
from services.ranker.core.residency import Residency

COST = CostModel(
    fixed_ns=150_000.0,
    token_ns=7_500.0,
    pair_ns=8.5,
    reload_fixed_ns=400_000.0,
    reload_byte_ns=0.05,
    relative_error=0.2,
    token_bytes=4096,
    candidates_typical=256,
)
"""Near what d256_h4x64_l4 in bfloat16 takes on one core of Zen 5: 1,656 tokens in 25 ms."""
BLOCK_BYTES = 64 * 1024
RATE_HZ = 40.0
REQUESTS = 6000
TOKENS = 1024
DEVICE_PAGES = (128, 256, 512, 1024)
DRAM_MIB = 1024
REST_TOKENS = 32
_TABLE = 1 << 16
_FAR_NS = 1 << 40


@dataclass(frozen=True, slots=True)
class Case:
    """One trace, device budget and policy, with and without DRAM."""

    lengths: str
    pages: int
    policy: str
    has_dram: bool
    found: Replayed

    def to_json(self) -> dict[str, object]:
        """A flat row."""
        case = {"lengths": self.lengths, "pages": self.pages, "policy": self.policy, "has_dram": self.has_dram}
        return {**case, **self.found.to_json()}


def traces(profile: Profile, seed: int) -> dict[str, list[PlannedRequest]]:
    """By kind of lengths."""
    lengths: dict[str, int | Lengths] = {"mixed": profile.lengths, "one": TOKENS}
    traffic = replace(profile.traffic, requests=REQUESTS)
    return {
        name: plan(
            Plan(
                traffic=traffic,
                stages=profile.stages,
                rate_hz=RATE_HZ,
                seed=seed,
                first_user=0,
                users=REQUESTS + 1000,
                tokens=tokens,
            )
        )
        for name, tokens in lengths.items()
    }


def compared(profile: Profile, seed: int) -> Iterator[Case]:
    """Every case."""
    for lengths, requests in traces(profile, seed).items():
        for pages in DEVICE_PAGES:
            for has_dram in (False, True):
                for policy in POLICIES:
                    found = replayed(requests, pages, policy, DRAM_MIB if has_dram else 0)
                    yield Case(lengths, pages, policy, has_dram, found)


def replayed(
    requests: list[PlannedRequest],
    pages: int,
    policy: str,
    dram_mib: int,
    admission: AdmissionPolicy = AdmissionPolicy.FREQUENCY,
) -> Replayed:
    """One case; without a DRAM tier when that has no room."""
    residency = Residency(
        pages_total=pages,
        tickets_max=_TABLE,
        entries_max=_TABLE,
        ranks_max=_TABLE,
        spills_max=4,
        tombstone_ns=_FAR_NS,
        cost=COST,
        rest_tokens=REST_TOKENS,
        policy=POLICIES[policy](),
    )
    return TierReplay(residency, _expander(dram_mib, admission) if dram_mib else None, COST).run(requests)


def _expander(size_mib: int, admission: AdmissionPolicy) -> Tiering:
    blocks = size_mib * 1024 * 1024 // BLOCK_BYTES
    limits = TieringLimits(
        block_bytes=BLOCK_BYTES,
        block_count=blocks,
        pinned_blocks_max=blocks,
        staging_blocks_max=blocks // 4,
        tenant_blocks_max=blocks,
        admission=admission,
    )
    return Tiering(limits)
