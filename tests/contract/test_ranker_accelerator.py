"""The whole ranker over the accelerator's adapter and a real expander, on torch's CPU backend.

The adapter's staging, copies and streams are those of an accelerator; torch's CPU streams
carry them. What a device would do at the same time is the recorder's part, in
tests/unit/ranker/test_device_ordering.py.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch

from relaygr.v1 import ranker_pb2
from services.ranker import assembly
from services.ranker.adapters.device.accelerator import AcceleratorDevice
from services.ranker.core.lifecycle import PsiState
from tests.contract import expander_world
from tests.contract.expander_world import expander_world as expanders
from tests.contract.ranker_world import World, history, model_dir, ranker_world

__all__ = ["model_dir"]

PAGES = 8
"""Two psi of the histories below, and no third."""


class CpuModule:
    """torch.cpu, and what it lacks of the other backends."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def Stream(self, device: torch.device) -> Any:
        return torch.cpu.Stream()

    def set_stream(self, stream: Any) -> None:
        """There is one."""

    def mem_get_info(self, device: torch.device) -> tuple[int, int]:
        return 1 << 40, 1 << 40


class Device(AcceleratorDevice):
    """Counts copies and can fail them."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"), CpuModule())
        self.uploads: list[str] = []
        self.failing = ""
        self.bound: list[str] = []

    def bind(self) -> None:
        self.bound.append(threading.current_thread().name)
        super().bind()

    def upload(self, *arguments: Any) -> None:
        self.uploads.append(threading.current_thread().name)
        if self.failing == "upload":
            raise RuntimeError("the link failed")
        super().upload(*arguments)

    def download(self, *arguments: Any) -> None:
        if self.failing == "download":
            raise RuntimeError("the link failed")
        super().download(*arguments)

    @property
    def buffers_out(self) -> int:
        return len(self._pool) - self._pool.free if self._pool else 0


class Rig:
    """A ranker, its device, and users who come and go."""

    def __init__(self, world: World, device: Device):
        self.world, self.device = world, device

    def counters(self) -> dict[str, int]:
        return self.world.ranker.engine.residency.snapshot().counters

    async def relay(self, user: str) -> tuple[str, float]:
        """One relay: the tier that served it, and how far its scores are from full inference."""
        behaviours = history(int(user[1:]), 450)
        ticket = self.world.ticket(behaviours, user)
        await self.world.pre_infer(behaviours, ticket)
        await self.until(self._is_produced)
        request = self.world.rank_request(behaviours, user, ticket=ticket)
        response = await self.world.rank(request)
        await self.until(lambda: self._spills_over() and not self.device.buffers_out)
        return ranker_pb2.Tier.Name(response.tier), await self.world.difference(request, response)

    def _is_produced(self) -> bool:
        entries = self.world.ranker.engine.residency._books.entries.by_id.values()
        return all(entry.state in (PsiState.RESIDENT, PsiState.SPILLING) for entry in entries)

    def _spills_over(self) -> bool:
        counters = self.counters()
        return counters["spills_started"] == counters["spills_stored"] + counters["spills_failed"]

    async def until(self, condition: Any) -> None:
        await expander_world.until(condition)


@pytest.fixture
async def rig(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    device = Device()
    monkeypatch.setattr(assembly, "open_accelerator", lambda name: device)
    async with (
        expanders(tmp_path, segment_bytes=64_000_000, block_bytes=1 << 20) as host,
        ranker_world(model_dir, pages=PAGES, device="cuda", expander=host.address) as world,
    ):
        rig = Rig(world, device)
        await rig.until(lambda: world.ranker.engine.is_dram_attached)
        # Control calls may be late on a shared machine without that being the point.
        world.ranker.dram._call_timeout_s = 2.0
        # Nor reloads that take longer than computing so little would.
        world.ranker.engine.residency._books.reload_worth_ns = 60_000_000_000
        yield rig
        assert device.buffers_out == 0


async def test_psi_goes_to_dram_and_comes_back_over_staging(rig: Rig):
    assert await rig.relay("u1") == ("TIER_DEVICE", pytest.approx(0, abs=1e-5))
    for user in ("u2", "u3"):
        await rig.relay(user)
    tier, difference = await rig.relay("u1")
    assert (tier, rig.counters()["lookup_hits"]) == ("TIER_DRAM", 1)
    assert difference <= 1e-5
    # Not by the calibration at start, and not on the event loop.
    assert rig.device.uploads[-1].startswith("device-copy")


async def test_an_upload_that_fails_is_no_reload(rig: Rig):
    for user in ("u1", "u2", "u3"):
        await rig.relay(user)
    rig.device.failing = "upload"
    tier, difference = await rig.relay("u1")
    assert rig.counters()["reloads_failed"] == 1
    assert tier != "TIER_DRAM" and difference <= 1e-5


async def test_a_download_that_fails_is_no_spill_and_costs_no_rank(rig: Rig):
    rig.device.failing = "download"
    tier, difference = await rig.relay("u1")
    assert tier == "TIER_DEVICE" and difference <= 1e-5
    assert rig.counters()["spills_failed"] == 1 and rig.counters()["spills_stored"] == 0


async def test_the_thread_that_computes_is_bound_to_the_device(rig: Rig):
    await rig.relay("u1")
    assert "device" in rig.device.bound


async def test_the_device_is_closed_after_the_ranker(rig: Rig):
    await rig.relay("u1")
    assert rig.device.staged_pages_max
    await rig.world.ranker.close()
    assert not rig.device.staged_pages_max
