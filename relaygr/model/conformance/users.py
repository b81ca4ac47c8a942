"""Users side by side in one arena: neither the order of their work nor where it is interrupted shows.

Source: design, section 3 (ranker), invariant I5.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from relaygr.model.conformance.bench import Bench
from relaygr.model.conformance.subject import Subject
from relaygr.model.interface import PageView
from relaygr.model.run import RankInputs, append, pre_infer, rank_on_psi, scratch_pages

Result = TypeVar("Result")


def check_interleaved_runs(subject: Subject, seed: int) -> None:
    """A model keeps no state of a request: ranks that take turns score as they do alone, bit for bit."""
    bench = Bench(subject, seed)
    requests = [bench.inputs(bench.page + 2), bench.inputs(40), bench.inputs(bench.long, 9, 3)]
    psis = [bench.produce(inputs) for inputs in requests]
    pairs = list(zip(requests, psis, strict=True))
    alone = [bench.rank(*pair) for pair in pairs]
    for _ in range(3):
        results, turns = _interleaved(bench, [rank_on_psi(subject.model, *pair) for pair in pairs])
        assert turns >= len(pairs), "extend must yield after each layer"
        for result, wanted in zip(results, alone, strict=True):
            assert torch.equal(result, wanted), "interleaving shows"


def check_order_of_users(subject: Subject, seed: int) -> None:
    """Users whose pre-infers, appends and ranks mix in any order score as by full inference.

    One of them is ranked on the psi that another of his requests is appending to: who
    leased the shorter psi sees none of what is written behind it.
    """
    bench = Bench(subject, seed)
    requests = [bench.inputs(count) for count in (bench.page + 2, 3, bench.long, 0)]
    growing = bench.inputs(bench.long)
    for _ in range(2):
        held = bench.produce(growing, end_token=bench.page + 3)
        earlier = replace(growing, prefix=growing.prefix.slice(0, bench.page + 2))
        pages = [bench.pages(inputs.prefix_tokens) for inputs in requests]
        # More room than any needs: each ranks in micro-batches, too.
        scratch = [bench.pages(2 * bench.page) for _ in requests]
        works = [_relay(bench, *each) for each in zip(requests, pages, scratch, strict=True)]
        works += [_grow(bench, growing, held), rank_on_psi(subject.model, earlier, held)]
        order = [int(place) for place in bench.rng.permutation(len(works))]
        results, _ = _interleaved(bench, [works[place] for place in order])
        asked = [*requests, growing, earlier]
        for place, result in zip(order, results, strict=True):
            bench.assert_equal(result, asked[place], f"user {place}, started in order {order}")
        for view in (held, *pages, *scratch):
            bench.give_back(view)


def _relay(bench: Bench, inputs: RankInputs, pages: PageView, scratch: PageView) -> Generator[None, None, torch.Tensor]:
    """All of one user's work: pre-infer, then rank in micro-batches."""
    chunk_tokens = int(bench.rng.integers(30, 2 * bench.page))
    psi = yield from pre_infer(bench.model, inputs.profile, inputs.prefix, pages, chunk_tokens=chunk_tokens)
    assert scratch_pages(bench.model, inputs, psi) <= len(scratch.page_ids)
    return (yield from rank_on_psi(bench.model, inputs, psi, micro_batch=7, scratch=scratch))


def _grow(bench: Bench, inputs: RankInputs, psi: PageView) -> Generator[None, None, torch.Tensor]:
    """A returning user's work: append, then rank."""
    psi = yield from append(bench.model, inputs.profile, inputs.prefix, psi, chunk_tokens=50)
    return (yield from rank_on_psi(bench.model, inputs, psi))


def _interleaved(bench: Bench, works: Sequence[Generator[None, None, Result]]) -> tuple[list[Result], int]:
    """Drive all to their ends, each step one of them by chance; their results and how often one gave way."""
    running, results, turns = dict(enumerate(works)), {}, 0
    while running:
        place = int(bench.rng.choice(list(running)))
        try:
            next(running[place])
            turns += 1
        except StopIteration as stop:
            results[place] = stop.value
            del running[place]
    return [results[place] for place in range(len(works))], turns
