"""What may change a candidate's score: prefix, delta, itself and the request's time; never another candidate.

Source: design, section 4, conditions 2 and 3.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch

from relaygr.model.conformance.bench import Bench, with_candidates
from relaygr.model.conformance.subject import Subject
from relaygr.model.error import logit_error
from relaygr.model.interface import PageView
from relaygr.model.run import RankInputs, rank_on_psi, run, scratch_pages


def check_micro_batches(subject: Subject, seed: int) -> None:
    """Candidates scored in groups get the scores they get at once: over whole psi, a part of it, and none."""
    bench = Bench(subject, seed)
    count = 13
    for prefix_count, delta_count in ((bench.page + 22, 5), (bench.page - 1, 4), (bench.page + 6, 0), (0, 0)):
        inputs = bench.inputs(prefix_count, delta_count, count, 2 if delta_count else 0)
        whole = bench.produce(inputs)
        part = replace(whole, token_count=1 + prefix_count // 2)
        for psi, size in ((whole, 1), (whole, 5), (whole, 12), (part, 5), (None, 6)):
            scratch = bench.pages(scratch_pages(subject.model, inputs, psi) * bench.page)
            logits_CK = run(rank_on_psi(subject.model, inputs, psi, micro_batch=size, scratch=scratch))
            covered = psi.token_count if psi else 0
            bench.assert_equal(logits_CK, inputs, f"groups of {size} on {covered} of {inputs.prefix_tokens} tokens")
            bench.give_back(scratch)
        bench.give_back(whole)


def check_candidate_order(subject: Subject, seed: int) -> None:
    """A candidate's score does not depend on its place."""
    bench = Bench(subject, seed)
    inputs = bench.inputs(bench.page + 22)
    psi, count = bench.produce(inputs), len(inputs.candidates)
    _assert_same_scores(bench, inputs, psi, range(count)[::-1], "reversed")
    for _ in range(2):
        _assert_same_scores(bench, inputs, psi, bench.rng.permutation(count), "permuted")


def check_other_candidates_do_not_show(subject: Subject, seed: int) -> None:
    """A candidate's score does not depend on who else is asked for: fewer, the same one twice, or nobody else."""
    bench = Bench(subject, seed)
    inputs = bench.inputs(bench.page + 22)
    psi, count = bench.produce(inputs), len(inputs.candidates)
    _assert_same_scores(bench, inputs, psi, bench.rng.permutation(count)[: count // 2], "half of them removed")
    _assert_same_scores(bench, inputs, psi, bench.rng.integers(0, count, 2 * count), "some twice")
    _assert_same_scores(bench, inputs, psi, [0] * count, "the same one over and over")
    for place in range(0, count, 4):
        _assert_same_scores(bench, inputs, psi, [place], "alone")


def check_request_time(subject: Subject, seed: int) -> None:
    """The request's time may change candidates' rows and nothing else: one psi serves requests of any time."""
    bench = Bench(subject, seed)
    inputs = bench.inputs(bench.page + 22)
    times_s = [inputs.request_time_s + later_s for later_s in (0, 10**7, 5)]
    psi = bench.produce(inputs)
    deltas = []
    for time_s in times_s:
        now = replace(inputs, request_time_s=time_s)
        bench.assert_scores(now, psi, f"{time_s - inputs.request_time_s} s later")
        last_s = int(inputs.prefix.timestamps_s[-1])
        rest = (inputs.delta, inputs.cross, inputs.candidates, time_s)
        deltas.append(subject.model.embed_suffix(len(inputs.prefix), last_s, *rest)[0])
        made_since = bench.produce(inputs)
        bench.assert_scores(inputs, made_since, f"psi made after a rank {time_s - inputs.request_time_s} s later")
        bench.give_back(made_since)
    for delta_TD in deltas[1:]:
        assert torch.equal(delta_TD, deltas[0]), "the request's time shows in the delta's rows"


def _assert_same_scores(bench: Bench, inputs: RankInputs, psi: PageView, places: Iterable[int], what: str) -> None:
    """Candidates at these places, asked for alone, get what full inference of all of them gives."""
    full_CK, chosen = bench.full(inputs), [int(place) for place in places]
    some_CK = bench.rank(with_candidates(inputs, chosen), psi)
    error, allowed = logit_error(some_CK, full_CK[chosen]), bench.allowed(inputs, full_CK)
    assert error <= allowed, f"{what}: error {error:.3g}, allowed {allowed:.3g}"
