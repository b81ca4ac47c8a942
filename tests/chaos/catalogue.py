"""All scenarios. Each says what callers may see at most; docs/faults.md says the same in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from bench.tiers.soak_ground import PAGE_BYTES
from tests.chaos.scenario import Ending, Holds, Kind, Scenario

ETCD_GONE_S, ETCD_GONE_LONG_S = 20.0, 600.0

QUIET = Holds()
"""No request fails."""
TAKEN_OVER = Holds(errors=Ending.FENCE, is_only_in_flight=True, recovery_s_max=3.0)
"""Another one does the work."""
FENCED = Holds(errors=Ending.FENCE, recovery_s_max=3.0, is_fenced=True)
SPEED_ONLY = Holds(tier_back="DRAM", tier_back_s=5.0)
"""The DRAM tier is missed in latency alone, and comes back."""


ALL_GONE = Holds(errors=Ending.RETURN, recovery_s_max=3.0)
"""Nobody is left who could do the work: requests are refused, and none waits longer than its deadline."""


def _kill(name: str, on: str, holds: Holds, *, stays_away: bool = False) -> Scenario:
    parts = tuple(on.split())
    return Scenario(name=name, kind=Kind.KILL, on=parts, holds=holds, stays_away=stays_away)


KILLS = (
    _kill("ranker_kill", "ranker-1", TAKEN_OVER, stays_away=True),
    _kill("ranker_kill_and_start", "ranker-1", TAKEN_OVER),
    _kill("rankers_kill_and_start", "ranker-1 ranker-2", ALL_GONE),
    _kill("expander_kill", "expander", SPEED_ONLY),
    _kill("router_kill", "router", TAKEN_OVER, stays_away=True),
    _kill("router_kill_and_start", "router", TAKEN_OVER),
    _kill("routers_kill_and_start", "router router-2", ALL_GONE),
    _kill("trigger_kill", "trigger", Holds(recovery_s_max=3.0)),
    _kill("console_kill", "console", QUIET),
    _kill("etcd_kill", "etcd", QUIET),
    replace(_kill("etcd_gone", "etcd", QUIET), lasts_s=ETCD_GONE_S),
)

STOPS = tuple(
    Scenario(name=f"{name}_stop", kind=Kind.STOP, on=(on,), holds=holds)
    for name, on, holds in (
        ("ranker", "ranker-2", FENCED),
        ("expander", "expander", SPEED_ONLY),
        ("router", "router", Holds(errors=Ending.FENCE, recovery_s_max=3.0)),
        ("trigger", "trigger", Holds(recovery_s_max=3.0)),
        ("console", "console", QUIET),
        ("etcd", "etcd", QUIET),
    )
)

SLOWED = tuple(
    Scenario(name=f"{name}_slow", kind=Kind.SLOW, on=(on,), holds=Holds(recovery_s_max=3.0))
    for name, on in (
        ("ranker", "ranker-1"),
        ("expander", "expander"),
        ("router", "router"),
        ("trigger", "trigger"),
        ("console", "console"),
        ("etcd", "etcd"),
    )
)

REGISTRY = (
    Scenario(name="ranker_lease_lost", kind=Kind.REVOKE, on=("ranker-1",), holds=QUIET),
    Scenario(name="router_and_trigger_leases_lost", kind=Kind.REVOKE, on=("router", "trigger"), holds=QUIET),
    Scenario(
        name="etcd_compacted_in_a_watch_gap",
        kind=Kind.COMPACT,
        on=("router", "router-2", "ranker-1"),
        stage="proxied",
        lasts_s=1.0,
        holds=TAKEN_OVER,
    ),
    Scenario(
        name="etcd_leader_lost",
        kind=Kind.LEADER,
        on=("etcd",),
        stage="etcds",
        holds=QUIET,
    ),
)


def _links(kind: Kind, name: str, *, delay_ms: float = 0.0) -> tuple[Scenario, ...]:
    edges = (
        ("client", "trigger", Holds(recovery_s_max=3.0)),
        ("client", "router", Holds(errors=Ending.FENCE, recovery_s_max=3.0)),
        ("trigger", "router", Holds(recovery_s_max=3.0)),
        ("router", "ranker-1", FENCED),
        ("ranker-1", "expander", Holds(recovery_s_max=3.0)),
        ("router", "etcd", QUIET),
        ("ranker-1", "etcd", QUIET),
        ("router", "otlp", QUIET),
    )
    return tuple(
        Scenario(
            name=f"{name}_{caller}_to_{callee}".replace("-1", ""),
            kind=kind,
            on=(caller, callee),
            stage="proxied",
            delay_ms=delay_ms,
            holds=Holds(recovery_s_max=3.0) if kind is Kind.DELAY else holds,
        )
        for caller, callee, holds in edges
    )


LINKS = (
    *_links(Kind.CUT, "cut"),
    *_links(Kind.RESET, "reset"),
    *_links(Kind.DELAY, "delay", delay_ms=30.0),
)

ROOM = (
    Scenario(
        name="arena_too_small",
        kind=Kind.RECONFIGURE,
        on=("ranker-1",),
        settings={"device_budget_bytes": str(2 * PAGE_BYTES)},
        holds=Holds(recovery_s_max=3.0),
    ),
    Scenario(
        name="segment_too_small",
        kind=Kind.RECONFIGURE,
        on=("expander",),
        settings={"segment_bytes": str(1024 * 1024)},
        holds=SPEED_ONLY,
    ),
    Scenario(
        name="shared_memory_full",
        kind=Kind.NO_MEMORY,
        on=("expander",),
        holds=SPEED_ONLY,
    ),
    Scenario(
        name="disk_full",
        kind=Kind.NO_DISK,
        on=("ranker-1", "router", "trigger", "console"),
        holds=QUIET,
    ),
)

CHANGES = (
    Scenario(
        name="rankers_restarted_in_turns",
        kind=Kind.ROLL,
        on=("ranker-1", "ranker-2"),
        lasts_s=0.5,
        holds=Holds(recovery_s_max=3.0),
    ),
    Scenario(name="ranker_drained", kind=Kind.DRAIN, on=("ranker-1",), holds=Holds(recovery_s_max=3.0)),
    Scenario(
        name="model_upgraded_in_turns",
        kind=Kind.UPGRADE,
        on=("ranker-1", "ranker-2"),
        lasts_s=3.0,
        stays_away=True,
        holds=QUIET,
    ),
)

ALL: tuple[Scenario, ...] = (*KILLS, *STOPS, *SLOWED, *REGISTRY, *ROOM, *CHANGES, *LINKS)
SHORT = ("ranker_kill", "ranker_stop", "expander_kill", "etcd_kill")


def chosen(scenarios: Sequence[Scenario], count: int, seed: int) -> list[Scenario]:
    """So many of them, by a seed, in an order by the same seed."""
    return Random(seed).sample(list(scenarios), min(count, len(scenarios)))


def lengthened(scenario: Scenario) -> Scenario:
    """Its long form."""
    return replace(scenario, lasts_s=ETCD_GONE_LONG_S) if scenario.name == "etcd_gone" else scenario
