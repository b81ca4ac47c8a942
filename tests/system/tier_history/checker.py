"""Whether a history is one that a right DRAM tier could have had. Pure.

A key is a register that several write at once. A load reads it at its lookup, at some moment
between the call and the answer, and is right when a store of this version

* was called before the lookup was answered,
* and may have ended as late as everything that surely emptied or overwrote the register before:

  - the start of the expander that answered, which begins with nothing;
  - the call of a store of another version, not shorter, that was answered "stored" before the lookup
    was called. (One that was refused because a longer version is present says the same: what is there
    is at least as long, and not this.);
  - a confirmed forget that was over when the load went on after its lookup: what was under way then is
    doomed and what comes later is refused, until the tombstone ends or the expander is gone.

A store whose answer never came may still take effect at any later time; one that was refused never
does. So nothing right is ever called wrong, and what is wrong is found as far as the times of the
calls tell.

Then its bytes must be that version's, and never those of a damage it met.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.system.tier_history.history import STAMP, Boot, Forget, History, Injection, Load, Store, Version

NEVER_NS = 2**63


class Horizon:
    """The largest value among those that were set before a time."""

    def __init__(self, steps: Iterable[tuple[int, int]]):
        """Of (when it was set, value), in any order."""
        self._at: list[int] = []
        self._most: list[int] = []
        for at_ns, value in sorted(steps):
            self._at.append(at_ns)
            self._most.append(max(value, self._most[-1]) if self._most else value)

    def before(self, at_ns: int) -> int:
        """0 when none was."""
        place = bisect_left(self._at, at_ns)
        return self._most[place - 1] if place else 0


class Register:
    """What the calls for one key say about when which version could be there."""

    def __init__(self, stores: list[Store], forgets: list[Forget], boots: list[Boot], tombstone_ns: int):
        self._stores = stores
        self._starts = sorted(boot.started_ns for boot in boots)
        self._latest: dict[Version, Horizon] = {}
        self._replaced: dict[Version, Horizon] = {}
        self._forgotten = Horizon(
            (one.ended_ns, min(one.invoked_ns + tombstone_ns, self._next_start(one.invoked_ns)))
            for one in forgets
            if one.ended_ns is not None and one.is_confirmed
        )
        for version in {store.version for store in stores}:
            self._latest[version] = Horizon(
                (s.invoked_ns, _latest_end_ns(s)) for s in stores if s.version == version and not s.is_refused
            )
            self._replaced[version] = Horizon(
                (s.ended_ns, s.invoked_ns) for s in stores if s.ended_ns is not None and _replaces(s, version)
            )

    def problem(self, load: Load, started_ns: int) -> str | None:
        """Why this version could not be there for this load, from an expander started then; None when it could."""
        latest = self._latest.get(load.version)
        latest_ns = latest.before(load.found_ns) if latest else 0
        if not latest_ns:
            return "never_stored"
        if latest_ns < started_ns:
            return "of_an_ended_boot"
        if latest_ns < self._forgotten.before(load.found_ns):
            return "forgotten"
        if latest_ns < self._replaced[load.version].before(load.invoked_ns):
            return "replaced"
        return None

    def _next_start(self, at_ns: int) -> int:
        place = bisect_left(self._starts, at_ns)
        return self._starts[place] if place < len(self._starts) else NEVER_NS


@dataclass(slots=True)
class Verdict:
    """What was found."""

    counts: Counter[str] = field(default_factory=Counter)
    injected: Counter[str] = field(default_factory=Counter)
    met: Counter[str] = field(default_factory=Counter)
    """Injections that a load came upon, by kind."""
    problems: dict[str, list[Load]] = field(default_factory=lambda: defaultdict(list))

    @property
    def is_right(self) -> bool:
        """True when nothing is wrong with the history."""
        return not any(self.problems.values())


def check(history: History, tombstone_ns: int) -> Verdict:
    """Judge a history; `tombstone_ns` is how long stores of a forgotten user are refused."""
    verdict = Verdict()
    verdict.injected.update(one.kind for one in history.injections)
    verdict.counts["loads"] = len(history.loads) + history.misses
    verdict.counts["stores"] = len(history.stores)
    verdict.counts["stores_unknown"] = sum(
        _latest_end_ns(one) == NEVER_NS and not one.is_refused for one in history.stores
    )
    _check_registers(history, tombstone_ns, verdict)
    _check_bytes(history, verdict)
    _check_generations(history, verdict)
    _check_injections(history, verdict)
    return verdict


def _check_registers(history: History, tombstone_ns: int, verdict: Verdict) -> None:
    stores, forgets = defaultdict(list), defaultdict(list)
    for store in history.stores:
        stores[store.user].append(store)
    for forget in history.forgets:
        forgets[forget.user].append(forget)
    started_ns = {boot.boot: boot.started_ns for boot in history.boots}
    registers: dict[str, Register] = {}
    for load in history.loads:
        if not load.is_good:
            continue
        verdict.counts["hits"] += 1
        if load.user not in registers:
            registers[load.user] = Register(stores[load.user], forgets[load.user], history.boots, tombstone_ns)
        problem = registers[load.user].problem(load, started_ns.get(load.boot, 0))
        if problem is not None:
            verdict.problems[problem].append(load)


def _check_bytes(history: History, verdict: Verdict) -> None:
    right = {(store.user, store.version): store.bytes_hash for store in history.stores}
    for load in history.loads:
        if load.is_good and load.bytes_hash != right.get((load.user, load.version)):
            verdict.problems["wrong_bytes"].append(load)


def _check_generations(history: History, verdict: Verdict) -> None:
    """A generation is one entry: whoever finds it finds the same."""
    seen: dict[tuple[str, int], tuple[str, Version]] = {}
    for load in history.loads:
        content = load.user, load.version
        if seen.setdefault((load.boot, load.generation), content) != content:
            verdict.problems["two_contents_of_one_generation"].append(load)


def _check_injections(history: History, verdict: Verdict) -> None:
    by_entry: dict[tuple[str, int], list[Load]] = defaultdict(list)
    for load in history.loads:
        by_entry[load.boot, load.generation].append(load)
    for one in history.injections:
        found = [load for load in by_entry[one.boot, one.generation] if load.found_ns > one.done_ns]
        if not one.has_changed:
            verdict.counts["unharmed"] += any(load.is_good for load in found)
            continue
        believed = [load for load in found if load.is_good]
        if believed or any(_has_refused(load, one) for load in found):
            verdict.met[one.kind] += 1
            verdict.counts["undetected" if believed else "detected"] += 1
            verdict.problems["undetected"] += believed[:1]
    verdict.counts["offered"] = verdict.met.total()
    verdict.problems["false_alarm"] += _false_alarms(history)


def _has_refused(load: Load, injection: Injection) -> bool:
    # A load may also come to nothing because its process was stopped: that says nothing about the bytes.
    return load.ended_ns is not None and (load.has_failed_digest or injection.kind == STAMP)


def _false_alarms(history: History) -> list[Load]:
    """Loads that failed their digest though nobody had touched the entry."""
    touched: dict[tuple[str, int], int] = {}
    uncertain: dict[str, int] = {}
    for one in history.injections:
        if one.has_changed and one.kind != STAMP:
            key = one.boot, one.generation
            touched[key] = min(one.begun_ns, touched.get(key, NEVER_NS))
        if not one.is_certain:
            uncertain[one.boot] = min(one.begun_ns, uncertain.get(one.boot, NEVER_NS))
    return [
        load
        for load in history.loads
        if load.has_failed_digest
        and load.ended_ns is not None
        and load.ended_ns < min(touched.get((load.boot, load.generation), NEVER_NS), uncertain.get(load.boot, NEVER_NS))
    ]


def _latest_end_ns(store: Store) -> int:
    return store.ended_ns if store.ended_ns is not None and store.is_stored else NEVER_NS


def _replaces(store: Store, version: Version) -> bool:
    return store.is_stored and store.version != version and store.version.tokens >= version.tokens
