"""The suite can fail: what a caller can get wrong moves the scores by far more than is allowed.

A wrong psi that scores within the tolerance would make every other check worthless, and it
would be served: each of these is a mistake that a ranker could make, made on purpose.

Shapes: T tokens, C candidates, D hidden width.

Source: design, section 4 (identity and exactness), conditions 2 and 4, and invariant I5.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from relaygr.behaviours.columns import Behaviours
from relaygr.model.conformance.bench import Bench
from relaygr.model.conformance.subject import DIFFERENCE_MIN, Subject
from relaygr.model.error import logit_error
from relaygr.model.interface import PageView
from relaygr.model.run import RankInputs, run

SHIFT = 7
"""Behaviours that an anchor is moved by."""


def check_another_psi_shows(subject: Subject, seed: int) -> None:
    """Another user's psi moves the logits by 100 times the tolerance."""
    bench = Bench(subject, seed)
    inputs, other = bench.inputs(bench.long), bench.inputs(bench.long)
    right_CK, wrong_CK = bench.rank(inputs, bench.produce(inputs)), bench.rank(inputs, bench.produce(other))
    _assert_shows(bench, inputs, right_CK, wrong_CK, "another user's psi")


def check_torn_psi_shows(subject: Subject, seed: int) -> None:
    """One page of another user's among three moves the logits."""
    bench = Bench(subject, seed)
    inputs, other = bench.inputs(bench.long), bench.inputs(bench.long)
    psi, foreign = bench.produce(inputs), bench.produce(other)
    right_CK = bench.rank(inputs, psi)
    for place in range(2):
        ids = list(psi.page_ids)
        ids[place] = foreign.page_ids[place]
        torn_CK = bench.rank(inputs, replace(psi, page_ids=tuple(ids)))
        _assert_shows(bench, inputs, right_CK, torn_CK, f"a foreign page {place}")


def check_wrong_count_shows(subject: Subject, seed: int) -> None:
    """A psi said to hold one token more or less than it does moves the logits.

    By how much depends on what that one token is; so of several histories, one must show it.
    """
    bench = Bench(subject, seed)
    errors, least = [], DIFFERENCE_MIN
    for count in (5, 6, 7, 8):
        inputs, pages = bench.inputs(count), bench.pages(count + 1)
        right_CK = bench.rank(inputs, bench.produce(inputs))
        # A neighbour's K/V is what lies behind a psi that is one token short.
        bench.produce(bench.inputs(count), on=pages)
        short = bench.produce(inputs, end_token=count, on=pages)
        long_CK = _rank_without_the_rest(bench, inputs, replace(short, token_count=count + 1))
        whole = bench.produce(inputs, on=pages)
        short_CK = _rank_without_the_rest(bench, inputs, replace(whole, token_count=count))
        errors.append((logit_error(long_CK, right_CK), logit_error(short_CK, right_CK)))
        least = max(least, bench.allowed(inputs, bench.full(inputs)))
    for error, what in zip(map(max, *errors), ("high", "low"), strict=True):
        assert not error < least, f"a count one too {what} moves the logits by {error:.3g} only, must be {least:.3g}"


def check_moved_anchor_shows(subject: Subject, seed: int) -> None:
    """A psi from an anchor that has moved since, as long as what is asked for, moves the logits."""
    bench = Bench(subject, seed)
    log = bench.behaviours(bench.long + SHIFT)
    inputs = _after(bench, log.slice(SHIFT, len(log)))
    old = bench.produce(replace(inputs, prefix=log.slice(0, bench.long)))
    right_CK = bench.rank(inputs, bench.produce(inputs))
    _assert_shows(bench, inputs, right_CK, bench.rank(inputs, old), f"an anchor {SHIFT} behaviours earlier")


def check_wrong_positions_show(subject: Subject, seed: int) -> None:
    """The right behaviours at places counted from another anchor move the logits, if places are meant to matter."""
    bench = Bench(subject, seed)
    log = bench.behaviours(20 + SHIFT)
    inputs = _after(bench, log.slice(SHIFT, len(log)))
    parts = [subject.model.embed_prefix(inputs.profile, log, *ends) for ends in ((0, 1), (1 + SHIFT, 1 + len(log)))]
    pages = bench.pages(inputs.prefix_tokens)
    run(subject.model.extend(torch.cat(parts), 0, None, pages))
    misplaced_CK = bench.rank(inputs, replace(pages, token_count=inputs.prefix_tokens))
    if subject.reads_positions:
        right_CK = bench.rank(inputs, bench.produce(inputs))
        _assert_shows(bench, inputs, right_CK, misplaced_CK, f"positions {SHIFT} too high")
    else:
        bench.assert_equal(misplaced_CK, inputs, "positions are said not to matter")


def check_another_request_time_shows(subject: Subject, seed: int) -> None:
    """Scores of another request time are other scores, if that is meant to matter."""
    bench = Bench(subject, seed)
    inputs = bench.inputs(bench.page // 4)
    psi = bench.produce(inputs)
    for later_s in (10**5, 10**7):
        later_CK = bench.rank(replace(inputs, request_time_s=inputs.request_time_s + later_s), psi)
        if subject.reads_request_time:
            _assert_shows(bench, inputs, bench.rank(inputs, psi), later_CK, f"a request {later_s} s later")
        else:
            bench.assert_equal(later_CK, inputs, "the request's time is said not to matter")


def _assert_shows(bench: Bench, inputs: RankInputs, right_CK: Tensor, wrong_CK: Tensor, what: str) -> None:
    error, least = logit_error(wrong_CK, right_CK), max(DIFFERENCE_MIN, bench.allowed(inputs, bench.full(inputs)))
    # Not a number is no answer either: it would be seen by whoever looks at the scores.
    assert not error < least, f"{what} moves the logits by {error:.3g} only, must be {least:.3g}"


def _after(bench: Bench, prefix: Behaviours) -> RankInputs:
    """A request that follows this prefix."""
    last_s = int(prefix.timestamps_s[-1])
    delta = bench.behaviours(5, last_s)
    return replace(bench.inputs(0), prefix=prefix, delta=delta, request_time_s=int(delta.timestamps_s[-1]) + 60)


def _rank_without_the_rest(bench: Bench, inputs: RankInputs, psi: PageView) -> Tensor:
    """Ranks as if psi were the whole prefix, whatever its count says."""
    last_s = int(inputs.prefix.timestamps_s[-1])
    rest = (inputs.delta, inputs.cross, inputs.candidates, inputs.request_time_s)
    x_TD, x_CD = bench.model.embed_suffix(len(inputs.prefix), last_s, *rest)
    return bench.model.head(run(bench.model.extend(torch.cat([x_TD, x_CD]), len(x_CD), psi, None)))
