"""Probes of one mode at one length and rate, taken together; and which of a run's probes those are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.load.schema import MODES, RATE, RELAY_DRAM, Probe, Run, Search

Bounds = tuple[float | None, float | None]
ALL = "ALL"


@dataclass(frozen=True, slots=True)
class Pool:
    """Undisturbed probes; counts are added, milliseconds averaged by requests."""

    mode: str
    tokens: int
    rate_hz: float
    probes: Sequence[Probe]

    def requests(self) -> int:
        """Counted, all together."""
        return self.total("requests")

    def total(self, name: str) -> int:
        """Of a count that probes may have."""
        return sum(int(probe.get(name) or 0) for probe in self.probes)  # type: ignore[call-overload]

    def worst_late(self) -> int:
        """Of the more often missed limit."""
        return max(self.total("late"), self.total("end_to_end_late"))

    def errors(self) -> int:
        """Of any name."""
        return sum(sum(probe.get("errors", {}).values()) for probe in self.probes)

    def counts(self, name: str) -> dict[str, int]:
        """Of a map of counts: tiers, decisions, fallbacks, production."""
        found: Counter[str] = Counter()
        for probe in self.probes:
            found.update(probe.get(name, {}))  # type: ignore[call-overload]
        return dict(found)

    def shares(self, name: str) -> dict[str, float] | None:
        """The same as shares of their sum; None if nothing was counted."""
        counts = self.counts(name)
        whole = sum(counts.values())
        return {key: count / whole for key, count in counts.items()} if whole else None

    def share(self, part: str, whole: str) -> float | None:
        """Of two counts; None if there was nothing, or if the part was not counted."""
        is_counted = any(part in probe for probe in self.probes)
        return self.total(part) / self.total(whole) if is_counted and self.total(whole) else None

    def cpu_share(self) -> dict[str, float]:
        """Cores of each process."""
        return self._mean({index: probe.get("cpu_share", {}) for index, probe in enumerate(self.probes)})

    def stages_ms(self) -> dict[str, float]:
        """Mean of each stage over all tiers."""
        stages = {index: probe.get("stages_ms", {}).get(ALL, {}) for index, probe in enumerate(self.probes)}
        means = {
            index: {name: one["mean"] for name, one in found.items() if "mean" in one}
            for index, found in stages.items()
        }
        return self._mean(means)

    def achieved_hz(self) -> float | None:
        """Requests over the seconds they took."""
        found = [probe["achieved_hz"] for probe in self.probes if probe.get("achieved_hz")]
        return sum(found) / len(found) if found else None

    def _mean(self, values: dict[int, dict[str, float]]) -> dict[str, float]:
        found: dict[str, float] = {}
        for name in dict.fromkeys(name for one in values.values() for name in one):
            having = [index for index, one in values.items() if name in one]
            weights = [max(1, self.probes[index].get("requests", 0)) for index in having]
            weighted = sum(weight * values[index][name] for weight, index in zip(weights, having, strict=True))
            found[name] = weighted / sum(weights)
        return found


def pools(probes: Iterable[Probe]) -> list[Pool]:
    """By mode, length and rate, in the order they were first probed; disturbed ones are left out."""
    found: dict[tuple[str, int, float], list[Probe]] = {}
    for probe in probes:
        if not probe.get("is_disturbed"):
            found.setdefault((probe["mode"], probe["tokens"], probe["rate_hz"]), []).append(probe)
    return [Pool(*key, probes) for key, probes in found.items()]


SAFE = "safe"
"""Histories that are ranked in full well within the limit: whoever pre-infers those, wastes it."""
SEARCHED = ("search_l0", "search_l1", "length", "sweep")
"""Purposes with the profile's own traffic; the others change it, so that their counts are not mixed with these."""


def plain_pools(run: Run) -> list[Pool]:
    """Of the profile's own traffic."""
    return pools(probe for probe in run.get("probes", []) if probe.get("purpose") in SEARCHED)


def compared_pools(run: Run) -> list[Pool]:
    """Plain ones, and those of short histories: their traffic is the profile's too."""
    return pools(probe for probe in run.get("probes", []) if probe.get("purpose") in (*SEARCHED, SAFE))


def searched_lengths(run: Run) -> list[int]:
    """Histories at which rates were searched for, in tokens."""
    lengths = run.get("lengths", {})
    found = {search["at_tokens"] for search in run.get("searches", []) if search.get("kind") == RATE}
    return sorted(found | {lengths[name] for name in ("l0_tokens", "l1_tokens") if name in lengths})  # type: ignore[literal-required]


def search_of(run: Run, mode: str, kind: str, tokens: int | None = None) -> Search | None:
    """The last one of that mode; a rate search is of one length."""
    found = [
        search
        for search in run.get("searches", [])
        if search.get("mode") == mode and search.get("kind") == kind
        if kind != RATE or (tokens is not None and search.get("at_tokens") == tokens)
    ]
    return found[-1] if found else None


def slo_point(run: Run, mode: str, tokens: int | None) -> Pool | None:
    """The probes of a mode at the rate its search found for that length."""
    search = search_of(run, mode, RATE, tokens)
    if not search or search.get("value") is None:
        return None
    return _at(run, mode, tokens, search["value"])


def operating_points(run: Run) -> list[Pool]:
    """Of every mode and length: at its own rate by search, else at relay_dram's."""
    found = []
    for tokens in searched_lengths(run):
        for mode in MODES:
            reference = search_of(run, RELAY_DRAM, RATE, tokens)
            point = slo_point(run, mode, tokens)
            if point is None and reference:
                point = _at(run, mode, tokens, reference.get("value"))
            if point is not None:
                found.append(point)
    return found


def _at(run: Run, mode: str, tokens: int | None, rate_hz: float | None) -> Pool | None:
    wanted = (mode, tokens, rate_hz)
    return next((pool for pool in plain_pools(run) if (pool.mode, pool.tokens, pool.rate_hz) == wanted), None)
