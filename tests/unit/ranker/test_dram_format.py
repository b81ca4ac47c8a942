"""Conversions for the DRAM tier are bounded, take turns, and end before their memory is used again."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import numpy as np
import pytest

from relaygr.domain.identity import ModelIdentity
from relaygr.errors import Refused
from services.ranker.adapters.dram_format import AsOnDevice, Int8Pages
from services.ranker.adapters.dram_format_int8 import Int8Codec, int8_codec
from services.ranker.config import RankerConfig

IDENTITY = ModelIdentity("m", "1", "ab" * 32, "float32", "paged128", 1024)
ELEMENTS = 256
PAGES = 4


class HeldCodec(Int8Codec):
    """Encodes when it is let."""

    def __init__(self) -> None:
        super().__init__("float32", ELEMENTS, None)
        self.begun, self.may_go_on, self.count = threading.Event(), threading.Event(), 0

    def encode(self, page, stored):
        self.begun.set()
        assert self.may_go_on.wait(10)
        self.count += 1
        return super().encode(page, stored)


def views(count: int) -> list[np.ndarray]:
    random = np.random.default_rng(count)
    return [random.standard_normal(ELEMENTS).astype(np.float32).view(np.uint8) for _ in range(count)]


@pytest.fixture
async def pages():
    made = Int8Pages(int8_codec("float32", ELEMENTS), IDENTITY, PAGES, timeout_s=5.0)
    yield made
    made.close()
    assert made.pages_free == PAGES


async def test_pages_come_back_in_their_order(pages):
    wanted, found = views(3), [np.zeros(4 * ELEMENTS, np.uint8) for _ in range(3)]
    async with pages.room(wanted) as stored:
        assert await pages.encode(wanted, stored)
        await pages.decode(stored, found)
    for one, other in zip(wanted, found, strict=True):
        assert np.allclose(one.view("f4"), other.view("f4"), atol=0.02)


async def test_who_asks_first_gets_room_first(pages):
    order: list[int] = []
    begun = asyncio.Event()

    async def take(count: int) -> None:
        async with pages.room(views(count)):
            order.append(count)

    async with pages.room(views(2)):
        waiting = [asyncio.create_task(take(count)) for count in (3, 1)]
        asyncio.get_running_loop().call_soon(begun.set)
        await begun.wait()
        assert not order, "one page is free, but three were asked for before"
    await asyncio.gather(*waiting)
    assert order == [3, 1]


async def test_more_pages_than_there_are_and_memory_that_stays_out_are_refused():
    pages = Int8Pages(int8_codec("float32", ELEMENTS), IDENTITY, PAGES, timeout_s=0.01)
    with pytest.raises(Refused, match="holds 4"):
        async with pages.room(views(PAGES + 1)):
            pass
    async with pages.room(views(PAGES)):
        with pytest.raises(Refused, match="stayed out"):
            async with pages.room(views(1)):
                pass
    assert pages.pages_free == PAGES
    pages.close()


async def test_a_cancelled_caller_keeps_its_memory_until_the_page_under_way_is_done():
    codec = HeldCodec()
    pages = Int8Pages(codec, IDENTITY, PAGES)

    async def convert() -> None:
        async with pages.room(views(3)) as stored:
            await pages.encode(views(3), stored)

    task = asyncio.create_task(convert())
    await asyncio.to_thread(codec.begun.wait, 10)
    task.cancel()
    for _ in range(10):
        await asyncio.sleep(0)  # the cancellation reaches the conversion after a few turns of the loop
    assert not task.done() and pages.pages_free == PAGES - 3
    codec.may_go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pages.pages_free == PAGES and codec.count == 1
    pages.close()


async def test_conversion_leaves_the_event_loop_free():
    codec = HeldCodec()
    pages = Int8Pages(codec, IDENTITY, PAGES)
    async with pages.room(views(1)) as stored:
        task = asyncio.create_task(pages.encode(views(1), stored))
        await asyncio.to_thread(codec.begun.wait, 10)
        codec.may_go_on.set()
        assert await task
    pages.close()


async def test_each_form_has_an_identity_of_its_own(pages):
    assert AsOnDevice(IDENTITY).identity == IDENTITY
    assert pages.identity == replace(IDENTITY, layout="paged128-dram-int8g64")
    assert pages.identity.key != IDENTITY.key


def test_int8_on_the_device_is_not_made_int8_again():
    with pytest.raises(AssertionError, match=r"dram_dtype.*kv_dtype"):
        RankerConfig(model="m", ticket_key=bytes(16), kv_dtype="int8", dram_dtype="int8")
    with pytest.raises(AssertionError, match="dram_dtype"):
        RankerConfig(model="m", ticket_key=bytes(16), dram_dtype="int4")
