"""Every way to split a history between psi and rank, and to make psi, gives the scores of full inference.

Source: design, sections 3 (ranker) and 4 (identity and exactness).
"""

from __future__ import annotations

from dataclasses import replace

import torch

from relaygr.model.conformance.bench import Bench
from relaygr.model.conformance.subject import Subject
from relaygr.model.interface import PageView
from relaygr.model.run import RankInputs, append, pre_infer_chunk, run


def check_relay_equals_full(subject: Subject, seed: int) -> None:
    """Rank on psi equals full inference, for prefixes around page edges and psi on scattered pages."""
    bench = Bench(subject, seed)
    for prefix_count in (0, 1, bench.page - 2, bench.page - 1, bench.page, bench.long):
        inputs = bench.inputs(prefix_count)
        psi = bench.produce(inputs)
        bench.assert_scores(inputs, psi, f"{prefix_count} behaviours")
        nothing_more = bench.inputs(0, 0, 1, 0)
        last_s = int(inputs.prefix.timestamps_s[-1]) if prefix_count else nothing_more.request_time_s
        bare = replace(nothing_more, profile=inputs.profile, prefix=inputs.prefix, request_time_s=last_s + 5)
        bench.assert_scores(bare, psi, f"{prefix_count} behaviours, one candidate and no delta")


def check_any_chunking(subject: Subject, seed: int) -> None:
    """How pre-infer is cut into passes does not show, aligned to pages or not."""
    bench = Bench(subject, seed)
    inputs = bench.inputs(bench.page * 3 // 2 + 8)
    page, tokens = bench.page, inputs.prefix_tokens
    for chunk_tokens in (17, page - 1, page, page + 1, tokens):
        psi = bench.produce(inputs, chunk_tokens)
        bench.assert_scores(inputs, psi, f"chunks of {chunk_tokens}")
        bench.give_back(psi)
    for _ in range(3):
        cuts = bench.rng.choice(range(1, tokens), bench.rng.integers(1, 6), replace=False)
        ends = sorted({*(int(cut) for cut in cuts), tokens})
        psi = bench.pages(tokens)
        for end in ends:
            psi = run(pre_infer_chunk(subject.model, inputs.profile, inputs.prefix, psi, end))
        bench.assert_scores(inputs, psi, f"chunks that end at {ends}")
        bench.give_back(psi)
    short = bench.inputs(9)
    bench.assert_scores(short, bench.produce(short, 1), "chunks of 1")


def check_append_equals_one_pass(subject: Subject, seed: int) -> None:
    """A psi extended by new behaviours equals one made at once, and its old tokens stay bit for bit."""
    bench = Bench(subject, seed)
    inputs, page = bench.inputs(bench.long), bench.page
    inside = int(bench.rng.integers(2, page))
    for first_tokens in (1, 2, inside, page - 1, page, page + 1, 2 * page, bench.long):
        psi = bench.produce(inputs, end_token=first_tokens)
        earlier = replace(inputs, prefix=inputs.prefix.slice(0, first_tokens - 1))
        before_CK = bench.rank(earlier, psi)
        whole = _appended(bench, inputs, psi, chunk_tokens=64)
        bench.assert_scores(inputs, whole, f"append after {first_tokens} tokens")
        same = torch.equal(before_CK, bench.rank(earlier, psi))
        assert same, f"an append after {first_tokens} tokens changed the scores of those who still read the old ones"
        bench.give_back(whole)


def check_token_by_token_over_a_page_edge(subject: Subject, seed: int) -> None:
    """Appends of one token each, across the end of a page: every psi on the way serves."""
    bench = Bench(subject, seed)
    inputs, page = bench.inputs(bench.page + 4), bench.page
    psi = bench.produce(inputs, end_token=page - 3)
    for tokens in range(page - 2, page + 4):
        now = replace(inputs, prefix=inputs.prefix.slice(0, tokens - 1))
        psi = _appended(bench, now, psi, chunk_tokens=page)
        bench.assert_scores(now, psi, f"{tokens} tokens")
    bench.assert_scores(inputs, psi, "the last tokens left to the rank")


def check_truncated_psi(subject: Subject, seed: int) -> None:
    """A psi of any true prefix serves: the rest is inferred inside the rank."""
    bench = Bench(subject, seed)
    inputs = bench.inputs(bench.long)
    psi, page = bench.produce(inputs), bench.page
    for tokens in (0, 1, page - 1, page, page + 1, int(bench.rng.integers(2, bench.long)), bench.long, bench.long + 1):
        bench.assert_scores(inputs, replace(psi, token_count=tokens), f"first {tokens} tokens")


def _appended(bench: Bench, inputs: RankInputs, psi: PageView, chunk_tokens: int) -> PageView:
    return run(append(bench.model, inputs.profile, inputs.prefix, psi, chunk_tokens=chunk_tokens))
