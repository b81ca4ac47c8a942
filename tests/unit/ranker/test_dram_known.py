"""What is remembered of the DRAM tier: bounded, by user, and never believed without its stamps."""

from __future__ import annotations

from pathlib import Path

import pytest

from relaygr.domain.identity import PsiKey, UserKey
from relaygr.segment import Geometry, MappedSegment, OwnedSegment
from services.ranker.adapters.dram_known import Known, KnownEntries

BLOCKS = 16


@pytest.fixture
def segments(tmp_path: Path):
    made = []
    for number in range(2):
        boot_id, geometry = f"{number:032x}", Geometry(4096, BLOCKS)
        owned = OwnedSegment(tmp_path, f"d{number}", boot_id, geometry)
        sizes = {"segment_bytes": geometry.total_bytes, "block_bytes": 4096}
        made.append((owned, MappedSegment.open(owned.path, boot_id=boot_id, **sizes)))
    yield made
    for owned, mapped in made:
        mapped.close()
        owned.close()


def key(user: str, anchor: int = 0) -> PsiKey:
    return PsiKey(UserKey("t", user), b"m" * 16, anchor)


def entry(generation: int, *blocks: int) -> Known:
    return Known(100, b"c" * 16, 4096 * len(blocks), "", b"d" * 16, generation, blocks)


def test_an_entry_is_found_exactly_while_all_its_stamps_are_there(segments):
    (owned, mapped), _ = segments
    known = KnownEntries()
    owned.stamp((1, 2), 7)
    known.learn(mapped, key("u"), entry(7, 1, 2))
    assert known.find(mapped, key("u")) == entry(7, 1, 2)
    owned.stamp((2,), 8)
    assert known.find(mapped, key("u")) is None
    owned.stamp((2,), 7)
    assert known.find(mapped, key("u")) is None, "what was not there once is not asked again"
    known.check()


def test_what_was_used_longest_ago_goes_first(segments):
    (owned, mapped), _ = segments
    known = KnownEntries(2)
    owned.stamp(range(3), 7)
    for index in range(2):
        known.learn(mapped, key(f"u{index}"), entry(7, index))
    assert known.find(mapped, key("u0")) is not None
    known.learn(mapped, key("u2"), entry(7, 2))
    assert [known.find(mapped, key(f"u{index}")) is not None for index in range(3)] == [True, False, True]
    known.check()


def test_never_more_blocks_than_the_segment_has(segments):
    (owned, mapped), _ = segments
    known = KnownEntries()
    owned.stamp(range(BLOCKS), 7)
    for index in range(5):
        known.learn(mapped, key(f"u{index}"), entry(7, *range(6)))
    assert len(known) == BLOCKS // 6
    known.check()


def test_none_is_remembered_where_none_may_be(segments):
    (owned, mapped), _ = segments
    known = KnownEntries(0)
    owned.stamp((1,), 7)
    known.learn(mapped, key("u"), entry(7, 1))
    assert len(known) == 0 and known.find(mapped, key("u")) is None


def test_a_users_entries_go_together_and_no_other_does(segments):
    (owned, mapped), _ = segments
    known = KnownEntries()
    owned.stamp((1, 2, 3), 7)
    for one, block in ((key("u", 0), 1), (key("u", 9), 2), (key("v"), 3)):
        known.learn(mapped, one, entry(7, block))
    known.forget(UserKey("t", "u"))
    known.forget(UserKey("t", "u"))
    assert len(known) == 1 and known.find(mapped, key("v")) is not None
    known.check()


def test_another_segments_generations_say_nothing(segments):
    (first, mapped), (second, other) = segments
    known = KnownEntries()
    for owned in (first, second):
        owned.stamp((1,), 7)
    known.learn(mapped, key("u"), entry(7, 1))
    assert known.find(other, key("u")) is None
    assert known.find(mapped, key("u")) is None
    known.check()
