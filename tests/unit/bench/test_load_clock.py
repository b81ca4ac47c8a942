"""The clock wakes in order and never early."""

import asyncio
import threading
import time

import pytest

from bench.load.clock import Clock

MS = 1_000_000
# Equal times too: two moments of a trace may fall together.
DUE_NS = [0, MS // 3, MS, MS, 2 * MS, 5 * MS, 20 * MS]


async def test_wakes_in_order_and_never_before_the_time():
    woken: list[tuple[int, int]] = []

    async def wait(clock: Clock, place: int) -> None:
        await clock.until(place)
        woken.append((place, clock.now_ns()))

    with Clock(DUE_NS, asyncio.get_running_loop(), lead_ns=20 * MS) as clock:
        assert clock.now_ns() < 0
        # Who waits first is not who is woken first.
        await asyncio.gather(*(wait(clock, place) for place in reversed(range(len(DUE_NS)))))
    assert [place for place, _ in woken] == list(range(len(DUE_NS)))
    assert all(now_ns >= DUE_NS[place] for place, now_ns in woken)


async def test_is_late_by_less_than_a_loops_own_timer_at_its_best():
    lates_ns = []
    with Clock([number * MS for number in range(100)], asyncio.get_running_loop(), lead_ns=5 * MS) as clock:
        for place in range(100):
            await clock.until(place)
            lates_ns.append(clock.now_ns() - place * MS)
    # The best of a hundred: a busy machine delays many of them, a clock that rounds up to milliseconds all.
    assert 0 <= min(lates_ns) < MS


async def test_a_trace_that_is_given_up_ends_its_thread():
    with Clock([0, 3_600_000 * MS], asyncio.get_running_loop(), lead_ns=0) as clock:
        await clock.until(0)
        begun_s = time.monotonic()
    assert time.monotonic() - begun_s < 30
    assert not [thread for thread in threading.enumerate() if thread.name == "clock"]


async def test_times_out_of_order_are_refused():
    with pytest.raises(AssertionError, match="in order"):
        Clock([2, 1], asyncio.get_running_loop())
