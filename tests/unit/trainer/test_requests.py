from pathlib import Path

import numpy as np
import pytest

from relaygr.behaviours.build import build_store
from relaygr.behaviours.log import LogError
from relaygr.behaviours.store import FileStore
from relaygr.domain.identity import UserKey
from trainer.requests import ReplayOptions, read_requests, replay_requests, write_requests
from trainer.split import Split, split_store

OPTIONS = ReplayOptions(candidates=40, history_min=10)


def test_everything_that_trains_is_before_everything_that_is_replayed(split: Split):
    for history in split.histories:
        times_s = history.behaviours.timestamps_s
        assert (times_s[: history.train_count] < split.time_s).all()
        assert (times_s[history.train_count :] >= split.time_s).all()
    assert all(request.time_s >= split.time_s for request in replay_requests(split, OPTIONS))


def test_about_the_asked_share_trains(split: Split):
    total = sum(len(history.behaviours) for history in split.histories)
    assert 0.78 < sum(history.train_count for history in split.histories) / total <= 0.8


def test_popularity_counts_the_training_part_alone(split: Split):
    early = np.concatenate([h.behaviours.item_ids[: h.train_count] for h in split.histories])
    item = int(split.catalogue[3])
    assert split.popularity_of(np.array([item, -5])).tolist() == [(early == item).sum(), 0]


def test_a_request_sees_only_earlier_seconds_and_its_positives_come_next(split: Split, store: FileStore):
    requests = replay_requests(split, OPTIONS)
    assert requests
    for request in requests:
        user = UserKey("default", request.user)
        head = store.head(user, request.time_s)
        assert head.log_count == request.history_count
        ahead = store.read(user, head.log_count, store.head(user).log_count, head.generation)
        assert (ahead.timestamps_s >= request.time_s).all()
        assert set(request.positives) <= set(ahead.item_ids[: OPTIONS.positives_max].tolist())


def test_candidates_are_the_positives_and_items_strange_to_the_user(split: Split, store: FileStore):
    own = {str(history.user): set(history.behaviours.item_ids.tolist()) for history in split.histories}
    for request in replay_requests(split, OPTIONS):
        strange = np.setdiff1d(split.catalogue, sorted(own[request.user]))
        expected = min(40, len(request.positives) + len(strange))
        assert len(request.candidates) == len(set(request.candidates)) == expected
        assert set(request.positives) <= set(request.candidates)
        assert not (set(request.candidates) - set(request.positives)) & own[request.user]
        assert set(request.candidates) - set(request.positives) <= set(split.catalogue.tolist())


def test_positives_of_a_users_requests_do_not_overlap(split: Split):
    seen: dict[str, int] = {}
    for request in replay_requests(split, OPTIONS):
        assert request.history_count >= seen.get(request.user, 0)
        seen[request.user] = request.history_count + len(request.positives)


def test_the_same_seed_draws_the_same_requests(split: Split):
    assert replay_requests(split, OPTIONS) == replay_requests(split, OPTIONS)
    other = ReplayOptions(candidates=40, history_min=10, seed=2)
    assert replay_requests(split, OPTIONS) != replay_requests(split, other)


def test_requests_come_in_order_of_time_and_survive_the_file(split: Split, tmp_path: Path):
    requests = replay_requests(split, OPTIONS)
    assert [request.time_s for request in requests] == sorted(request.time_s for request in requests)
    write_requests(requests, tmp_path / "replay.jsonl")
    assert read_requests(tmp_path / "replay.jsonl") == requests


def test_behaviours_of_one_second_are_never_divided(tmp_path: Path):
    lines = [f"{user},{user * 100 + i},{1000 + 10 * (i // 4)}" for user in range(1, 9) for i in range(40)]
    (tmp_path / "log.csv").write_text("user,item,timestamp\n" + "\n".join(lines) + "\n")
    build_store(tmp_path / "log.csv", tmp_path / "store")
    requests = replay_requests(
        split_store(FileStore(tmp_path / "store")), ReplayOptions(history_min=4, positives_max=6)
    )
    assert requests
    assert all(request.history_count % 4 == 0 for request in requests)


def test_a_log_of_one_moment_cannot_be_split(tmp_path: Path):
    (tmp_path / "log.csv").write_text("user,item,timestamp\n1,1,5\n1,2,5\n")
    build_store(tmp_path / "log.csv", tmp_path / "store")
    with pytest.raises(LogError, match="split by time"):
        split_store(FileStore(tmp_path / "store"))
