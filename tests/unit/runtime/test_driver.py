import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from relaygr.runtime.driver import CHECK_PAUSE_NS, REST_S, Driver


class Loop:
    """Only call_later: what is due is run by hand."""

    def __init__(self) -> None:
        self.timers: list[tuple[float, Callable[[], None], asyncio.TimerHandle]] = []

    def call_later(self, delay_s: float, call: Callable[[], None]) -> Any:
        entry: Any = [delay_s, call, None]
        self.timers.append(entry)
        outer = self

        class Handle:
            def cancel(self) -> None:
                with contextlib.suppress(ValueError):
                    outer.timers.remove(entry)

        return Handle()

    def fire(self) -> None:
        """Run the one timer."""
        ((_, call, _),) = self.timers
        self.timers.clear()
        call()

    @property
    def delays_s(self) -> list[float]:
        return [delay_s for delay_s, _, _ in self.timers]


class Alarm:
    """Echoes events; an integer event sets the deadline, expiry rings."""

    def __init__(self) -> None:
        self.due_ns: int | None = None
        self.log: list[Any] = []
        self.checked = 0
        self.stuck = False

    def handle(self, event: Any, now_ns: int) -> list[Any]:
        self.log.append((event, now_ns))
        if isinstance(event, int):
            self.due_ns = event
            return []
        return list(event)

    def deadline_ns(self) -> int | None:
        return self.due_ns

    def expire(self, now_ns: int) -> list[Any]:
        if self.due_ns is None or now_ns < self.due_ns:
            return []
        if not self.stuck:
            self.due_ns = None
        return ["ring"]

    def check(self) -> None:
        self.checked += 1


class Bench:
    def __init__(self) -> None:
        self.now_ns = 0
        self.machine = Alarm()
        self.loop = Loop()
        self.done: list[Any] = []
        self.on_effect: Callable[[Any], None] = lambda effect: None
        loop: Any = self.loop
        self.driver: Driver[Any, Any] = Driver(self.machine, self._perform, lambda: self.now_ns, loop)

    def _perform(self, effect: Any) -> None:
        self.done.append(effect)
        self.on_effect(effect)


def test_effects_are_performed_in_order() -> None:
    bench = Bench()
    bench.driver.feed("abc")
    assert bench.done == ["a", "b", "c"]


def test_event_fed_from_an_effect_waits_for_the_effects_before_it() -> None:
    bench = Bench()
    bench.on_effect = lambda effect: bench.driver.feed("xy") if effect == "a" else None
    bench.driver.feed("ab")
    assert bench.done == ["a", "b", "x", "y"]


def test_one_timer_follows_the_deadline() -> None:
    bench = Bench()
    bench.now_ns = 1_000_000_000
    bench.driver.feed(3_000_000_000)
    assert bench.loop.delays_s == [2.0]
    bench.driver.feed(1_500_000_000)
    assert bench.loop.delays_s == [0.5]
    bench.driver.feed("a")
    assert bench.loop.delays_s == [0.5]


def test_expiry_rings_checks_and_disarms() -> None:
    bench = Bench()
    bench.driver.feed(5)
    bench.now_ns = 5
    bench.loop.fire()
    assert bench.done == ["ring"] and bench.machine.checked == 1
    assert bench.loop.timers == []


def test_expiries_in_quick_succession_check_once_a_second() -> None:
    bench = Bench()
    for now_ns in (5, 6, 7, CHECK_PAUSE_NS + 4, CHECK_PAUSE_NS + 5):
        bench.driver.feed(now_ns)
        bench.now_ns = now_ns
        bench.loop.fire()
    assert bench.done == ["ring"] * 5 and bench.machine.checked == 2


def test_timer_that_comes_early_is_set_again() -> None:
    bench = Bench()
    bench.driver.feed(10_000_000_000)
    bench.now_ns = 4_000_000_000
    bench.loop.fire()
    assert bench.done == [] and bench.loop.delays_s == [6.0]


def test_deadline_that_does_not_move_cannot_take_the_loop() -> None:
    bench = Bench()
    bench.machine.stuck = True
    bench.driver.feed(5)
    bench.now_ns = 10
    bench.loop.fire()
    assert bench.loop.delays_s == [REST_S]


def test_effect_that_raises_keeps_no_other_from_being_performed() -> None:
    bench = Bench()

    def fail(effect: Any) -> None:
        if effect == "a":
            raise ValueError("a broke")

    bench.on_effect = fail
    bench.machine.due_ns = 7
    with pytest.raises(ValueError, match="a broke"):
        bench.driver.feed("ab")
    assert bench.done == ["a", "b"]
    assert len(bench.loop.timers) == 1
    bench.driver.feed("c")
    assert bench.done == ["a", "b", "c"]


def test_closed_driver_drops_events_and_its_timer() -> None:
    bench = Bench()
    bench.driver.feed(5)
    bench.driver.close()
    bench.driver.feed("a")
    bench.driver.close()
    assert bench.done == [] and bench.loop.timers == []


def test_closing_from_an_effect_ends_the_turn_without_a_timer() -> None:
    bench = Bench()
    bench.machine.due_ns = 5
    bench.on_effect = lambda effect: bench.driver.close()
    bench.driver.feed("a")
    assert bench.done == ["a"] and bench.loop.timers == []


def test_machine_that_feeds_itself_for_ever_is_stopped() -> None:
    bench = Bench()
    bench.on_effect = lambda effect: bench.driver.feed("a")
    with pytest.raises(AssertionError, match="without end"):
        bench.driver.feed("a")
    bench.on_effect = lambda effect: None
    bench.driver.feed("b")
    assert bench.done[-1] == "b"


def test_machine_that_breaks_does_not_block_the_next_event() -> None:
    bench = Bench()
    with pytest.raises(TypeError):
        bench.driver.feed(object())
    bench.driver.feed("a")
    assert bench.done == ["a"]


def test_failed_check_is_raised_after_the_turn_is_complete() -> None:
    bench = Bench()

    def check() -> None:
        raise AssertionError("pages lost")

    bench.machine.check = check  # type: ignore[method-assign]
    bench.on_effect = lambda effect: bench.driver.feed("x") if effect == "ring" else None
    bench.driver.feed(5)
    bench.now_ns = 5
    with pytest.raises(AssertionError, match="pages lost"):
        bench.loop.fire()
    assert bench.done == ["ring", "x"]


async def test_real_loop_and_clock_ring() -> None:
    rung = asyncio.Event()
    machine = Alarm()
    driver: Driver[Any, Any] = Driver(machine, lambda effect: rung.set())
    driver.feed(1)
    await asyncio.wait_for(rung.wait(), 5)
    driver.close()
