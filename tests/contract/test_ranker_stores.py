"""A ranker whose behaviour store changes, or holds what no request should find."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from relaygr.behaviours.build import StoreBuilder
from relaygr.behaviours.columns import Behaviours
from relaygr.behaviours.log import Rows
from relaygr.behaviours.store import CutGone, FileStore, StoreError
from relaygr.v1 import common_pb2, ranker_pb2
from tests.contract.ranker_world import World, history, model_dir, ranker_world

__all__ = ["model_dir"]


def write_store(directory: Path, behaviours: Behaviours, dense_width: int = 2) -> None:
    """A store that holds these behaviours of user 7."""
    users = np.full(len(behaviours), 7)
    rows = Rows(users, behaviours.item_ids, behaviours.timestamps_s, behaviours.actions)
    with StoreBuilder(directory, dense_width=dense_width) as builder:
        builder.add(rows, behaviours.dense[:, :dense_width])
        builder.finish()


def by_reference(
    world: World, behaviours: Behaviours, as_of_s: int = 0, generation: str = ""
) -> ranker_pb2.RankRequest:
    cut = common_pb2.Cut(behaviour_count=len(behaviours), store_generation=generation) if generation else None
    made = common_pb2.History(as_of_s=as_of_s, cut=cut)
    return world.rank_request(behaviours, "7", history=made, delta=common_pb2.Behaviours())


@pytest.fixture
async def store_world(model_dir: Path, tmp_path: Path) -> AsyncIterator[World]:
    write_store(tmp_path / "store", history(40, 300))
    async with ranker_world(model_dir, store=str(tmp_path / "store")) as made:
        yield made


def store_of(world: World) -> FileStore:
    store = world.ranker.servicer._reader._store
    assert isinstance(store, FileStore)
    return store


async def test_a_store_that_keeps_changing_under_a_rank_is_no_internal_error(
    store_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is taken up anew between its head and its read, twice in a row."""
    store = store_of(store_world)
    real, left = store.read, 2

    def read(user, first, end, generation):
        nonlocal left
        if left:
            left -= 1
            raise CutGone("another generation")
        return real(user, first, end, generation)

    monkeypatch.setattr(store, "read", read)
    response = await store_world.rank(by_reference(store_world, history(40, 300)))
    assert response.inferred_tokens == 301 + 20


async def test_a_store_that_never_holds_still_is_refused_with_a_reason(
    store_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(user, first, end, generation):
        raise CutGone("another generation")

    monkeypatch.setattr(store_of(store_world), "read", read)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await store_world.rank(by_reference(store_world, history(40, 300)))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_lost_cut_does_not_make_a_delta_bad_input(store_world: World, tmp_path: Path) -> None:
    """The store was rebuilt with behaviours that the caller sent along as its delta."""
    longer, known = history(40, 310), history(40, 300)
    generation = store_of(store_world).meta.generation
    write_store(tmp_path / "store", longer)
    assert store_of(store_world).refresh()
    request = by_reference(store_world, known, generation=generation)
    request.delta.CopyFrom(longer.slice(300, 310).to_pb())
    response = await store_world.rank(request)
    assert response.inferred_tokens == 301 + 10 + 20


@pytest.mark.parametrize("as_of_s", [-1, -(2**63)])
async def test_a_negative_as_of_is_refused_instead_of_ranked_without_a_history(
    store_world: World, as_of_s: int
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await store_world.rank(by_reference(store_world, history(40, 300), as_of_s))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details().startswith("history.as_of_s")


async def test_extreme_numbers_are_ranked_or_refused(store_world: World) -> None:
    for changes in (
        {"request_time_s": -(2**63)},
        {"request_time_s": 2**63 - 1},
        {"history": common_pb2.History(as_of_s=2**63 - 1)},
        {"history": common_pb2.History(cut=common_pb2.Cut(anchor=2**64 - 1, behaviour_count=5, store_generation="x"))},
        {"history": common_pb2.History(cut=common_pb2.Cut(anchor=2**64 - 1, behaviour_count=0))},
    ):
        request = by_reference(store_world, history(40, 300))
        for field, value in changes.items():
            if field == "history":
                request.history.CopyFrom(value)
            else:
                setattr(request, field, value)
        response = await store_world.rank(request)
        assert np.isfinite(np.frombuffer(response.logits, "<f4")).all(), changes


async def test_a_store_of_other_feature_widths_is_refused_at_the_start(model_dir: Path, tmp_path: Path) -> None:
    write_store(tmp_path / "store", history(40, 50), dense_width=0)
    with pytest.raises(StoreError, match="behaviour_dense"):
        async with ranker_world(model_dir, store=str(tmp_path / "store")):
            pass
