import numpy as np
import pytest

from relaygr.behaviours.columns import Behaviours, Candidates, Cross, FeatureSpec, Profile, chain_of
from relaygr.behaviours.inline import inline_bytes, parse_inline
from relaygr.errors import InvalidRequest
from relaygr.v1 import common_pb2, ranker_pb2


def some(n: int = 5, dense: int = 2, categorical: int = 1) -> Behaviours:
    rng = np.random.default_rng(n)
    return Behaviours.of(
        rng.integers(1, 1000, n),
        np.sort(rng.integers(0, 10**9, n)),
        rng.integers(1, 6, n),
        rng.normal(size=(n, dense)),
        rng.integers(0, 3, (n, categorical)),
    )


def refusal_of(pb: common_pb2.Behaviours, **arguments: object) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        Behaviours.from_pb(pb, 2, 1, "delta", **arguments)
    return caught.value


def test_message_round_trip_keeps_every_column():
    assert Behaviours.from_pb(some().to_pb(), 2, 1, "delta") == some()


def test_reading_a_message_copies_no_column():
    read = Behaviours.from_pb(some().to_pb(), 2, 1, "delta")
    for column in (read.item_ids, read.actions, read.timestamps_s, read.dense, read.categorical):
        owner = column
        while isinstance(owner, np.ndarray):
            owner = owner.base
        assert isinstance(owner, bytes)


def test_columns_cannot_be_written_and_the_callers_array_still_can():
    mine = np.arange(3, dtype=np.int64)
    read = Behaviours.of(mine, mine)
    with pytest.raises(ValueError, match="read-only"):
        read.item_ids[0] = 7
    mine[0] = 7


def test_empty_actions_mean_one():
    pb = some().to_pb()
    pb.actions = b""
    assert Behaviours.from_pb(pb, 2, 1, "delta").actions.tolist() == [1] * 5


def test_empty_features_mean_zeros():
    pb = some().to_pb()
    pb.dense = pb.categorical = b""
    read = Behaviours.from_pb(pb, 2, 1, "delta")
    assert read.dense.shape == (5, 2) and not read.dense.any()
    assert read.categorical.shape == (5, 1) and not read.categorical.any()


@pytest.mark.parametrize("column", ["item_ids", "actions", "timestamps_s", "dense", "categorical"])
def test_a_column_that_disagrees_with_count_is_named(column: str):
    pb = some().to_pb()
    setattr(pb, column, getattr(pb, column)[:-4])
    assert refusal_of(pb).field == f"delta.{column}"


def test_a_feature_width_of_another_model_is_refused():
    error = refusal_of(some(dense=3).to_pb())
    assert error.field == "delta.dense"
    assert "width 2" in error.problem


def test_time_that_runs_backwards_is_refused_with_its_row():
    pb = Behaviours.of([1, 2, 3], [10, 30, 20], dense=np.zeros((3, 2)), categorical=np.zeros((3, 1))).to_pb()
    error = refusal_of(pb)
    assert error.field == "delta.timestamps_s"
    assert "row 2" in error.problem


def test_equal_times_are_in_order():
    pb = Behaviours.of([1, 2], [10, 10]).to_pb()
    assert len(Behaviours.from_pb(pb, 0, 0, "delta")) == 2


@pytest.mark.parametrize("times", [[-(2**63), 2**63 - 1], [-1, 5], [0, 1_700_000_000_000]])
def test_times_that_are_not_unix_seconds_are_refused(times: list[int]):
    pb = Behaviours.of([1, 2], times).to_pb()
    assert refusal_of(pb).field == "delta.timestamps_s"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_dense_feature_that_is_no_number_is_refused(value: float):
    dense = np.zeros((3, 2), np.float32)
    dense[1, 1] = value
    pb = Behaviours.of([1, 2, 3], [1, 2, 3], dense=dense, categorical=np.zeros((3, 1))).to_pb()
    error = refusal_of(pb)
    assert error.field == "delta.dense"
    assert "row 1" in error.problem


def test_more_behaviours_than_allowed_are_refused():
    assert refusal_of(some(5).to_pb(), count_max=4).field == "delta.count"
    assert len(Behaviours.from_pb(some(5).to_pb(), 2, 1, "delta", count_max=5)) == 5


@pytest.mark.parametrize("value", [-1, 3])
def test_a_categorical_value_outside_its_vocabulary_is_refused(value: int):
    pb = Behaviours.of([1], [1], dense=np.zeros((1, 2)), categorical=[[value]]).to_pb()
    assert refusal_of(pb, categorical_sizes=(3,)).field == "delta.categorical"


def test_candidates_may_not_be_empty():
    with pytest.raises(InvalidRequest, match=r"candidates\.count"):
        Candidates.from_pb(ranker_pb2.Candidates(), 0, 0, "candidates")


def test_candidates_round_trip():
    candidates = Candidates.of([3, 1, 2], [[1.0], [2.0], [3.0]])
    assert Candidates.from_pb(candidates.to_pb(), 1, 0, "candidates", count_max=3) == candidates
    with pytest.raises(InvalidRequest, match=r"candidates\.count"):
        Candidates.from_pb(candidates.to_pb(), 1, 0, "candidates", count_max=2)


def test_cross_features_round_trip_and_their_limits():
    cross = Cross.of([[1.0, 2.0]])
    assert Cross.from_pb(cross.to_pb(), 2, "cross") == cross
    assert len(Cross.from_pb(ranker_pb2.CrossFeatures(), 2, "cross")) == 0
    with pytest.raises(InvalidRequest, match=r"cross\.count"):
        Cross.from_pb(cross.to_pb(), 0, "cross")
    with pytest.raises(InvalidRequest, match=r"cross\.dense"):
        Cross.from_pb(ranker_pb2.CrossFeatures(count=1), 2, "cross")


def test_profile_round_trip_and_absent_profile():
    profile = Profile.of([0.5, 1.5], [2])
    assert Profile.from_pb(profile.to_pb(), 2, 1, "profile") == profile
    assert Profile.from_pb(common_pb2.UserProfile(), 2, 1, "profile") == Profile.empty(2, 1)
    with pytest.raises(InvalidRequest, match=r"profile\.dense"):
        Profile.from_pb(profile.to_pb(), 3, 1, "profile")


def test_inline_history_round_trip_and_field_paths():
    features = FeatureSpec(behaviour_dense=2, behaviour_categorical=(3,), user_dense=1)
    data = inline_bytes(Profile.of([0.5]), some())
    assert parse_inline(data, features, count_max=5) == (Profile.of([0.5]), some())
    with pytest.raises(InvalidRequest, match=r"^history\.inline\.behaviours\.count"):
        parse_inline(data, features, count_max=4)
    with pytest.raises(InvalidRequest, match=r"^history\.inline:"):
        parse_inline(b"\xff\xff\xff", features, count_max=5)


def test_slice_and_concat_put_a_history_together_again():
    behaviours = some(9)
    assert behaviours.slice(0, 4).concat(behaviours.slice(4, 9)) == behaviours
    assert behaviours.slice(4, 4).concat(behaviours) == behaviours
    assert np.shares_memory(behaviours.slice(2, 5).item_ids, behaviours.item_ids)


def test_a_prefix_of_a_history_has_a_prefix_of_its_chain():
    behaviours, profile = some(300), Profile.of([1.0])
    whole, part = chain_of(profile, behaviours), chain_of(profile, behaviours.slice(0, 200))
    assert part.token_count == 201
    assert whole.shares(part, 201)


@pytest.mark.parametrize("column", ["item_ids", "actions", "timestamps_s", "dense", "categorical"])
def test_a_change_in_any_column_changes_the_chain_from_there_on(column: str):
    behaviours, profile = some(200), Profile.empty()
    columns = {
        name: getattr(behaviours, name).copy()
        for name in ("item_ids", "actions", "timestamps_s", "dense", "categorical")
    }
    columns[column][150] += 1
    changed = chain_of(profile, Behaviours(**columns))
    assert chain_of(profile, behaviours).shares(changed, 151)
    assert not chain_of(profile, behaviours).shares(changed, 152)


def test_profile_and_feature_widths_belong_to_the_chain():
    none = Behaviours.empty()
    digests = {
        chain_of(Profile.of([0.0]), none).digest,
        chain_of(Profile.of([1.0]), none).digest,
        chain_of(Profile.of([], [0]), none).digest,
        chain_of(Profile.of([0.0]), Behaviours.empty(1, 0)).digest,
        chain_of(Profile.of([0.0]), Behaviours.empty(0, 1)).digest,
    }
    assert len(digests) == 5


def test_absent_actions_and_ones_are_the_same_chain():
    pb = Behaviours.of([1, 2], [1, 2]).to_pb()
    before = chain_of(Profile.empty(), Behaviours.from_pb(pb, 0, 0, "b")).digest
    pb.actions = b""
    assert chain_of(Profile.empty(), Behaviours.from_pb(pb, 0, 0, "b")).digest == before
