"""Hours of both tiers in virtual time with their tables full: nothing leaks, nothing is stuck, memory stays flat.

Two rankers of one host and one expander, the very cores; work takes the time that the cost model says, so that what
they do overlaps. Rankers crash and are stopped, the expander restarts, answers get lost, callers do as they like. At
the end traffic stops, and all that was held must have been given back.

Source: design, section 5, invariants I1, I3, I4, I5, I7.
"""

from __future__ import annotations

import gc
import sys
import types
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from bench.engine.memory import rss_mb
from bench.load.profile import Profile
from bench.tiers.policies import BLOCK_BYTES, COST, REST_TOKENS
from bench.tiers.soak_callers import Callers
from bench.tiers.soak_dram import SoakExpander
from bench.tiers.soak_ranker import SoakRanker, Tallied
from bench.tiers.soak_time import Timeline
from bench.tiers.soak_watch import STUCK_NS, SoakFailed
from relaygr.domain.chain import PAGE_TOKENS
from services.expander.core.limits import TieringLimits
from services.ranker.core.counters import RACE_COUNTERS
from services.ranker.core.eviction import POLICIES
from services.ranker.core.residency import Residency

SECOND_NS = 1_000_000_000
RATE_HZ = 24.0
USER_PAGES = 8
"""Of a user on average."""
DEVICE_USERS, DRAM_USERS = 10, 40
DEVICE_PAGES = DEVICE_USERS * USER_PAGES
DRAM_BLOCKS = DRAM_USERS * USER_PAGES * PAGE_TOKENS * COST.token_bytes // BLOCK_BYTES
TOMBSTONE_S, DRAM_TOMBSTONE_S = 60, 120
LOOK_NS = SECOND_NS
SAMPLE_S = 20
SETTLE_S = 30
"""After the last request: windows close, copies end, silent owners' locks are looked at."""
GROWN_MAX = 1.1
"""Objects that the cores reach, the last quarter against the second: what they hold goes up and down by less."""
RSS_GROWN_MAX = 1.05
STOPPED_NS = 3 * SECOND_NS
BAD_MOMENT_NS, BAD_MOMENT_TRIES = 1_000_000, 2_000
"""A ranker ends or stops in the middle of a copy, if one comes soon."""

LIMITS = TieringLimits(
    block_bytes=BLOCK_BYTES,
    block_count=DRAM_BLOCKS,
    owners_max=8,
    entries_max=DRAM_USERS,
    pins_max=1,
    pinned_blocks_max=DRAM_BLOCKS // 2,
    stores_max=2,
    stores_per_owner_max=1,
    staging_blocks_max=DRAM_BLOCKS // 8,
    tenant_blocks_max=DRAM_BLOCKS,
    tombstones_max=16,
    entry_age_ns=30 * SECOND_NS,
    tombstone_ns=DRAM_TOMBSTONE_S * SECOND_NS,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Churn:
    """How often something ends, seconds."""

    crash_s: int = 600
    restart_s: int = 1200
    """Of the expander."""
    stop_s: int = 450


@dataclass(slots=True)
class VirtualSoak:
    """What came of it."""

    virtual_s: int
    requests: int = 0
    ranks: int = 0
    crashes: int = 0
    restarts: int = 0
    stops: int = 0
    counters: Counter[str] = field(default_factory=Counter)
    """Of the rankers' cores, all boots."""
    dram_counters: Counter[str] = field(default_factory=Counter)
    left: dict[str, int] = field(default_factory=dict)
    """Of everything but tombstones, what was not given back at the end; and of these, after their time."""
    wrong_pages: int = 0
    wrong_blocks: int = 0
    quarantines: int = 0
    """Times that blocks were seen in quarantine when they had not been a second before."""
    effects: str = ""
    """A digest of every effect, in order: the same for the same seed."""
    held_bytes: list[int] = field(default_factory=list)
    """Bytes of all objects that the cores reach, sampled."""
    rss_mb: list[float] = field(default_factory=list)

    @property
    def must_be_zero(self) -> dict[str, int]:
        """Counters of what cannot happen, and what was read wrong."""
        races = {name: self.counters[name] for name in RACE_COUNTERS}
        wrong = {"wrong_pages": self.wrong_pages, "wrong_blocks": self.wrong_blocks}
        return races | {"corrupt": self.dram_counters["corrupt"]} | wrong

    @property
    def verdict(self) -> list[str]:
        """What is not as it should be; nothing when all is well."""
        found = [f"{name} is {value}" for name, value in (self.must_be_zero | self.left).items() if value]
        if grown(self.held_bytes) > GROWN_MAX:
            found.append(f"the cores' objects have grown {grown(self.held_bytes):.3f} times")
        if grown(self.rss_mb) > RSS_GROWN_MAX:
            found.append(f"the process has grown {grown(self.rss_mb):.3f} times")
        return found

    def to_json(self) -> dict[str, Any]:
        """For the line."""
        names = ("virtual_s", "requests", "ranks", "crashes", "restarts", "stops", "quarantines")
        return {
            **{name: getattr(self, name) for name in names},
            "held_grown": round(grown(self.held_bytes), 4),
            "rss_grown": round(grown(self.rss_mb), 4),
            "rss_mb": round(self.rss_mb[-1], 1) if self.rss_mb else 0.0,
            "leaked": {name: value for name, value in self.left.items() if value},
            "must_be_zero": self.must_be_zero,
            "counters": {name: value for name, value in sorted(self.counters.items()) if value},
            "dram_counters": dict(sorted(self.dram_counters.items())),
            "effects": self.effects,
            "verdict": "; ".join(self.verdict) or "ok",
        }


class SoakWorld:
    """A host with its processes; also says where a user is served."""

    def __init__(self, profile: Profile, seed: int, churn: Churn) -> None:
        self.timeline = Timeline()
        self._chance = Random(seed)
        self._churn = churn
        self._tallied = Tallied()
        self._expander = SoakExpander(self.timeline, LIMITS)
        self._expander.start()
        self._epochs = 0
        self._rankers = [self._ranker(f"ranker-{number}") for number in (1, 2)]
        self._callers = Callers(self.timeline, self, profile, RATE_HZ, self._chance, seed)
        self._end_ns = 0
        self._is_sampled = True
        self._quarantined_since_ns: int | None = None

    def run(self, virtual_s: int, *, is_sampled: bool = True) -> VirtualSoak:
        """All of it.

        Raises:
            SoakFailed: something was stuck.
            AssertionError: an invariant of a core did not hold.
        """
        found = VirtualSoak(virtual_s)
        self._end_ns, self._is_sampled = virtual_s * SECOND_NS, is_sampled
        self._callers.start(self._end_ns)
        self._every(self._churn.crash_s, lambda: self._crash(found))
        self._every(self._churn.restart_s, lambda: self._restart(found))
        self._every(self._churn.stop_s, lambda: self._stop(found))
        self._every(1, lambda: self._look(found))
        self._every(SAMPLE_S, lambda: self._sample(found))
        self.timeline.run_until(self._end_ns)
        self._settle(found)
        return found

    def ranker_of(self, user: int) -> SoakRanker | None:
        """The user's own, else the other."""
        preferred = self._rankers[user % 2], self._rankers[1 - user % 2]
        return next((ranker for ranker in preferred if not ranker.is_dead), None)

    def _ranker(self, name: str) -> SoakRanker:
        self._epochs += 1
        residency = Residency(
            pages_total=DEVICE_PAGES,
            tickets_max=8,
            entries_max=DEVICE_USERS,
            ranks_max=6,
            spills_max=2,
            tombstone_ns=TOMBSTONE_S * SECOND_NS,
            cost=COST,
            rest_tokens=REST_TOKENS,
            policy=POLICIES[next(iter(POLICIES))](),
        )
        return SoakRanker(
            name=name,
            epoch=self._epochs,
            timeline=self.timeline,
            residency=residency,
            expander=self._expander,
            cost=COST,
            chance=self._chance,
            tallied=self._tallied,
        )

    def _every(self, period_s: int, act: Callable[[], None]) -> None:
        """Again and again while there is traffic."""

        def once() -> None:
            act()
            if self.timeline.now_ns + period_s * SECOND_NS < self._end_ns:
                self.timeline.after(period_s * SECOND_NS, once)

        self.timeline.after(period_s * SECOND_NS, once)

    def _away_ns(self) -> int:
        return int(self._chance.uniform(1, 5) * SECOND_NS)

    def _crash(self, found: VirtualSoak) -> None:
        number = found.crashes % 2
        found.crashes += 1
        ranker = self._rankers[number]

        def die() -> None:
            self._bury(found, ranker)
            ranker.kill()
            self.timeline.after(self._away_ns(), back)

        def back() -> None:
            self._rankers[number] = self._ranker(f"ranker-{number + 1}")

        self._at_a_bad_moment(ranker, die)

    def _restart(self, found: VirtualSoak) -> None:
        found.restarts += 1
        self._expander.kill()
        self.timeline.after(self._away_ns(), self._expander.start)

    def _stop(self, found: VirtualSoak) -> None:
        ranker = self._rankers[(found.stops + 1) % 2]
        found.stops += 1
        self._at_a_bad_moment(ranker, lambda: ranker.pause(STOPPED_NS))

    def _at_a_bad_moment(self, ranker: SoakRanker, act: Callable[[], None], tries: int = BAD_MOMENT_TRIES) -> None:
        if ranker.is_dead:
            return
        if ranker.link.is_idle and tries:
            self.timeline.after(BAD_MOMENT_NS, lambda: self._at_a_bad_moment(ranker, act, tries - 1))
        else:
            act()

    def _look(self, found: VirtualSoak) -> None:
        for ranker in self._rankers:
            if not ranker.is_dead:
                ranker.look()
        self._expander.check()
        core, now_ns = self._expander.core, self.timeline.now_ns
        if core is None or not core.occupancy().quarantined_blocks:
            self._quarantined_since_ns = None
        elif self._quarantined_since_ns is None:
            self._quarantined_since_ns = now_ns
            found.quarantines += 1
        elif now_ns - self._quarantined_since_ns > STUCK_NS:
            raise SoakFailed(f"blocks are in quarantine since {self._quarantined_since_ns / 1e9:.3f} s")

    def _bury(self, found: VirtualSoak, ranker: SoakRanker) -> None:
        """Count what a ranker counted until its end."""
        ranker.residency.check()
        found.counters.update(ranker.residency.snapshot().counters)
        found.wrong_blocks += ranker.link.wrong_blocks

    def _sample(self, found: VirtualSoak) -> None:
        if self._is_sampled:
            cores = [self._expander.core, *(ranker.residency for ranker in self._rankers)]
            found.held_bytes.append(reached_bytes([core for core in cores if core is not None]))
            found.rss_mb.append(rss_mb())

    def _settle(self, found: VirtualSoak) -> None:
        """Traffic has stopped: let time pass, and see what is still held; then what outlives its time."""
        self._pass(found, SETTLE_S)
        found.left = self._left(has_tombstones=True)
        self._pass(found, DRAM_TOMBSTONE_S)
        found.left |= {f"late {name}": value for name, value in self._left(has_tombstones=False).items()}
        for ranker in self._rankers:
            self._bury(found, ranker)
        found.requests, found.ranks = self._callers.requests, self._tallied.ranks
        found.dram_counters = self._expander.counted()
        found.wrong_pages = self._tallied.wrong_pages
        found.effects = self._tallied.effects.hexdigest()

    def _pass(self, found: VirtualSoak, seconds: int) -> None:
        for _ in range(seconds):
            self.timeline.run_until(self.timeline.now_ns + SECOND_NS)
            self._look(found)

    def _left(self, *, has_tombstones: bool) -> dict[str, int]:
        core = self._expander.core
        if core is None:
            raise SoakFailed("the expander did not come back")
        left: Counter[str] = Counter()
        for ranker in self._rankers:
            left.update(ranker.left())
        seen = core.occupancy()
        left["pins"] = seen.pins
        left["staging_blocks"] = seen.staging_blocks
        left["quarantined_blocks"] = seen.quarantined_blocks
        left["doomed_blocks"] = seen.doomed_blocks
        left["lost_blocks"] = LIMITS.block_count - seen.free_blocks - seen.published_blocks
        left["strange_owners"] = abs(seen.owners - len(self._rankers)) + abs(len(self._expander.locks) - seen.owners)
        left["tombstones"] += seen.tombstones
        if has_tombstones:
            del left["tombstones"]
        return dict(left)


def grown(samples: list[int] | list[float]) -> float:
    """The last quarter's mean against the second's; 1 when there are too few."""
    quarter = len(samples) // 4
    if quarter < 2:
        return 1.0
    return (sum(samples[-quarter:]) / quarter) / (sum(samples[quarter : 2 * quarter]) / quarter)


_NOT_HELD = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType, property)


def reached_bytes(roots: list[Any]) -> int:
    """Bytes of every object that these lead to, code left out."""
    seen: set[int] = set()
    total, reached = 0, list(roots)
    while reached:
        one = reached.pop()
        if id(one) in seen or isinstance(one, _NOT_HELD):
            continue
        seen.add(id(one))
        total += sys.getsizeof(one)
        reached.extend(gc.get_referents(one))
    return total
