"""Huge pages where the mount gives them; nothing changes where it does not."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from relaygr.segment import Geometry, MappedSegment, OwnedSegment, huge
from relaygr.segment.files import create_private

BOOT = "b" * 32
SMAPS = """7f0f1ca00000-7f0f20a00000 rw-s 00000000 00:27 2                          /shm/segment
Size:              65536 kB
ShmemPmdMapped:    4096 kB
FilePmdMapped:         0 kB
7f0f20a00000-7f0f20b00000 rw-s 00000000 00:27 3                          /shm/segment.lock
ShmemPmdMapped:    2048 kB
"""


def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounted: str, system: str) -> tuple[bool, str]:
    fd = create_private(tmp_path / "file")
    device = huge.os.fstat(fd).st_dev
    line = f"63 43 {huge.os.major(device)}:{huge.os.minor(device)} / /shm rw - tmpfs none rw,size=9k{mounted}\n"
    (tmp_path / "mounts").write_text("62 43 9999:1 / /other rw - tmpfs none rw,huge=always\n" + line)
    (tmp_path / "system").write_text(system)
    monkeypatch.setattr(huge, "_MOUNTS", tmp_path / "mounts")
    monkeypatch.setattr(huge, "SYSTEM_POLICY", tmp_path / "system")
    try:
        return huge.policy_of(fd)
    finally:
        huge.os.close(fd)


@pytest.mark.parametrize(
    ("mounted", "system", "is_given"),
    [
        ("", "always advise [never] deny force", False),
        (",huge=advise", "always advise [never] deny force", True),
        (",huge=within_size", "always advise never [deny] force", False),
        ("", "always advise never deny [force]", True),
        (",huge=always", "", True),
    ],
)
def test_the_mount_decides_unless_the_machine_overrules_it(tmp_path, monkeypatch, mounted, system, is_given):
    assert said(tmp_path, monkeypatch, mounted, system)[0] is is_given


def test_what_decided_is_said(tmp_path, monkeypatch):
    _, reason = said(tmp_path, monkeypatch, ",huge=advise", "always [never]")
    assert reason == "mounted with huge=advise, shmem_enabled is never"
    assert str(huge.HugePages(0, reason)) == f"no ({reason})"
    assert str(huge.HugePages(6 << 20, reason)) == f"yes, 6 MiB ({reason})"


def test_only_the_segments_own_mappings_count():
    assert huge.huge_bytes_of(SMAPS.splitlines(), "/shm/segment") == 4096 * 1024


@pytest.mark.parametrize("is_given", [False, True])
def test_a_segment_is_whole_whether_or_not_there_are_huge_pages(tmp_path, monkeypatch, is_given):
    monkeypatch.setattr(huge, "policy_of", lambda _: (is_given, "a test"))
    owned = OwnedSegment(tmp_path, "t", BOOT, Geometry(4096, 64))
    try:
        facts = owned.path.stat()
        assert facts.st_size == owned.geometry.total_bytes and 512 * facts.st_blocks >= facts.st_size
        total_bytes = owned.geometry.total_bytes
        mapped = MappedSegment.open(owned.path, boot_id=BOOT, segment_bytes=total_bytes, block_bytes=4096)
        assert not mapped.blocks.any()
        mapped.close()
    finally:
        owned.close()


def test_a_kernel_that_cannot_populate_leaves_it_to_the_usual_way(tmp_path, monkeypatch):
    monkeypatch.setattr(huge, "policy_of", lambda _: (True, "a test"))
    monkeypatch.setattr(huge, "MADV_POPULATE_WRITE", 4711)
    owned = OwnedSegment(tmp_path, "t", BOOT, Geometry(4096, 64))
    assert owned.huge_pages.huge_bytes == 0 and "Invalid argument" in owned.huge_pages.reason
    assert 512 * owned.path.stat().st_blocks >= owned.geometry.total_bytes
    owned.close()


def test_asking_in_vain_raises_nothing(monkeypatch):
    monkeypatch.setattr(huge.mmap, "MADV_HUGEPAGE", 4711)
    with mmap.mmap(-1, mmap.PAGESIZE) as mapping:
        huge.advise(mapping)
