"""A ranker that keeps psi as int8 in DRAM, against a real expander: on the CPU's own pages and over staging buffers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from relaygr.domain.identity import PsiKey, UserKey
from services.ranker import assembly
from services.ranker.adapters.dram_format import Int8Pages
from tests.contract.expander_world import World as Host
from tests.contract.expander_world import expander_world, found
from tests.contract.ranker_world import PAGE_BYTES, history, model_dir, ranker_world
from tests.contract.test_ranker_accelerator import PAGES, Device, Rig

__all__ = ["model_dir"]

PSI_PAGES = 4
ERROR_MAX = 0.02
"""Of scores on int8 psi, by the design's measure."""


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    async with expander_world(tmp_path, segment_bytes=64_000_000, block_bytes=4096) as made:
        yield made


@asynccontextmanager
async def rigged(model: Path, host: Host, device: Any = None, dram_dtype: str = "int8") -> AsyncIterator[Rig]:
    """Users of a ranker with room for two of their psi; ends with all scratch memory given back."""
    name = "cuda" if device else "cpu"
    settings = {"device": name, "dram_dtype": dram_dtype, "expander": host.address}
    async with ranker_world(model, pages=PAGES, **settings) as world:
        rig = Rig(world, device or SimpleNamespace(buffers_out=0))
        await rig.until(lambda: world.ranker.engine.is_dram_attached)
        # Control calls may be late on a shared machine without that being the point.
        world.ranker.dram._call_timeout_s = 2.0
        yield rig
        pages = world.ranker.page_format
        assert not isinstance(pages, Int8Pages) or pages.pages_free * pages._codec.stored_bytes == pages.scratch_bytes


@pytest.fixture(params=["cpu", "accelerator"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Device | None:
    if request.param == "cpu":
        return None
    made = Device()
    monkeypatch.setattr(assembly, "open_accelerator", lambda name: made)
    return made


async def evicted(rig: Rig) -> None:
    """u1's psi is in DRAM and no longer on the device."""
    for user in ("u1", "u2", "u3"):
        await rig.relay(user)


async def test_psi_that_went_through_int8_scores_within_its_bound(model_dir, host, device):
    async with rigged(model_dir, host, device) as rig:
        await evicted(rig)
        tier, difference = await rig.relay("u1")
        assert tier == "TIER_DRAM" and rig.counters()["lookup_hits"] == 1
        assert 1e-6 < difference < ERROR_MAX, "it lost something, and not much"


async def test_an_entry_takes_a_byte_and_a_share_of_its_bound_for_each_element(model_dir, host):
    async with rigged(model_dir, host) as rig:
        await rig.relay("u1")
        ranker = rig.world.ranker
        entry = await found(ranker.dram, PsiKey(UserKey("default", "u1"), ranker.page_format.identity.key, 0))
        await ranker.dram.abandon(entry)
        assert entry.length_bytes == PSI_PAGES * PAGE_BYTES * 68 // 256


async def test_a_ranker_with_the_other_setting_misses(model_dir, host):
    for dram_dtype, hits in (("int8", 0), ("", 0), ("int8", 1), ("", 1)):
        async with rigged(model_dir, host, dram_dtype=dram_dtype) as rig:
            _, difference = await rig.relay("u1")
            assert rig.counters()["lookup_hits"] == hits, dram_dtype
            assert difference < (ERROR_MAX if dram_dtype and hits else 1e-5)


async def test_a_byte_that_changed_in_dram_is_found_and_psi_is_computed_anew(model_dir, host):
    async with rigged(model_dir, host) as rig:
        await evicted(rig)
        segment = rig.world.ranker.dram._attacher.current.segment
        for block in range(segment.geometry.block_count):
            segment.block(block)[100] ^= 1
        tier, difference = await rig.relay("u1")
        assert rig.counters()["reloads_failed"] == 1
        assert tier != "TIER_DRAM" and difference <= 1e-5


async def test_psi_with_numbers_that_are_none_stays_out_of_dram(model_dir, host, caplog):
    """What lies behind the last token is never read by a rank, but a page is stored whole."""
    async with rigged(model_dir, host) as rig:
        rig.world.ranker.engine._arena.fill_(float("nan"))
        tier, difference = await rig.relay("u1")
        assert tier == "TIER_DEVICE" and difference <= 1e-5
        assert rig.counters()["spills_failed"] == 1 and "no finite numbers" in caplog.text


async def test_a_ranker_that_closes_in_the_middle_of_a_reload_waits_for_the_page_under_way(
    model_dir, host, device, monkeypatch
):
    async with rigged(model_dir, host, device) as rig:
        await evicted(rig)
        pages = rig.world.ranker.page_format
        begun, may_go_on, decoded = threading.Event(), threading.Event(), []
        real = pages._codec.decode

        def decode(stored: Any, page: Any) -> None:
            begun.set()
            assert may_go_on.wait(10)
            decoded.append(page)
            real(stored, page)

        monkeypatch.setattr(pages._codec, "decode", decode)
        behaviours = history(1, 450)
        await rig.world.pre_infer(behaviours, rig.world.ticket(behaviours, "u1"))
        await rig.until(begun.is_set)
        closing = asyncio.create_task(rig.world.ranker.productions.close())
        for _ in range(10):
            await asyncio.sleep(0)  # the cancellation reaches the conversion after a few turns of the loop
        assert not closing.done() and pages.pages_free * pages._codec.stored_bytes < pages.scratch_bytes
        may_go_on.set()
        await closing
        assert len(decoded) == 1, "the pages behind it were left alone"
