import numpy as np
import pytest
import torch

from relaygr.behaviours.columns import Behaviours, Profile
from relaygr.model.init import new_model
from trainer.split import History, Split
from trainer.train import TrainOptions, model_config
from trainer.warm import TOGETHER_MAX, item_vectors, warm_up

GROUPS, GROUP_ITEMS = 10, 40
ITEMS = GROUPS * GROUP_ITEMS


def behaviours_of(items: np.ndarray) -> Behaviours:
    n = len(items)
    return Behaviours(
        items.astype(np.int64),
        np.zeros(n, np.int32),
        np.arange(n, dtype=np.int64),
        np.zeros((n, 0), np.float32),
        np.zeros((n, 0), np.int32),
    )


def split_of(histories: list[np.ndarray]) -> Split:
    catalogue, popularity = np.unique(np.concatenate(histories), return_counts=True)
    users = [History(user, Profile.of(), behaviours_of(items), len(items)) for user, items in enumerate(histories)]
    return Split(10**9, tuple(users), catalogue, popularity, has_likes=False)


@pytest.fixture(scope="module")
def grouped() -> Split:
    """Users of three groups of items each, which they turn to in any order, besides some other items."""
    rng = np.random.default_rng(3)
    histories = [rng.permutation(ITEMS)]
    for _ in range(150):
        own = np.isin(np.arange(ITEMS) // GROUP_ITEMS, rng.choice(GROUPS, 3, replace=False))
        weights = 0.7 * own / own.sum() + 0.3 / ITEMS
        histories.append(rng.choice(ITEMS, 60, replace=False, p=weights))
    return split_of(histories)


def test_vectors_of_items_that_the_same_users_turn_to_are_alike(grouped: Split):
    factors = item_vectors(grouped, 48, seed=1)[:, 1:]
    factors /= np.linalg.norm(factors, axis=1, keepdims=True)
    alike = factors @ factors.T
    np.fill_diagonal(alike, -1.0)
    nearest = np.argsort(-alike, axis=1)[:, :10]
    same_group = grouped.catalogue[nearest] // GROUP_ITEMS == grouped.catalogue[:, None] // GROUP_ITEMS
    assert same_group.mean() > 0.9


def test_the_first_dimension_follows_popularity(grouped: Split):
    first = item_vectors(grouped, 16, seed=1)[:, 0]
    assert np.corrcoef(first, np.log1p(grouped.popularity))[0, 1] > 0.999


def test_behaviours_after_the_split_do_not_count():
    rng = np.random.default_rng(4)
    early = [rng.permutation(30)[:12] for _ in range(20)] + [np.arange(30)]
    plain = split_of(early)
    longer = [
        History(past.user, past.profile, behaviours_of(np.concatenate([items, rng.permutation(30)])), len(items))
        for past, items in zip(plain.histories, early, strict=True)
    ]
    leaky = Split(plain.time_s, tuple(longer), plain.catalogue, plain.popularity, has_likes=False)
    assert np.array_equal(item_vectors(plain, 8, seed=1), item_vectors(leaky, 8, seed=1))


@pytest.mark.parametrize("items", [1, 3, TOGETHER_MAX + 1])
def test_any_catalogue_gives_finite_vectors(items: int):
    vectors = item_vectors(split_of([np.arange(items), np.arange(items)]), 16, seed=1)
    assert vectors.shape == (items, 16)
    assert np.isfinite(vectors).all()


def test_a_layer_starts_out_comparing_a_row_with_what_it_gathers(grouped: Split):
    config = model_config("grouped", grouped, TrainOptions(layers=2, width=32), ())
    model = new_model(config, grouped.catalogue, seed=1)
    warm_up(model, grouped, seed=1)
    with torch.no_grad():
        x = model.tokens.item(torch.arange(1, 9))
        for layer in model.layers:
            # Biases stay random; they are small.
            made = layer.project(x)
            v = made.v_HTV.transpose(0, 1).flatten(1)
            assert torch.allclose(made.u_TE, v, atol=0.2)
            assert torch.allclose(made.q_HTK, made.k_HTK, atol=0.2)


def test_codes_that_say_nothing_yet_are_quieter_than_items(grouped: Split):
    config = model_config("grouped", grouped, TrainOptions(layers=1, width=32), ())
    model = new_model(config, grouped.catalogue, seed=1)
    warm_up(model, grouped, seed=1)
    item = model.tokens.item.weight[1:].std()
    assert model.tokens.position.weight.std() < 0.2 * item
    assert model.tokens.gap.weight.std() < 0.2 * item
    # Without ratings, the action is one vector that all behaviours share.
    assert model.tokens.action.weight.std() < 0.2 * item
