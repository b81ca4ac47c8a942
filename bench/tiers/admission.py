"""What the DRAM tier's admission is worth: the same traces with it and without, from too little room to enough.

Two kinds of traffic: the default profile's, and the same users among a flood of others who come once, whose psi are
never asked for again and need not have been stored. The flood is of no use to any cache, so that shares of all requests
are small; those of the returns tell how well the others are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from bench.load.profile import Lengths, Profile
from bench.load.traffic import Plan, PlannedRequest, plan
from bench.tiers.policies import RATE_HZ, REQUESTS, TOKENS, replayed, traces
from bench.tiers.replay import Replayed
from services.expander.core.admission import AdmissionPolicy

DRAM_MIB = (64, 256, 512, 1024)
PAGES = 256
POLICY = "worth"
FLOOD_SHARE = 0.6
"""Of the flooded traffic's requests, those of users who come once."""
_FLOOD_FIRST_USER = 1_000_000


@dataclass(frozen=True, slots=True)
class Case:
    """One trace and DRAM budget, under one kind of admission."""

    traffic: str
    lengths: str
    dram_mib: int
    admission: str
    found: Replayed

    def to_json(self) -> dict[str, object]:
        """A flat row."""
        case = {name: getattr(self, name) for name in ("traffic", "lengths", "dram_mib", "admission")}
        found = self.found.to_json()
        return {**case, **{name: found[name] for name in ("recompute_avoided", "dram_hits", "work_ms_per_request")}}


def compared(profile: Profile, seed: int) -> Iterator[Case]:
    """Every case."""
    floods = {"mixed": flooded(profile, seed, profile.lengths), "one": flooded(profile, seed, TOKENS)}
    for traffic, by_lengths in {"default": traces(profile, seed), "flood": floods}.items():
        for lengths, requests in by_lengths.items():
            for dram_mib in DRAM_MIB:
                for admission in AdmissionPolicy:
                    found = replayed(requests, PAGES, POLICY, dram_mib, admission)
                    yield Case(traffic, lengths, dram_mib, admission.value, found)


def flooded(profile: Profile, seed: int, tokens: int | Lengths) -> list[PlannedRequest]:
    """The profile's users, returning as they do, among others who come once; in order of arrival."""
    returning = _part(profile, seed, tokens, 1 - FLOOD_SHARE, profile.traffic.return_share, 0)
    once = _part(profile, seed + 1, tokens, FLOOD_SHARE, 0.0, _FLOOD_FIRST_USER)
    return sorted([*returning, *once], key=lambda request: request.arrives_ns)


def _part(
    profile: Profile, seed: int, tokens: int | Lengths, share: float, return_share: float, first_user: int
) -> list[PlannedRequest]:
    traffic = replace(profile.traffic, requests=round(REQUESTS * share), return_share=return_share)
    return plan(
        Plan(
            traffic=traffic,
            stages=profile.stages,
            rate_hz=RATE_HZ * share,
            seed=seed,
            first_user=first_user,
            users=first_user + REQUESTS + 1000,
            tokens=tokens,
        )
    )


def gains(cases: list[Case]) -> dict[str, dict[str, float]]:
    """By traffic: the most that admission wins and loses of `recompute_avoided`, as differences of shares."""
    found: dict[str, list[float]] = {}
    by_case = {(case.traffic, case.lengths, case.dram_mib, case.admission): case.found for case in cases}
    for (traffic, lengths, dram_mib, admission), with_it in by_case.items():
        if admission == AdmissionPolicy.FREQUENCY:
            without = by_case[traffic, lengths, dram_mib, AdmissionPolicy.ALL.value]
            found.setdefault(traffic, []).append(with_it.recompute_avoided - without.recompute_avoided)
    return {name: {"best": round(max(some), 4), "worst": round(min(some), 4)} for name, some in found.items()}
