"""Staging is bounded and comes back whole; copies wait on threads of their own."""

import asyncio
import threading

import pytest
import torch

from relaygr.errors import Refused
from services.ranker.adapters.device.accelerator import STAGED_PSI, WORKSPACE_BYTES, AcceleratorDevice
from services.ranker.adapters.device.copies import COPIES_MAX, PageCopies
from services.ranker.adapters.device.cpu import CpuDevice
from services.ranker.adapters.device.interface import DeviceUnavailable
from services.ranker.adapters.device.staging import StagingPool
from tests.unit.ranker.device_recorder import Recorder

CPU = torch.device("cpu")
ELEMENTS = 8


def test_buffers_are_handed_out_all_or_nothing_and_used_again():
    pool = StagingPool(torch.zeros(4, ELEMENTS))
    first = pool.take(3)
    assert len(first.views) == 3 and first.views[0].nbytes == ELEMENTS * 4
    assert pool.take(2) is None and pool.free == 1
    pool.give(first)
    second = pool.take(4)
    assert set(first.slots) < set(second.slots) and pool.free == 0


def test_a_buffer_given_back_twice_is_found():
    pool = StagingPool(torch.zeros(2, ELEMENTS))
    staged = pool.take(1)
    pool.give(staged)
    with pytest.raises(AssertionError, match="twice"):
        pool.give(staged)
    assert pool.free == 2


def test_views_and_copies_see_the_same_bytes():
    pool = StagingPool(torch.zeros(2, ELEMENTS, dtype=torch.bfloat16))
    staged = pool.take(1)
    pool.tensor(staged.slots[0]).fill_(1.5)
    assert torch.from_numpy(staged.views[0]).view(torch.bfloat16).tolist() == [1.5] * ELEMENTS


def test_staging_holds_a_few_of_the_largest_psi_and_never_more_than_the_arena():
    for pages, psi_pages, wanted in ((100, 3, 3 * STAGED_PSI), (5, 3, 5)):
        device = AcceleratorDevice(CPU, Recorder())
        device.allocate(pages, ELEMENTS, torch.float32, psi_pages)
        assert device.staged_pages_max == wanted


def test_an_arena_that_does_not_fit_is_refused_with_the_figures():
    arena_bytes = 10 * ELEMENTS * 4
    AcceleratorDevice(CPU, Recorder(free_bytes=arena_bytes + WORKSPACE_BYTES)).allocate(10, ELEMENTS, torch.float32, 1)
    short = AcceleratorDevice(CPU, Recorder(free_bytes=arena_bytes + WORKSPACE_BYTES - 1))
    with pytest.raises(DeviceUnavailable, match=rf"device_budget_bytes asks for {arena_bytes} bytes on cpu"):
        short.allocate(10, ELEMENTS, torch.float32, 1)


class Slow(AcceleratorDevice):
    """A device whose copies last until the test says so, or fail."""

    def __init__(self):
        super().__init__(CPU, Recorder())
        self.may_end = threading.Event()
        self.threads: list[str] = []
        self.under_way = self.most_under_way = 0
        self.ended = 0
        self.is_failing = False
        self._count = threading.Lock()

    def upload(self, arena, page_ids, staged):
        with self._count:
            self.threads.append(threading.current_thread().name)
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        assert self.may_end.wait(10)
        with self._count:
            self.under_way -= 1
            self.ended += 1
        if self.is_failing:
            raise RuntimeError("the device failed")
        super().upload(arena, page_ids, staged)


class World:
    """Copies of a slow device with four staging buffers."""

    def __init__(self, pages=8, psi_pages_max=1, **options):
        self.device = Slow()
        arena = self.device.allocate(pages, ELEMENTS, torch.float32, psi_pages_max)
        self.copies = PageCopies(self.device, arena, **options)

    async def reload(self, *page_ids):
        async with self.copies.staged(page_ids) as staged:
            await self.copies.upload(page_ids, staged)

    @property
    def free(self):
        return self.device._staging.free


async def turns(count=20):
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition):
    """Turns of the loop until a thread has got so far."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for happens on a thread
            await asyncio.sleep(0)


async def test_the_loop_goes_on_while_a_copy_waits_for_the_device():
    world = World()
    task = asyncio.create_task(world.reload(0))
    await until(lambda: world.device.threads)
    await turns()
    assert not task.done() and world.device.threads[0].startswith("device-copy")
    world.device.may_end.set()
    await task
    world.copies.close()


async def test_copies_in_flight_are_bounded_by_the_buffers_and_by_the_threads():
    world = World(psi_pages_max=3)
    tasks = [asyncio.create_task(world.reload(0, 1)) for _ in range(6)]
    await until(lambda: world.device.under_way == COPIES_MAX)
    await turns()
    assert world.device.under_way == COPIES_MAX and world.free == 0
    world.device.may_end.set()
    await asyncio.gather(*tasks)
    assert world.device.most_under_way == COPIES_MAX and world.device.ended == 6 and world.free == 8
    world.copies.close()


async def test_a_large_copy_is_not_passed_by_small_ones():
    world = World()
    order = []

    async def reload(name, *page_ids):
        async with world.copies.staged(page_ids) as staged:
            order.append(name)
            await world.copies.upload(page_ids, staged)

    tasks = [asyncio.create_task(reload("first", 0, 1, 2))]
    await turns()
    tasks += [asyncio.create_task(reload("large", 0, 1)), asyncio.create_task(reload("small", 3))]
    await turns()
    assert order == ["first"] and world.free == 1
    world.device.may_end.set()
    await asyncio.gather(*tasks)
    assert order == ["first", "large", "small"] and world.free == 4
    world.copies.close()


async def test_a_failed_copy_leaves_the_pool_whole():
    world = World()
    world.device.may_end.set()
    world.device.is_failing = True
    for _ in range(6):
        with pytest.raises(RuntimeError, match="the device failed"):
            await world.reload(0, 1)
    assert world.free == 4
    world.copies.close()


async def test_a_cancelled_copy_is_waited_for_before_its_buffers_are_used_again():
    world = World()
    task = asyncio.create_task(world.reload(0))
    await until(lambda: world.device.under_way)
    task.cancel()
    await turns()
    assert not task.done() and world.free == 3
    world.device.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.device.ended == 1 and world.free == 4
    world.copies.close()


async def test_nobody_waits_for_buffers_longer_than_the_bound_and_the_turn_goes_on():
    world = World(stage_timeout_s=0.02)
    holding = asyncio.create_task(world.reload(0, 1, 2, 3))
    await until(lambda: world.device.under_way)
    for _ in range(2):
        with pytest.raises(Refused, match="too long"):
            await world.reload(0)
    world.device.may_end.set()
    await holding
    await world.reload(0)
    assert world.free == 4
    world.copies.close()


async def test_a_cancelled_wait_for_buffers_takes_none():
    world = World()
    holding = asyncio.create_task(world.reload(0, 1, 2, 3))
    await until(lambda: world.device.under_way)
    waiting = asyncio.create_task(world.reload(0))
    await turns()
    waiting.cancel()
    world.device.may_end.set()
    await holding
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert world.free == 4
    world.copies.close()


async def test_a_psi_larger_than_staging_is_refused_at_once():
    world = World()
    with pytest.raises(Refused, match="5 pages, staging holds 4"):
        await world.reload(0, 1, 2, 3, 4)
    world.copies.close()


async def test_close_waits_for_copies_and_gives_the_pinned_memory_back():
    world = World()
    task = asyncio.create_task(world.reload(0))
    await until(lambda: world.device.under_way)
    closing = asyncio.create_task(asyncio.to_thread(world.copies.close))
    await turns()
    assert not closing.done() and world.device.staged_pages_max == 4
    world.device.may_end.set()
    await asyncio.gather(task, closing)
    assert world.device.staged_pages_max == 0


async def test_on_the_cpu_the_views_are_the_arena_and_no_thread_is_used():
    device = CpuDevice()
    arena = device.allocate(3, ELEMENTS, torch.float32, 1)
    copies = PageCopies(device, arena)
    before = threading.active_count()
    async with copies.staged((2,)) as staged:
        staged.views[0][:] = torch.full((ELEMENTS,), 3.0).view(torch.uint8).numpy()
        await copies.upload((2,), staged)
    assert arena[2].tolist() == [3.0] * ELEMENTS and threading.active_count() == before
    copies.close()
