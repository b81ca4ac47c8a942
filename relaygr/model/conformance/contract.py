"""What the interface promises of a model by itself, whatever is cached.

Shapes: T tokens, C candidates, D hidden width, K tasks.

Source: design, section 4, conditions 1 and 2.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from relaygr.model.conformance.bench import Bench
from relaygr.model.conformance.subject import TOLERANCE, Subject
from relaygr.model.error import logit_error
from relaygr.model.interface import RelayModel
from relaygr.model.run import run


def check_contract(subject: Subject, seed: int) -> None:
    """Shapes, types and sizes are as the interface says; unknown items and users score; nobody may be asked for."""
    bench = Bench(subject, seed)
    model = subject.model
    assert isinstance(model, RelayModel)
    assert model.page_elements >= bench.page * model.token_elements > 0
    assert model.known_items(subject.item_ids).all(), "item_ids must be of the vocabulary"
    unknown = np.array([int(subject.item_ids.max()) + 1])
    assert not model.known_items(unknown).any()
    for prefix_count, delta_count in ((0, 0), (0, 3), (3, 0), (3, 3)):
        inputs = bench.inputs(prefix_count, delta_count, 4)
        items = np.concatenate([unknown, inputs.candidates.item_ids[1:]])
        inputs = replace(inputs, candidates=replace(inputs.candidates, item_ids=items))
        logits_CK = bench.full(inputs)
        assert logits_CK.shape == (4, len(model.spec.tasks)) and logits_CK.dtype == torch.float32
        assert bool(logits_CK.isfinite().all())
        nobody_CK = bench.full(replace(inputs, candidates=bench.candidates(0)))
        assert nobody_CK.shape == (0, len(model.spec.tasks))


def check_prefix_depends_on_itself_alone(subject: Subject, seed: int) -> None:
    """Prefix rows and K/V are the same whatever follows: later behaviours, delta, candidates, request time."""
    bench = Bench(subject, seed)
    model, inputs = subject.model, bench.inputs(bench.page + 12)
    prefix, tokens = inputs.prefix, inputs.prefix_tokens
    alone_TD = model.embed_prefix(inputs.profile, prefix, 0, tokens)
    longer = prefix.concat(bench.behaviours(50, int(prefix.timestamps_s[-1])))
    _assert_same_rows(model.embed_prefix(inputs.profile, longer, 0, tokens), alone_TD, "later behaviours show")
    chunks = ((0, 1), (1, 2), (2, tokens // 2), (tokens // 2, tokens))
    split_TD = [model.embed_prefix(inputs.profile, prefix, *ends) for ends in chunks]
    _assert_same_rows(torch.cat(split_TD), alone_TD, "where a chunk ends shows")
    for delta_count, later_s in ((3, 5), (20, 10**7)):
        follow = bench.inputs(0, delta_count, 7)
        last_s = int(prefix.timestamps_s[-1])
        delta = bench.behaviours(delta_count, last_s)
        asked_s = int(delta.timestamps_s[-1]) + later_s
        x_delta_TD, x_CD = model.embed_suffix(len(prefix), last_s, delta, follow.cross, follow.candidates, asked_s)
        pages = bench.pages(tokens + len(x_delta_TD))
        run(model.extend(torch.cat([alone_TD, x_delta_TD, x_CD]), len(x_CD), None, pages))
        bench.assert_scores(inputs, replace(pages, token_count=tokens), f"K/V written before a delta of {delta_count}")


def check_full_equals_reference(subject: Subject, seed: int) -> None:
    """Full inference is what the model's definition says in float64; asked only of subjects that come with one."""
    if subject.reference is None:
        return
    bench, allowed = Bench(subject, seed), subject.reference_error_max
    for prefix_count, delta_count, candidate_count in ((0, 0, 1), (0, 4, 3), (1, 0, 2), (bench.page + 20, 5, 9)):
        inputs = bench.inputs(prefix_count, delta_count, candidate_count)
        error = logit_error(bench.full(inputs), subject.reference(inputs))
        assert error <= allowed, f"{prefix_count} behaviours: error {error:.3g}, allowed {allowed:.3g}"


def _assert_same_rows(got_TD: Tensor, wanted_TD: Tensor, complaint: str) -> None:
    # Not bit for bit: a matrix product may sum in another order when it has another number of rows.
    tolerance = TOLERANCE if wanted_TD.dtype == torch.float32 else 2.0**-7
    error = logit_error(got_TD, wanted_TD)
    assert error <= tolerance, f"{complaint}: error {error:.3g}, allowed {tolerance:.3g}"
