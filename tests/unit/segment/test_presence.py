"""Zero means that no entry is visible, and everything else means to ask."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaygr.domain.identity import PsiKey, UserKey
from relaygr.segment import Geometry, MappedSegment, OwnedSegment, PresenceFilter
from relaygr.segment.layout import GENERATION_BYTES, PAGE_BYTES, SLOTS_MAX
from relaygr.segment.presence import COUNTER_MAX

KEY = PsiKey(UserKey("t", "u"), "m", 0)
KEYS = [PsiKey(UserKey("t", f"u{number}"), "m", 0) for number in range(6)]


def filter_of(slots: int) -> tuple[PresenceFilter, np.ndarray]:
    counters = np.zeros(slots, dtype=np.uint8)
    return PresenceFilter(counters), counters


def test_a_key_is_there_until_it_left_as_often_as_it_came():
    presence, counters = filter_of(4096)
    assert not presence.may_hold(KEY)
    presence.add(KEY)
    presence.add(KEY)
    presence.remove(KEY)
    assert presence.may_hold(KEY)
    presence.remove(KEY)
    assert not presence.may_hold(KEY) and not counters.any()


@pytest.mark.parametrize(
    "other",
    [
        PsiKey(UserKey("x", "u"), "m", 0),
        PsiKey(UserKey("t", "v"), "m", 0),
        PsiKey(UserKey("t", "u"), "n", 0),
        PsiKey(UserKey("t", "u"), "m", 128),
        PsiKey(UserKey("tu", ""), "m", 0),
    ],
)
def test_every_part_of_the_identity_counts(other):
    presence, _ = filter_of(SLOTS_MAX)
    presence.add(KEY)
    assert not presence.may_hold(other)


def test_a_full_counter_has_lost_count_and_stays():
    presence, counters = filter_of(1)
    for _ in range(COUNTER_MAX + 3):
        presence.add(KEY)
    for _ in range(COUNTER_MAX + 3):
        presence.remove(KEY)
    assert counters.tolist() == [COUNTER_MAX] and presence.may_hold(KEY)


def test_a_counter_that_was_damaged_asks_always_and_costs_nobody_else():
    damaged, counters = filter_of(64)
    damaged.add(KEY)
    counters[:] = 0
    damaged.remove(KEY)
    assert damaged.may_hold(KEY)
    damaged.add(KEY)
    damaged.remove(KEY)
    assert damaged.may_hold(KEY), "it has lost count until the next boot"


@given(st.lists(st.sampled_from(KEYS), max_size=40), st.data())
def test_whoever_is_there_is_never_missed_however_few_the_slots(coming, data):
    presence, counters = filter_of(2)
    there: Counter[PsiKey] = Counter()
    for key in coming:
        presence.add(key)
        there[key] += 1
        if data.draw(st.booleans()):
            leaving = data.draw(st.sampled_from(sorted(there.elements(), key=str)))
            presence.remove(leaving)
            there -= Counter([leaving])
        assert all(presence.may_hold(one) for one in there)
        assert int(counters.sum()) == there.total()


def test_a_ranker_sees_what_the_owner_counts_and_cannot_count_itself(tmp_path: Path):
    geometry = Geometry(4096, 16)
    owned = OwnedSegment(tmp_path, "d", "0" * 32, geometry)
    mapped = MappedSegment.open(
        owned.path, boot_id="0" * 32, segment_bytes=geometry.total_bytes, block_bytes=geometry.block_bytes
    )
    assert not mapped.presence.may_hold(KEY), "a new segment has none"
    owned.presence.add(KEY)
    assert mapped.presence.may_hold(KEY)
    with pytest.raises(ValueError, match="read-only"):
        mapped.presence.add(KEY)
    assert mapped.owns(range(16), 0) and not mapped.blocks.any(), "and it lies beside the rest"
    owned.close()
    assert owned.presence.may_hold(KEY) and mapped.presence.may_hold(KEY)
    mapped.close()
    assert mapped._map.closed and owned._map.closed


@pytest.mark.parametrize(
    ("blocks", "slots"),
    [(1, PAGE_BYTES), (512, 4096), (513, 8192), (16_384, 131_072), (131_073, SLOTS_MAX), (1 << 24, SLOTS_MAX)],
)
def test_slots_follow_from_the_geometry(blocks, slots):
    geometry = Geometry(65_536, blocks)
    assert geometry.presence_slots == slots
    assert geometry.presence_offset >= PAGE_BYTES + blocks * GENERATION_BYTES
    assert geometry.data_offset == geometry.presence_offset + slots and geometry.data_offset % PAGE_BYTES == 0
