"""What the figures are held to, and whether each is met.

A target is of one thread and 4096 tokens unless it says otherwise. The verdict is "met",
"short" or "not measured"; a goal is what one would like beyond it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bench.engine.expect import PREEMPT_WAIT_MS, RELOAD_OF_MEMCPY, expected
from bench.engine.shapes import LARGE, NATIVE, SMALL, TORCH
from bench.engine.statistics import rounded

TOKENS, THREADS = 4096, 1
GROWTH_MAX = 2.5
"""Memory for twice the tokens: 2 when linear, 4 when quadratic; what is fixed only lowers it."""
FAULTS_MAX = 1.0
RSS_GROWTH_KB_MAX = 64
"""Over 50 requests; a few pages of bookkeeping, no tensor."""

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One figure beside its target."""

    figure: str
    case: str
    measured: float | None
    expected: float | None
    target: float
    goal: float | None
    is_floor: bool
    """The figure should be at least the target; otherwise at most."""
    unit: str = ""
    by_count: float | None = None
    """What counted operations alone give: a bound for a speed-up, the ratio at equal efficiency for two jobs."""

    @property
    def verdict(self) -> str:
        """met, short or not measured."""
        if self.measured is None:
            return "not measured"
        return "met" if (self.measured >= self.target) == self.is_floor or self.measured == self.target else "short"

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the verdict."""
        return asdict(self) | {"verdict": self.verdict}


def verdicts(document: Document) -> list[Verdict]:
    """All targets over one run."""
    return [*_peak_shares(document), *_ratios(document), *_machine_wide(document), *_memory(document)]


def case_of(document: Document, model: str, tokens: int, threads: int, kernel: str) -> Mapping[str, Any]:
    """A case's figures; empty when it was not measured."""
    wanted = (model, tokens, threads, kernel)
    found = (one for one in document["cases"] if (one["model"], one["tokens"], one["threads"], one["kernel"]) == wanted)
    return next(found, {})


def rates_of(document: Document, threads: int) -> Mapping[str, Any] | None:
    """The machine's rates with so many threads."""
    return next((rates for rates in document["rates"] if rates["threads"] == threads), None)


def _peak_shares(document: Document) -> Iterator[Verdict]:
    limits = {
        (NATIVE, LARGE): (0.60, 0.80),
        (NATIVE, SMALL): (0.45, 0.65),
        (TORCH, LARGE): (0.30, None),
        (TORCH, SMALL): (0.17, None),
    }
    for (kernel, model), (target, goal) in limits.items():
        yield _of_case(document, "prefix_of_peak", model, kernel, target, goal, is_floor=True)
    for kernel, target in ((NATIVE, 10.0), (TORCH, 5.0)):
        for model in (LARGE, SMALL):
            yield _of_case(document, "speedup_dense", model, kernel, target, None, is_floor=True)


def _ratios(document: Document) -> Iterator[Verdict]:
    for model in (LARGE, SMALL):
        yield _of_case(document, "rank512_of_full", model, NATIVE, 0.18, None, is_floor=False)
        yield _of_case(document, "append64_of_prefix", model, NATIVE, 0.06, None, is_floor=False)


def _machine_wide(document: Document) -> Iterator[Verdict]:
    reload_gbps, memcpy_gbps = document.get("reload_gbps"), document.get("memcpy_gbps")
    share = rounded(reload_gbps / memcpy_gbps) if reload_gbps and memcpy_gbps else None
    wait_ms = document.get("preempt_wait_p99_ms")
    yield Verdict("preempt_wait_p99_ms", "", wait_ms, PREEMPT_WAIT_MS, 5.0, None, is_floor=False, unit="ms")
    yield Verdict("reload_of_memcpy", "", share, RELOAD_OF_MEMCPY, 0.55, 0.8, is_floor=True)


def _memory(document: Document) -> Iterator[Verdict]:
    kernel = NATIVE if any(one["kernel"] == NATIVE for one in document["cases"]) else TORCH
    for model in (LARGE, SMALL):
        name = f"{model}, {kernel}, 1 thread"
        short, long = (case_of(document, model, tokens, THREADS, kernel) for tokens in (4096, 8192))
        growth = rounded(long["added_rss_mb"] / short["added_rss_mb"]) if short and long else None
        yield Verdict("memory_8192_of_4096", name, growth, 2.0, GROWTH_MAX, None, is_floor=False)
        for figure, most in (
            ("minflt_per_rank", FAULTS_MAX),
            ("minflt_per_prefix", FAULTS_MAX),
            ("rss_growth_kb", RSS_GROWTH_KB_MAX),
        ):
            measured, tokens = _longest(document, model, kernel, figure)
            yield Verdict(figure, f"{name}, {tokens} tokens", measured, 0.0, most, None, is_floor=False)


def _longest(document: Document, model: str, kernel: str, figure: str) -> tuple[float | None, int]:
    """A figure at the greatest length that has it."""
    cases = [one for one in document["cases"] if (one["model"], one["threads"], one["kernel"]) == (model, 1, kernel)]
    found = [(one["tokens"], one[figure]) for one in cases if one.get(figure) is not None]
    tokens, value = max(found, default=(TOKENS, None))
    return value, tokens


def _of_case(
    document: Document, figure: str, model: str, kernel: str, target: float, goal: float | None, *, is_floor: bool
) -> Verdict:
    rates = rates_of(document, THREADS)
    sketched = rounded(expected(model, TOKENS, kernel, rates)[figure]) if rates else None
    case = case_of(document, model, TOKENS, THREADS, kernel)
    name = f"{model}, {kernel}, {TOKENS} tokens"
    by_count = case.get(f"{figure}_by_count")
    return Verdict(figure, name, case.get(figure), sketched, target, goal, is_floor=is_floor, by_count=by_count)
