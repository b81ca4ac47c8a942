import zipfile
from pathlib import Path

import numpy as np
import pytest

from relaygr.behaviours.log import LogError
from relaygr.behaviours.store import FileStore
from relaygr.domain.identity import UserKey
from trainer.data import GENDERS, MEMBERS, OCCUPATIONS, WHEEL_COMMAND, open_dataset
from trainer.generated import GeneratedOptions, generated_rows


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "recbole-1.2.1-py3-none-any.whl", "w") as wheel:
        wheel.writestr(
            f"{MEMBERS}.inter",
            "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t10\t4\t200\n1\t11\t2\t100\n2\t10\t5\t300\n",
        )
        wheel.writestr(
            f"{MEMBERS}.item",
            "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
            '10\t"Alien\t1979\tHorror\n11\tBabe\t1995\tDrama\n',
        )
        wheel.writestr(
            f"{MEMBERS}.user",
            "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
            "1\t24\tM\ttechnician\t85711\n2\t99\tX\tjuggler\tT8H1N\n",
        )
    return tmp_path


def test_movielens_is_read_inside_the_wheel(wheels: Path, tmp_path: Path):
    dataset = open_dataset("ml-100k", wheels)
    dataset.build_store(tmp_path / "store")
    store = FileStore(tmp_path / "store")
    ada = UserKey("default", "1")
    behaviours = store.read(ada, 0, 2, store.meta.generation)
    assert behaviours.item_ids.tolist() == [11, 10]
    assert behaviours.actions.tolist() == [2, 4]
    assert dataset.titles == {10: '"Alien (1979)', 11: "Babe (1995)"}
    assert store.profile(ada).categorical.tolist() == [3, GENDERS.index("M"), OCCUPATIONS.index("technician")]


def test_what_a_profile_does_not_say_is_zero_and_inside_the_vocabulary(wheels: Path):
    dataset = open_dataset("ml-100k", wheels)
    assert dataset.profiles[2].categorical.tolist() == [9, 0, 0]
    assert all(
        value < size for value, size in zip(dataset.profiles[2].categorical, dataset.user_categorical, strict=True)
    )


def test_a_missing_wheel_says_how_to_get_it(tmp_path: Path):
    with pytest.raises(LogError, match=WHEEL_COMMAND.replace(".", r"\.")):
        open_dataset("ml-100k", tmp_path)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(LogError, match="no such file"):
        open_dataset(str(tmp_path / "log.csv"))


def test_items_that_are_no_integers_keep_their_names(tmp_path: Path):
    (tmp_path / "log.csv").write_text("user,item,timestamp\nada,tea,1\nada,7,2\n")
    dataset = open_dataset(str(tmp_path / "log.csv"))
    dataset.build_store(tmp_path / "store")
    assert list(dataset.titles.values()) == ["tea"]
    store = FileStore(tmp_path / "store")
    assert store.read(UserKey("default", "ada"), 0, 2, store.meta.generation).item_ids.tolist() == [*dataset.titles, 7]


def test_generated_histories_have_the_shapes_they_are_fitted_to():
    rows = list(generated_rows(GeneratedOptions(users=400)))
    lengths = np.array([len(chunk) for chunk in rows])
    assert 50 < np.median(lengths) < 80
    assert 330 < np.percentile(lengths, 99) < 600
    assert all((np.diff(chunk.timestamps) >= 0).all() for chunk in rows)
    assert all(len(np.unique(chunk.items)) == len(chunk) for chunk in rows if len(chunk) <= 1700)
    counts = np.sort(np.bincount(np.concatenate([chunk.items for chunk in rows])))[::-1]
    # MovieLens-100k: a fifth of the items takes about two thirds of the behaviours.
    assert 0.5 < counts[:340].sum() / counts.sum() < 0.8


def test_generated_histories_stretch_beyond_the_catalogue():
    rows = next(iter(generated_rows(GeneratedOptions(users=1, items=50, length_scale=40))))
    assert len(rows) > 200
    assert rows.items.min() >= 1 and rows.items.max() <= 50


def test_generated_histories_are_the_same_for_the_same_seed():
    first, again = (next(iter(generated_rows(GeneratedOptions(users=1)))) for _ in range(2))
    assert first.items.tolist() == again.items.tolist()
    assert first.timestamps.tolist() == again.timestamps.tolist()
