from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from relaygr.behaviours.build import StoreBuilder
from relaygr.behaviours.columns import Behaviours, Profile, chain_of
from relaygr.behaviours.ids import id_of
from relaygr.behaviours.log import Rows
from relaygr.behaviours.store import FileStore
from relaygr.domain.identity import UserKey

row = st.tuples(st.integers(0, 4), st.integers(0, 9), st.integers(0, 6), st.integers(0, 5))
logs = st.lists(row, min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(log=logs, sort_rows=st.integers(1, 70), chunk=st.integers(1, 70), as_of_s=st.integers(0, 8))
def test_a_store_answers_as_a_sorted_list_would(
    log: list[tuple[int, int, int, int]], sort_rows: int, chunk: int, as_of_s: int
):
    with TemporaryDirectory() as directory:
        with StoreBuilder(Path(directory), sort_rows=sort_rows) as builder:
            for first in range(0, len(log), chunk):
                users, items, times, actions = np.array(log[first : first + chunk]).T
                builder.add(Rows(users, items, times, actions.astype(np.int32)))
            builder.finish()
        store = FileStore(directory)
        for user in range(6):
            # sorted() is stable, as the store must be.
            expected = sorted((found for found in log if found[0] == user), key=lambda found: found[2])
            before = [found for found in expected if not as_of_s or found[2] < as_of_s]
            key = UserKey("default", str(user))
            assert store.head(key, as_of_s).log_count == len(before)
            behaviours = store.read(key, 0, len(expected), store.meta.generation)
            assert behaviours.item_ids.tolist() == [found[1] for found in expected]
            assert behaviours.actions.tolist() == [found[3] for found in expected]


columns = st.integers(0, 300).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(0, 2**32 - 1), st.integers(0, 2), st.integers(0, 2))
)


@settings(max_examples=60, deadline=None)
@given(columns, st.data())
def test_two_histories_share_a_chain_as_far_as_they_share_behaviours(
    shape: tuple[int, int, int, int], data: st.DataObject
):
    n, seed, dense, categorical = shape
    rng = np.random.default_rng(seed)
    behaviours = Behaviours.of(
        rng.integers(0, 9, n),
        np.sort(rng.integers(0, 99, n)),
        rng.integers(0, 5, n),
        rng.normal(size=(n, dense)),
        rng.integers(0, 3, (n, categorical)),
    )
    cut = data.draw(st.integers(0, n))
    profile = Profile.of(rng.normal(size=dense))
    whole, part = chain_of(profile, behaviours), chain_of(profile, behaviours.slice(0, cut))
    assert whole.digest_at(cut + 1) == part.digest
    assert Behaviours.from_pb(behaviours.to_pb(), dense, categorical, "b") == behaviours
    if cut < n:
        items = behaviours.item_ids.copy()
        items[cut] += 1
        other = Behaviours(items, behaviours.actions, behaviours.timestamps_s, behaviours.dense, behaviours.categorical)
        assert chain_of(profile, other).shares(whole, cut + 1)
        assert not chain_of(profile, other).shares(whole, cut + 2)


@given(st.text(max_size=30))
def test_an_ids_decimals_name_the_same_thing(text: str):
    assert id_of(str(id_of(text))) == id_of(text)
