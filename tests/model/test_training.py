"""Training computes the same function as serving, with gradients."""

import numpy as np
import pytest
import torch

from relaygr.behaviours.columns import Candidates, Cross, FeatureSpec
from relaygr.model.conformance import TOLERANCE, Bench, Subject
from relaygr.model.error import logit_error
from relaygr.model.init import new_model
from relaygr.model.run import RankInputs, infer_full, run
from relaygr.model.training import TrainingBatch, training_logits
from tests.model.models import FEATURES, ITEM_IDS, config, small_model

LENGTHS, LONGEST, ASKED = (1, 40, 25), 40, 3


def _padded(arrays):
    padded = np.zeros((len(arrays), LONGEST, *arrays[0].shape[1:]), arrays[0].dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(padded)


def _case(model):
    """Histories, and a batch of them with candidates at every position."""
    bench = Bench(Subject(model=model, item_ids=ITEM_IDS), 8)
    requests = [bench.inputs(length, 0, LONGEST * ASKED) for length in LENGTHS]
    rows = [model.item_rows(request.candidates.item_ids) for request in requests]
    batch = TrainingBatch(
        item_rows_BT=_padded([model.item_rows(request.prefix.item_ids) for request in requests]),
        actions_BT=_padded([request.prefix.actions for request in requests]),
        timestamps_s_BT=_padded([request.prefix.timestamps_s for request in requests]),
        lengths_B=torch.tensor(LENGTHS),
        candidate_rows_BSM=torch.from_numpy(np.stack(rows)).unflatten(1, (LONGEST, ASKED)),
        profile_dense_BF=torch.from_numpy(np.stack([request.profile.dense for request in requests])),
        profile_categorical_BF=torch.from_numpy(np.stack([request.profile.categorical for request in requests])),
        dense_BTF=_padded([request.prefix.dense for request in requests]),
        categorical_BTF=_padded([request.prefix.categorical for request in requests]),
        candidate_dense_BSMF=_by_position([request.candidates.dense for request in requests]),
        candidate_categorical_BSMF=_by_position([request.candidates.categorical for request in requests]),
    )
    return requests, batch


def _by_position(columns):
    return torch.from_numpy(np.stack(columns)).unflatten(1, (LONGEST, ASKED))


def _served(model, request, position, asked_s):
    places = slice(position * ASKED, (position + 1) * ASKED)
    candidates = request.candidates
    inputs = RankInputs(
        profile=request.profile,
        prefix=request.prefix.slice(0, position),
        delta=request.prefix.slice(0, 0),
        cross=Cross.empty(model.config.features.cross_dense),
        candidates=Candidates(candidates.item_ids[places], candidates.dense[places], candidates.categorical[places]),
        request_time_s=asked_s,
    )
    return run(infer_full(model, inputs))


@pytest.mark.parametrize("form", ("silu_uvqk", "silu_u"))
@pytest.mark.parametrize("features", (FEATURES, FeatureSpec()), ids=("features", "plain"))
def test_training_logits_equal_full_inference_at_each_position(form, features):
    model = small_model(form, features=features, positions=30)
    requests, batch = _case(model)
    logits = training_logits(model, batch)
    for user, length in enumerate(LENGTHS):
        for position in {0, 1, length // 2, length - 1} & set(range(length)):
            asked_s = int(requests[user].prefix.timestamps_s[position])
            served = _served(model, requests[user], position, asked_s)
            assert logit_error(logits[user, position], served) <= TOLERANCE, (user, position)


def test_chosen_positions_and_request_times_are_obeyed():
    model = small_model()
    requests, batch = _case(model)
    positions = torch.tensor([[0, 0], [39, 7], [24, 3]])
    asked_s = batch.timestamps_s_BT.gather(1, positions) + 3600
    users = torch.arange(3)[:, None]
    chosen = TrainingBatch(
        **{
            **vars(batch),
            "positions_BS": positions,
            "request_times_s_BS": asked_s,
            "candidate_rows_BSM": batch.candidate_rows_BSM[users, positions],
            "candidate_dense_BSMF": batch.candidate_dense_BSMF[users, positions],
            "candidate_categorical_BSMF": batch.candidate_categorical_BSMF[users, positions],
        }
    )
    logits = training_logits(model, chosen)
    for user in range(3):
        for place in range(2):
            served = _served(model, requests[user], int(positions[user, place]), int(asked_s[user, place]))
            assert logit_error(logits[user, place], served) <= TOLERANCE


def test_valid_marks_positions_before_a_behaviour_that_exists():
    _, batch = _case(small_model())
    assert batch.valid_BS.sum(dim=1).tolist() == list(LENGTHS)


def test_gradients_reach_every_weight_that_training_uses():
    model = new_model(config(), ITEM_IDS, 1)
    _, batch = _case(model)
    training_logits(model, batch)[batch.valid_BS].square().mean().backward()
    untouched = {name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()}
    assert untouched == {"tokens.cross.weight", "tokens.cross.bias"}


def test_dropout_changes_training_and_a_seed_repeats_it():
    model = new_model(config(), ITEM_IDS, 1)
    _, batch = _case(model)
    torch.manual_seed(5)
    first = training_logits(model, batch, dropout=0.2)
    torch.manual_seed(5)
    assert torch.equal(first, training_logits(model, batch, dropout=0.2))
    assert not torch.allclose(first, training_logits(model, batch))
