"""Only the right file is mapped, and only left-over files are removed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from relaygr.segment import Geometry, LockTable, MappedSegment, OwnedSegment, OwnerLock, SegmentRejected, remove_stale
from relaygr.segment.layout import pack_header, unpack_header

BOOT = "0" * 31 + "1"
OTHER_BOOT = "0" * 31 + "2"
GEOMETRY = Geometry(4096, 16)


@pytest.fixture
def owned(tmp_path: Path):
    segment = OwnedSegment(tmp_path, "d", BOOT, GEOMETRY)
    yield segment
    segment.close()


def open_it(path: Path, boot_id: str = BOOT, size: int = GEOMETRY.total_bytes, block: int = 4096) -> MappedSegment:
    return MappedSegment.open(path, boot_id=boot_id, segment_bytes=size, block_bytes=block)


def test_both_sides_see_the_same_blocks_and_generations(owned):
    first, second = open_it(owned.path), open_it(owned.path)
    owned.stamp((3, 4), 7)
    assert first.owns((3, 4), 7) and second.owns((3, 4), 7)
    assert not first.owns((3, 5), 7) and not first.owns((3,), 8)
    first.block(3)[:] = 9
    assert second.block(3).min() == 9 and second.block(2).max() == second.block(4).max() == 0
    first.close()
    second.close()


def test_blocks_beyond_the_segment_are_nobodys(owned):
    mapped = open_it(owned.path)
    assert not mapped.owns((16,), 0) and not mapped.owns((-1,), 0)
    mapped.close()


def test_the_generation_table_is_the_owners_alone(owned):
    mapped = open_it(owned.path)
    with pytest.raises(ValueError, match="read-only"):
        mapped._generations[0] = 1
    mapped.close()


def test_files_are_private_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        segment = OwnedSegment(tmp_path, "d", BOOT, GEOMETRY)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    assert segment.path.stat().st_blocks * 512 >= GEOMETRY.total_bytes, "allocated in full"
    segment.close()
    assert not list(tmp_path.iterdir())


def test_a_truncated_segment_is_rejected(owned):
    os.truncate(owned.path, GEOMETRY.total_bytes - 4096)
    with pytest.raises(SegmentRejected, match="bytes"):
        open_it(owned.path)
    with pytest.raises(SegmentRejected, match="header"):
        open_it(owned.path, size=GEOMETRY.total_bytes - 4096)


@pytest.mark.parametrize(
    ("change", "why"),
    [({"boot_id": OTHER_BOOT}, "another boot"), ({"size": 4096}, "bytes"), ({"block": 8192}, "header")],
)
def test_a_segment_other_than_announced_is_rejected(owned, change, why):
    with pytest.raises(SegmentRejected, match=why):
        open_it(owned.path, **change)


def test_a_foreign_file_is_rejected(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"x" * GEOMETRY.total_bytes)
    path.chmod(0o600)
    with pytest.raises(SegmentRejected, match="magic"):
        open_it(path)


def test_a_file_open_to_others_is_rejected(owned):
    owned.path.chmod(0o640)
    with pytest.raises(SegmentRejected, match="other users"):
        open_it(owned.path)


def test_a_link_is_not_followed(owned, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(owned.path)
    with pytest.raises(SegmentRejected):
        open_it(link)


def test_a_missing_file_is_rejected(tmp_path):
    with pytest.raises(SegmentRejected):
        open_it(tmp_path / "none")


def test_another_version_is_rejected():
    raw = bytearray(pack_header(GEOMETRY, BOOT))
    assert unpack_header(bytes(raw)) == (GEOMETRY, BOOT)
    raw[8] = 99
    with pytest.raises(SegmentRejected, match="version 99"):
        unpack_header(bytes(raw))


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", "a-b", "x" * 49])
def test_a_deployment_that_is_no_file_name_is_rejected(tmp_path, name):
    with pytest.raises(SegmentRejected, match="deployment"):
        OwnedSegment(tmp_path, name, BOOT, GEOMETRY)


def test_the_whole_file_stays_within_the_budget():
    for budget in (20_000, 1_000_000, 1_048_576, 123_456_789):
        geometry = Geometry.within(budget, 4096)
        assert geometry.total_bytes <= budget < Geometry(4096, geometry.block_count + 2).total_bytes + 4096
        assert geometry.data_offset % 4096 == 0
    with pytest.raises(SegmentRejected):
        Geometry.within(5_000, 4096)


def test_only_what_a_dead_expander_of_the_same_deployment_left_is_removed(tmp_path):
    alive = OwnedSegment(tmp_path, "d", BOOT, GEOMETRY)
    neighbour = OwnedSegment(tmp_path, "dd", BOOT, GEOMETRY)
    dead = OwnedSegment(tmp_path, "d", OTHER_BOOT, GEOMETRY)
    dead.presence.detach()
    del dead._generations  # what the kernel does for a killed process; a mapping keeps the file open
    dead._map.close()
    os.close(dead._fd)
    os.close(dead.locks._fd)
    dead._fd = dead.locks._fd = -1
    assert remove_stale(tmp_path, "d") == 1
    assert {path.name.partition(".")[0] for path in tmp_path.iterdir()} == {alive.path.name, neighbour.path.name}
    assert remove_stale(tmp_path, "d") == 0
    alive.close()
    neighbour.close()


def test_a_lock_is_seen_while_its_holder_has_not_let_go(tmp_path):
    table = LockTable(tmp_path / "l")
    first, second = OwnerLock(table.path, 0), OwnerLock(table.path, 2)
    assert [table.is_held(index) for index in range(3)] == [True, False, True]
    with pytest.raises(BlockingIOError):
        OwnerLock(table.path, 0)
    assert table.is_held(0), "a failed attempt on the same file, closed again, must not drop it"
    first.release()
    first.release()
    assert [table.is_held(index) for index in range(3)] == [False, False, True]
    second.release()
    table.close()
    assert not table.path.exists()
