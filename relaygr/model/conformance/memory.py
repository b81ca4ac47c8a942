"""Whatever happens to pages, scores stay those of full inference, and nobody else's pages change.

A psi is its bytes on its pages and its count, and nothing besides: where the pages are,
what else was on them, and whether they have been in the DRAM tier does not matter.

Source: design, section 3 (ranker, expander) and invariant I5.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from relaygr.model.conformance.bench import Bench
from relaygr.model.conformance.dram import Dram
from relaygr.model.conformance.subject import Subject
from relaygr.model.interface import PageView
from relaygr.model.run import append, rank_on_psi, run, scratch_pages


def check_pages_in_any_order(subject: Subject, seed: int) -> None:
    """Psi moved byte for byte to other pages, in any order of ids, serves as before and can be appended to."""
    bench = Bench(subject, seed)
    inputs = bench.inputs(bench.long)
    psi = bench.produce(inputs, end_token=bench.long - 9)
    for way in ("rising", "falling"):
        ids = sorted(bench.pages(inputs.prefix_tokens).page_ids, reverse=way == "falling")
        moved = replace(psi, page_ids=tuple(ids))
        for source, target in zip(psi.page_ids, ids, strict=True):
            bench.arena[target] = bench.arena[source]
        bench.wipe(psi.page_ids)
        bench.assert_scores(inputs, moved, f"on {way} page ids")
        whole = run(append(subject.model, inputs.profile, inputs.prefix, moved, chunk_tokens=bench.page))
        bench.assert_scores(inputs, whole, f"appended to, on {way} page ids")
        psi = moved


def check_tail_garbage_is_never_read(subject: Subject, seed: int) -> None:
    """A page's slots beyond the count may hold NaN: they take no part in any sum, not even times zero."""
    bench = Bench(subject, seed)
    for tokens in (1, 2, 3, bench.page - 1, bench.page + 1, bench.page + 5):
        inputs = bench.inputs(tokens - 1)
        psi = bench.pages(2 * bench.page)
        bench.wipe(psi.page_ids)
        bench.assert_scores(inputs, bench.produce(inputs, on=psi), f"{tokens} tokens, and NaN behind them")
        bench.give_back(psi)


def check_stale_slots_are_never_read(subject: Subject, seed: int) -> None:
    """What earlier tenants of a page left beyond token_count does not show."""
    bench = Bench(subject, seed)
    earlier, inputs = bench.inputs(bench.long), bench.inputs(bench.page + 22)
    pages = replace(bench.produce(earlier), token_count=0)
    bench.assert_scores(inputs, bench.produce(inputs, 40, on=pages), "on another user's pages")


def check_reused_pages(subject: Subject, seed: int) -> None:
    """Users that come and go on the same pages, each in another order, never meet."""
    bench = Bench(subject, seed)
    requests = [bench.inputs(count) for count in (bench.long, bench.page, bench.long - 7)]
    ids = bench.pages(bench.long + 1).page_ids
    for turn in range(5):
        inputs = requests[turn % len(requests)]
        on = PageView(bench.arena, ids[turn % 2 :] + ids[: turn % 2], 0)
        bench.assert_scores(inputs, bench.produce(inputs, on=on), f"user {turn % len(requests)}, turn {turn}")


def check_evict_and_recompute(subject: Subject, seed: int) -> None:
    """A psi that was evicted and whose pages went to others is made again, elsewhere, and serves as before."""
    bench = Bench(subject, seed)
    inputs, other = bench.inputs(bench.long), bench.inputs(bench.long)
    first = bench.produce(inputs)
    before_CK = bench.rank(inputs, first)
    bench.produce(other, on=replace(first, token_count=0))
    for chunk_tokens in (bench.page, bench.page // 2 + 1):
        again = bench.produce(inputs, chunk_tokens)
        bench.assert_scores(inputs, again, f"recomputed in chunks of {chunk_tokens}")
    bench.assert_equal(before_CK, inputs, "before the eviction")


def check_spill_and_reload(subject: Subject, seed: int) -> None:
    """Psi that went through the shared-memory segment to other pages serves, and can be appended to."""
    bench = Bench(subject, seed)
    inputs = bench.inputs(bench.long)
    page_bytes = bench.arena[0].nbytes
    with Dram(page_bytes, pages_max=-(-inputs.prefix_tokens // bench.page)) as dram:
        for tokens in (1, bench.page, bench.page + 3, inputs.prefix_tokens):
            psi = bench.produce(inputs, end_token=tokens)
            used = -(-tokens // bench.page)
            spilled = dram.store(bench.arena, psi.page_ids[:used], tokens)
            bench.wipe(psi.page_ids)
            back = bench.pages(inputs.prefix_tokens)
            assert dram.load(spilled, bench.arena, back.page_ids[:used]), "the segment gave back other bytes"
            back = replace(back, token_count=tokens)
            bench.assert_scores(inputs, back, f"{tokens} tokens, reloaded")
            whole = run(append(subject.model, inputs.profile, inputs.prefix, back, chunk_tokens=bench.page))
            bench.assert_scores(inputs, whole, f"{tokens} tokens, reloaded and appended to")
            bench.give_back(psi)
            bench.give_back(back)


def check_writes_only_where_told(subject: Subject, seed: int) -> None:
    """Ranking writes nothing, in micro-batches its scratch pages only; pre-infer writes its own pages only."""
    bench = Bench(subject, seed)
    inputs, other = bench.inputs(bench.long), bench.inputs(bench.long)
    psi = bench.produce(inputs)
    before = _bits(bench.arena)
    bench.rank(inputs, psi)
    assert torch.equal(before, _bits(bench.arena)), "a rank wrote to the arena"
    scratch = bench.pages(scratch_pages(subject.model, inputs, psi) * bench.page)
    run(rank_on_psi(subject.model, inputs, psi, micro_batch=5, scratch=scratch))
    _assert_kept(bench, before, scratch, "a rank in micro-batches wrote to pages that are not its scratch")
    before = _bits(bench.arena)
    mine = bench.produce(other)
    _assert_kept(bench, before, mine, "a pre-infer wrote to pages that are not its own")


def _assert_kept(bench: Bench, before: Tensor, written: PageView, complaint: str) -> None:
    others = [page for page in range(len(before)) if page not in written.page_ids]
    assert torch.equal(before[others], _bits(bench.arena)[others]), complaint


def _bits(arena: Tensor) -> Tensor:
    # NaN does not equal itself; its bits do.
    return arena.view(torch.uint8).clone()
