"""A prefix of the store is digested once between a PreInfer and its Rank, and never taken on its name alone."""

import numpy as np
import pytest

import services.ranker.prefix as module
from relaygr.behaviours.columns import Behaviours, FeatureSpec, Profile, chain_of
from relaygr.behaviours.store import StoreHead
from relaygr.domain.identity import ModelLimits, UserKey
from relaygr.v1 import common_pb2 as pb
from services.ranker.prefix import PrefixReader

LIMITS = ModelLimits(window_behaviours_max=512, window_step_behaviours=128, delta_behaviours_max=16, candidates_max=8)
ONE, OTHER = UserKey("t", "1"), UserKey("t", "2")


class Store:
    """One history for everybody, which a test may change behind the generation's back."""

    def __init__(self) -> None:
        self.behaviours = Behaviours.of(np.arange(1, 301), np.arange(1000, 1300))

    def head(self, user: UserKey, as_of_s: int) -> StoreHead:
        return StoreHead(len(self.behaviours), "g")

    def read(self, user: UserKey, first: int, end: int, generation: str) -> Behaviours:
        return self.behaviours.slice(first, end)

    def profile(self, user: UserKey) -> Profile:
        return Profile.empty()


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def reader(store: Store) -> PrefixReader:
    return PrefixReader(FeatureSpec(), LIMITS, store)


def cut(count: int = 300) -> pb.History:
    return pb.History(cut=pb.Cut(behaviour_count=count, store_generation="g"))


def test_a_rank_finds_the_prefix_of_its_pre_infer(reader: PrefixReader) -> None:
    first = reader.read(ONE, cut(), "history")
    assert reader.read(ONE, cut(), "history") is first
    assert reader.read(ONE, cut(299), "history") is not first
    assert reader.read(OTHER, cut(), "history") is not first


def test_other_behaviours_under_the_same_name_are_digested_anew(reader: PrefixReader, store: Store) -> None:
    first = reader.read(ONE, cut(), "history")
    items = np.arange(1, 301)
    items[17] = 999
    store.behaviours = Behaviours.of(items, np.arange(1000, 1300))
    second = reader.read(ONE, cut(), "history")
    assert second.chain.digest != first.chain.digest
    assert second.chain.digest == chain_of(Profile.empty(), store.behaviours).digest


def test_a_forgotten_user_leaves_nothing(reader: PrefixReader) -> None:
    first, kept = reader.read(ONE, cut(), "history"), reader.read(OTHER, cut(), "history")
    reader.forget(ONE)
    assert reader.read(ONE, cut(), "history") is not first
    assert reader.read(OTHER, cut(), "history") is kept


def test_prefixes_kept_are_bounded_and_the_latest_stay(reader: PrefixReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PREFIXES_MAX", 2)
    first = reader.read(ONE, cut(1), "history")
    second = reader.read(ONE, cut(2), "history")
    assert reader.read(ONE, cut(1), "history") is first
    reader.read(ONE, cut(3), "history")
    assert reader.read(ONE, cut(1), "history") is first
    assert reader.read(ONE, cut(2), "history") is not second
