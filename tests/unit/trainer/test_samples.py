from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from relaygr.behaviours.columns import Behaviours, Profile
from relaygr.behaviours.store import FileStore
from relaygr.domain.identity import ModelLimits
from relaygr.model.init import new_model
from relaygr.model.training import training_logits
from trainer.evaluate import model_scorer
from trainer.requests import ReplayOptions, replay_requests
from trainer.samples import Labelled, SampleOptions, Sampler, Track, padded, track_of
from trainer.split import Split
from trainer.train import TrainOptions, model_config

LIMITS = ModelLimits(64, 16, 16, 64)


def tracks_of(split: Split) -> list[Track]:
    found = []
    for history in split.histories:
        early = history.behaviours.slice(0, history.train_count)
        if len(early):
            found.append(track_of(np.searchsorted(split.catalogue, early.item_ids) + 1, early, history.profile))
    return found


def drawn(split: Split, options: SampleOptions, batches: int, seed: int = 1) -> list[Labelled]:
    return list(islice(Sampler(tracks_of(split), split, LIMITS, options, seed).batches(), batches))


def test_a_moment_is_where_the_second_is_new():
    behaviours = Behaviours.of([1, 2, 3, 4, 5], [10, 10, 20, 20, 30])
    assert track_of(np.arange(1, 6), behaviours, Profile.empty()).moments.tolist() == [0, 2, 4]


def test_positives_come_from_the_next_behaviours(split: Split):
    options = SampleOptions(ahead=3)
    for labelled in drawn(split, options, 10):
        batch = labelled.batch
        for user, length in enumerate(batch.lengths_B.tolist()):
            for place, position in enumerate(batch.positions_BS[user].tolist()):
                ahead = set(batch.item_rows_BT[user, position : min(position + 3, length)].tolist())
                positives = batch.candidate_rows_BSM[user, place][labelled.is_click_BSM[user, place]]
                assert position < length
                assert set(positives.tolist()) <= ahead


@pytest.mark.parametrize("popular_share", [0.0, 1.0])
def test_negatives_are_known_items_strange_to_the_user(split: Split, popular_share: float):
    # Three redraws leave a few of the user's own: here some users own half of the catalogue.
    own_found = total = 0
    for labelled in drawn(split, SampleOptions(popular_share=popular_share), 20):
        for user, length in enumerate(labelled.batch.lengths_B.tolist()):
            own = set(labelled.batch.item_rows_BT[user, :length].tolist())
            negatives = labelled.batch.candidate_rows_BSM[user][~labelled.is_click_BSM[user]].tolist()
            assert min(negatives) >= 1 and max(negatives) <= len(split.catalogue)
            own_found += sum(item in own for item in negatives)
            total += len(negatives)
    assert own_found < 0.05 * total


def test_a_like_is_a_high_action_of_a_positive(split: Split):
    for labelled in drawn(split, SampleOptions(), 5):
        assert torch.equal(labelled.is_rated_BSM, labelled.is_click_BSM)
        assert not (labelled.is_like_BSM & ~labelled.is_click_BSM).any()
        assert labelled.is_like_BSM.any() and (labelled.is_rated_BSM & ~labelled.is_like_BSM).any()


def test_a_log_without_ratings_trains_no_likes(split: Split):
    bare = replace(split, has_likes=False)
    assert not any(labelled.is_rated_BSM.any() for labelled in drawn(bare, SampleOptions(), 3))
    assert model_config("x", bare, TrainOptions(), ()).tasks == ("click",)


def test_long_histories_are_cut_to_windows_that_ranking_could_ask_for(split: Split):
    longest = max(len(track.rows) for track in tracks_of(split))
    assert longest > LIMITS.window_behaviours_max
    for labelled in drawn(split, SampleOptions(), 60):
        assert labelled.batch.lengths_B.max() <= LIMITS.window_behaviours_max


def test_the_same_seed_draws_the_same_batches(split: Split):
    first, again, other = (drawn(split, SampleOptions(), 3, seed) for seed in (1, 1, 2))
    for one, two in zip(first, again, strict=True):
        assert torch.equal(one.batch.candidate_rows_BSM, two.batch.candidate_rows_BSM)
    assert first[0].batch.candidate_rows_BSM.tolist() != other[0].batch.candidate_rows_BSM.tolist()


def test_a_batch_is_scored_as_ranking_scores_it(split: Split, store: FileStore):
    """What is trained is what is served: same history, same moment, same logits."""
    options = TrainOptions(layers=2, width=16, heads=2, head_width=16, window=512)
    model = new_model(model_config("x", split, options, ()), split.catalogue, 3).eval()
    requests = replay_requests(split, ReplayOptions(candidates=8, history_min=5))[:6]
    score = model_scorer(model, store)
    histories = {str(history.user): history for history in split.histories}
    for request in requests:
        history = histories[request.user]
        before = history.behaviours.slice(0, request.history_count)
        batch = padded(
            [track_of(model.item_rows(before.item_ids), before, history.profile)],
            np.array([[request.history_count]]),
            model.item_rows(np.array(request.candidates))[None, None],
            np.array([[request.time_s]]),
        )
        with torch.no_grad():
            trained = training_logits(model, batch)[0, 0].numpy()
        np.testing.assert_allclose(trained, score(request), rtol=1e-4, atol=1e-5)
