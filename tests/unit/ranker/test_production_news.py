"""When the machine hears of a production's chunks: now and then while it runs, and of all when it is ended early."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from services.ranker.core.jobs import TELL_NS
from services.ranker.production import _Run
from services.ranker.work import Chunk

WHOLE = 1024


def run_of(*ends_ns: int) -> tuple[_Run, list[int]]:
    """A run whose chunks of 256 tokens ended then, and those of which it told."""
    effect: Any = SimpleNamespace(to_tokens=WHOLE)
    span: Any = None
    run, told = _Run(effect, span, 0, 0), []
    for number, end_ns in enumerate(ends_ns, 1):
        chunk = Chunk(256 * number, 0 if number == 1 else ends_ns[number - 2], end_ns)
        if run.has_news(chunk):
            told.append(chunk.tokens)
    return run, told


def test_chunks_in_quick_succession_are_told_once_in_a_while() -> None:
    step_ns = TELL_NS // 2
    _, told = run_of(step_ns, 2 * step_ns, 3 * step_ns)
    assert told == [512]


def test_the_last_chunk_is_told_by_the_end_of_the_job_alone() -> None:
    run, told = run_of(*(number * 2 * TELL_NS for number in range(1, 5)))
    assert told == [256, 512, 768]
    assert run.untold_tokens == 0


def test_a_production_that_is_ended_early_has_untold_chunks_to_keep() -> None:
    run, told = run_of(1, 2, 3)
    assert told == []
    assert run.untold_tokens == 768


def test_a_production_that_told_all_it_has_or_has_nothing_keeps_silent() -> None:
    assert run_of()[0].untold_tokens == 0
    run, told = run_of(2 * TELL_NS)
    assert told == [256]
    assert run.untold_tokens == 0
