import gzip
from pathlib import Path

import numpy as np
import pytest

from relaygr.behaviours.build import StoreBuilder, build_store
from relaygr.behaviours.columns import Profile
from relaygr.behaviours.ids import HASH_FIRST, INTEGER_END, id_of
from relaygr.behaviours.log import LogError, Rows
from relaygr.behaviours.store import CutGone, FileStore, StoreError
from relaygr.domain.identity import UserKey

ADA = UserKey("default", "7")

LOG = """user,item,timestamp,action
7,10,300,5
8,10,100,4
7,11,100,3
7,12,200,2
7,13,200,1
"""


def store_of(tmp_path: Path, text: str, name: str = "log.csv") -> FileStore:
    (tmp_path / name).write_text(text)
    build_store(tmp_path / name, tmp_path / "store")
    return FileStore(tmp_path / "store")


def items_of(store: FileStore, user: UserKey) -> list[int]:
    head = store.head(user, 0)
    return store.read(user, 0, head.log_count, head.generation).item_ids.tolist()


def test_behaviours_come_in_time_order_and_equal_times_in_the_logs_order(tmp_path: Path):
    store = store_of(tmp_path, LOG)
    head = store.head(ADA, 0)
    behaviours = store.read(ADA, 0, head.log_count, head.generation)
    assert behaviours.item_ids.tolist() == [11, 12, 13, 10]
    assert behaviours.timestamps_s.tolist() == [100, 200, 200, 300]
    assert behaviours.actions.tolist() == [3, 2, 1, 5]
    assert store.read(ADA, 1, 3, head.generation).item_ids.tolist() == [12, 13]


@pytest.mark.parametrize(("as_of_s", "count"), [(0, 4), (100, 0), (101, 1), (200, 1), (201, 3), (300, 3), (301, 4)])
def test_head_counts_behaviours_before_a_time_and_zero_means_all(tmp_path: Path, as_of_s: int, count: int):
    assert store_of(tmp_path, LOG).head(ADA, as_of_s).log_count == count


@pytest.mark.parametrize("user", [UserKey("default", "9"), UserKey("default", "ada"), UserKey("other", "7")])
def test_a_user_nobody_knows_has_an_empty_log(tmp_path: Path, user: UserKey):
    store = store_of(tmp_path, LOG)
    head = store.head(user, 0)
    assert head.log_count == 0
    assert len(store.read(user, 0, 0, head.generation)) == 0
    assert store.profile(user) == Profile.empty()


def test_a_cut_of_another_generation_is_gone(tmp_path: Path):
    store = store_of(tmp_path, LOG)
    before = store.head(ADA, 0)
    build_store_again = LOG + "7,14,400,1\n"
    (tmp_path / "log.csv").write_text(build_store_again)
    build_store(tmp_path / "log.csv", tmp_path / "store")
    # What is mapped stays readable until the reader refreshes.
    assert len(store.read(ADA, 0, 4, before.generation)) == 4
    assert store.refresh()
    assert store.head(ADA, 0).log_count == 5
    with pytest.raises(CutGone):
        store.read(ADA, 0, 4, before.generation)
    assert not store.refresh()


def test_a_cut_beyond_the_log_is_gone(tmp_path: Path):
    store = store_of(tmp_path, LOG)
    with pytest.raises(CutGone):
        store.read(ADA, 0, 5, store.head(ADA, 0).generation)


def test_the_generation_is_a_digest_of_the_contents(tmp_path: Path):
    first = store_of(tmp_path, LOG).meta.generation
    again = store_of(tmp_path, LOG).meta.generation
    other = store_of(tmp_path, LOG.replace("7,13,200,1", "7,13,200,2")).meta.generation
    assert first == again != other
    # Only the current generation is kept.
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == sorted(["meta.json", other])


def test_small_sorting_ranges_make_the_same_store(tmp_path: Path):
    rng = np.random.default_rng(1)
    n = 3000
    rows = Rows(
        rng.integers(0, 97, n), rng.integers(0, 50, n), rng.integers(0, 500, n), rng.integers(1, 6, n).astype(np.int32)
    )
    generations = set()
    for sort_rows in (1, 100, 10_000):
        with StoreBuilder(tmp_path / str(sort_rows), sort_rows=sort_rows) as builder:
            builder.add(rows)
            generations.add(builder.finish().generation)
    assert len(generations) == 1
    store = FileStore(tmp_path / "1")
    for user in range(97):
        mine = rows.users == user
        order = np.argsort(rows.timestamps[mine], kind="stable")
        assert items_of(store, UserKey("default", str(user))) == rows.items[mine][order].tolist()


def test_features_follow_their_behaviours_through_the_sort(tmp_path: Path):
    rows = Rows(np.array([1, 1]), np.array([5, 6]), np.array([20, 10]), np.array([1, 1], np.int32))
    profiles = {1: Profile.of([0.5], [2]), 3: Profile.of([1.5], [4])}
    with StoreBuilder(tmp_path, dense_width=2, categorical_width=1) as builder:
        builder.add(rows, np.array([[1, 2], [3, 4]]), np.array([[7], [8]]))
        builder.finish(profiles)
    store = FileStore(tmp_path)
    user, generation = UserKey("default", "1"), store.meta.generation
    behaviours = store.read(user, 0, 2, generation)
    assert behaviours.dense.tolist() == [[3, 4], [1, 2]]
    assert behaviours.categorical.tolist() == [[8], [7]]
    assert store.profile(user) == profiles[1]
    # Known by a profile, without behaviours.
    assert store.profile(UserKey("default", "3")) == profiles[3]
    assert store.head(UserKey("default", "3"), 0).log_count == 0
    assert store.profile(UserKey("default", "2")) == Profile.empty(1, 1)


def test_recbole_headers_and_tabs_are_read(tmp_path: Path):
    text = 'user_id:token\titem_id:token\trating:float\ttimestamp:float\n7\t"x\t3.5\t100.0\n'
    store = store_of(tmp_path, text, "a.inter")
    behaviours = store.read(ADA, 0, 1, store.meta.generation)
    assert behaviours.actions.tolist() == [4]
    assert behaviours.timestamps_s.tolist() == [100]
    assert behaviours.item_ids.tolist() == [id_of('"x')]


@pytest.mark.parametrize("header", ["userId,movieId,rating,timestamp", "ts;item;action;user", "TIME\tITEM\tX\tUSER"])
def test_common_header_names_in_any_order_and_delimiter(tmp_path: Path, header: str):
    delimiter = next(mark for mark in "\t;," if mark in header)
    cells = {"userid": "7", "user": "7", "movieid": "10", "item": "10"}
    row = delimiter.join(cells.get(name.lower(), "3") for name in header.split(delimiter))
    assert items_of(store_of(tmp_path, f"{header}\n{row}\n"), ADA) == [10]


def test_absent_actions_are_one(tmp_path: Path):
    store = store_of(tmp_path, "user,item,timestamp\n7,1,1\n")
    assert store.read(ADA, 0, 1, store.meta.generation).actions.tolist() == [1]


@pytest.mark.parametrize(("unit", "divisor"), [(1, 1), (1000, 1000), (10**6, 10**6), (10**9, 10**9)])
def test_timestamps_become_seconds_by_their_magnitude(tmp_path: Path, unit: int, divisor: int):
    store = store_of(tmp_path, f"user,item,ts\n7,1,{880_000_000 * unit}\n7,2,{880_000_001 * unit + unit // 2}\n")
    assert store.meta.timestamp_divisor == divisor
    assert store.read(ADA, 0, 2, store.meta.generation).timestamps_s.tolist() == [880_000_000, 880_000_001]


def test_timestamps_in_two_units_are_refused(tmp_path: Path):
    with pytest.raises(LogError, match="one unit"):
        store_of(tmp_path, "user,item,ts\n7,1,880000000\n7,2,880000001000\n")


def test_dates_are_read_as_utc(tmp_path: Path):
    store = store_of(tmp_path, "user,item,time\n7,1,1970-01-02 00:00:00\n7,2,1970-01-02T02:00:01+01:00\n")
    assert store.read(ADA, 0, 2, store.meta.generation).timestamps_s.tolist() == [86_400, 90_001]


@pytest.mark.parametrize(
    ("row", "where", "what"),
    [
        ("7,10,soon,1", "line 3, column timestamp", "'soon'"),
        ("7,10,nan,1", "line 3, column timestamp", "'nan'"),
        ("7,10,-5,1", "line 3, column timestamp", "'-5'"),
        ("7,10,99999999999999999999,1", "line 3, column timestamp", "'999"),
        ("7,,100,1", "line 3, column item", "is empty"),
        ("7,10,100,good", "line 3, column action", "'good'"),
        ("7,10,100,inf", "line 3, column action", "'inf'"),
        ("7,10,100", "line 3", "3 columns"),
    ],
)
def test_a_bad_row_is_refused_with_its_line_and_column(tmp_path: Path, row: str, where: str, what: str):
    with pytest.raises(LogError) as caught:
        store_of(tmp_path, f"user,item,timestamp,action\n7,10,100,1\n{row}\n")
    assert "log.csv" in str(caught.value)
    assert where in str(caught.value)
    assert what in str(caught.value)
    # Nothing half-built stays behind.
    assert list((tmp_path / "store").iterdir()) == []


@pytest.mark.parametrize("header", ["user,item", "a,b,c", "user,user_id,item,ts", ""])
def test_a_header_without_the_columns_is_refused(tmp_path: Path, header: str):
    with pytest.raises(LogError, match="header has"):
        store_of(tmp_path, f"{header}\n1,2,3,4\n")


def test_a_log_without_rows_is_refused(tmp_path: Path):
    with pytest.raises(LogError, match="no rows"):
        store_of(tmp_path, "user,item,timestamp\n\n")


def test_blank_lines_are_passed_over_and_still_counted(tmp_path: Path):
    with pytest.raises(LogError, match="line 4"):
        store_of(tmp_path, "user,item,timestamp\n\n7,1,1\n7,2,x\n")


def test_gzip_and_byte_order_mark_are_read(tmp_path: Path):
    with gzip.open(tmp_path / "log.csv.gz", "wb") as file:
        file.write(b"\xef\xbb\xbfuser,item,timestamp\n7,1,1\n")
    build_store(tmp_path / "log.csv.gz", tmp_path / "store")
    assert items_of(FileStore(tmp_path / "store"), ADA) == [1]


def test_parquet_makes_the_same_store_as_csv(tmp_path: Path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    csv_store = store_of(tmp_path, "user,item,timestamp,rating\nada,1,100,3.5\n7,x y,200,1\n")
    table = arrow.table(
        {
            "user": ["ada", "7"],
            "item": ["1", "x y"],
            "timestamp": arrow.array([100_000, 200_000], arrow.timestamp("ms")),
            "rating": [3.5, 1.0],
        }
    )
    parquet.write_table(table, tmp_path / "log.parquet")
    assert build_store(tmp_path / "log.parquet", tmp_path / "other").generation == csv_store.meta.generation


def test_an_empty_cell_of_a_parquet_log_is_refused(tmp_path: Path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"user": [1, 2], "item": [1, None], "ts": [1, 1]}), tmp_path / "log.parquet")
    with pytest.raises(LogError, match="row 1, column item"):
        build_store(tmp_path / "log.parquet", tmp_path / "store")


def test_a_directory_that_is_no_store_is_refused(tmp_path: Path):
    with pytest.raises(StoreError, match="not a behaviour store"):
        FileStore(tmp_path)
    (tmp_path / "meta.json").write_text("[]")
    with pytest.raises(StoreError, match="not a behaviour store"):
        FileStore(tmp_path)


def test_a_store_with_a_column_cut_short_is_refused(tmp_path: Path):
    store = store_of(tmp_path, LOG)
    path = tmp_path / "store" / store.meta.generation / "item_ids.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(StoreError, match="cannot be read"):
        FileStore(tmp_path / "store")


@pytest.mark.parametrize("text", ["0", "7", "-7", str(INTEGER_END - 1)])
def test_an_integer_is_its_own_id(text: str):
    assert id_of(text) == int(text)


@pytest.mark.parametrize("text", ["", "007", "-0", "+7", "7.0", "ada", "١", str(INTEGER_END), "-" * 9, "9" * 5000])
def test_every_other_text_is_hashed_beyond_the_integers_in_use(text: str):
    assert HASH_FIRST <= id_of(text) < INTEGER_END


def test_the_decimals_of_an_id_name_the_same_thing():
    for text in ("ada", "7", "-7", ""):
        assert id_of(str(id_of(text))) == id_of(text)


def test_hashes_never_change():
    # Written down, because stores and models on disk hold them.
    assert id_of("ada") == 5_631_316_410_977_119_708
