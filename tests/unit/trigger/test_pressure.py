"""The law by which feedback scales the bounds: where it rests, how fast it moves, and that it settles."""

from __future__ import annotations

import math
from collections import deque
from itertools import pairwise

import pytest

from relaygr.domain.feedback import Feedback
from services.trigger.core.pressure import (
    DECLINED_ALLOWED,
    GAIN,
    LOST_ALLOWED,
    PERIOD_NS,
    RELAX,
    SCALE_LEAST,
    WAIT_ALLOWED,
    Pressure,
    footprint_pressure,
    load_pressure,
)

MS = 1_000_000
WINDOW_NS = 2_000 * MS


class Watched:
    """A pressure that is told news period by period."""

    def __init__(self):
        self.pressure = Pressure(0)
        self.now_ns = 0
        self.total = Feedback()
        self.pressure.observe(self.total, WINDOW_NS, 0)

    def period(self, **news):
        self.now_ns += PERIOD_NS
        counts = {name: getattr(self.total, name) + news.get(name, 0) for name in Feedback.__dataclass_fields__}
        self.total = Feedback(**counts)
        self.pressure.observe(self.total, WINDOW_NS, self.now_ns)
        self.pressure.check()
        return self.pressure


def test_calm_leaves_the_whole_of_both_bounds():
    watched = Watched()
    for _ in range(100):
        watched.period(pre_infers=100, relays=100, productions=100)
    assert (watched.pressure.footprint, watched.pressure.load) == (1, 1)


@pytest.mark.parametrize(
    "news, footprint, load",
    [
        ({"pre_infers": 100, "declined_footprint": 100}, math.exp(-GAIN), 1),
        ({"relays": 100, "relays_lost": 100}, math.exp(-GAIN), 1),
        ({"pre_infers": 100, "declined_overloaded": 100}, 1, math.exp(-GAIN)),
        ({"productions": 10, "production_wait_ns": 10 * WINDOW_NS}, 1, math.exp(-GAIN)),
    ],
)
def test_each_signal_tightens_its_own_bound_by_no_more_than_one_step_a_period(news, footprint, load):
    pressure = Watched().period(**news)
    assert (pressure.footprint, pressure.load) == pytest.approx((footprint, load))


def test_the_scale_rests_where_the_signal_is_what_is_allowed():
    allowed = Feedback(
        pre_infers=1_000,
        declined_footprint=int(1_000 * DECLINED_ALLOWED),
        relays=1_000,
        relays_lost=int(1_000 * LOST_ALLOWED),
        productions=10,
        production_wait_ns=int(10 * WAIT_ALLOWED * WINDOW_NS),
    )
    assert footprint_pressure(allowed) == pytest.approx(1)
    assert load_pressure(allowed, WINDOW_NS) == pytest.approx(1)
    assert load_pressure(allowed, 0) == 0, "no window is known yet"


def test_one_of_two_is_not_half():
    assert footprint_pressure(Feedback(pre_infers=2, declined_footprint=1)) == pytest.approx(1 / 16 / DECLINED_ALLOWED)


def test_silence_relaxes_as_slowly_as_calm_does_and_all_at_once_when_nobody_came():
    watched, other = Watched(), Watched()
    for each in (watched, other):
        for _ in range(30):
            each.period(relays=100, relays_lost=100)
        assert each.pressure.footprint == SCALE_LEAST
    for _ in range(10):
        watched.period()
    other.now_ns += 9 * PERIOD_NS
    other.period()
    assert watched.pressure.footprint == pytest.approx(SCALE_LEAST * math.exp(10 * GAIN * RELAX))
    assert other.pressure.footprint == pytest.approx(watched.pressure.footprint)


def test_feedback_that_is_older_than_what_was_heard_changes_nothing():
    watched = Watched()
    watched.period(pre_infers=1_000, relays=1_000)
    watched.pressure.observe(Feedback(pre_infers=10, relays_lost=10), WINDOW_NS, watched.now_ns)
    watched.period(pre_infers=1_000, relays=1_000)
    assert watched.pressure.footprint == 1


def test_what_was_counted_before_this_trigger_came_is_not_held_against_the_instance():
    pressure = Pressure(0)
    pressure.observe(Feedback(pre_infers=10_000, declined_footprint=9_000), WINDOW_NS, PERIOD_NS)
    assert pressure.footprint == 1


def settled(delay: int, plant, periods: int = 1_000) -> list[float]:
    """Scales of the second half, under a signal that follows the scale of `delay` periods ago.

    Args:
        delay: periods, at least 1.
        plant: the footprint pressure that a scale leads to, by what it last was.
    """
    watched, scales, seen = Watched(), [], deque([1.0] * delay, maxlen=delay)
    for _ in range(periods):
        declined = min(1.0, plant(seen[0]) * DECLINED_ALLOWED)
        seen.append(watched.period(pre_infers=100_000, declined_footprint=int(100_000 * declined)).footprint)
        scales.append(seen[-1])
    return scales[periods // 2 :]


@pytest.mark.parametrize("delay", [1, 2, 3, 5])
@pytest.mark.parametrize("steepness", [0.5, 1, 2, 5, 20, 200])
@pytest.mark.parametrize("rest", [0.3, 0.5, 0.8])
def test_it_settles_within_the_stated_bounds_however_steep_and_late_the_signal(delay, steepness, rest):
    scales = settled(delay, lambda scale: (scale / rest) ** steepness)
    assert min(scales) >= max(SCALE_LEAST, rest * math.exp(-GAIN * (delay + 1))) * 0.999
    assert max(scales) <= rest * math.exp(GAIN * RELAX * (delay + 1)) * 1.001
    # Where the steps die out, as the docstring has it, they have.
    if GAIN * steepness < 0.8 * 2 * math.sin(math.pi / (2 * (2 * delay + 1))):
        assert max(scales) / min(scales) < 1.01


@pytest.mark.parametrize("load", [0.5, 0.9, 1.2, 2.0, 4.0])
@pytest.mark.parametrize("delay", [1, 2, 3])
def test_a_queue_of_pre_infers_settles_and_keeps_its_device_busy(load, delay):
    """A device with a queue: what is admitted beyond it adds up, what is below drains, and waits are told late."""
    watched, backlog_s, told = Watched(), 0.0, deque([0.0] * delay, maxlen=delay)
    scales, waits = [], []
    for _ in range(1_200):
        admitted = min(load, 2.0 * watched.pressure.load)  # of a bound of twice the device
        backlog_s = max(0.0, backlog_s + admitted - 1.0)
        busy = min(admitted, 0.99)
        waits.append(backlog_s + 0.05 * busy / (1 - busy))
        wait_s, _ = told[0], told.append(waits[-1])
        watched.period(productions=100, production_wait_ns=int(100 * wait_s * 1e9))
        scales.append(watched.pressure.load)
    late = scales[600:]
    if load < 1:
        assert set(scales) == {1.0}, "a queue that holds its limit is left alone"
        return
    assert max(late) / min(late) < (1.001 if delay <= 2 else math.exp(GAIN * (delay + 1)))
    assert max(abs(later - earlier) for earlier, later in pairwise(scales)) <= 1 - math.exp(-GAIN)
    assert 0.42 < sum(late) / len(late) < 0.5, "half is all that the device can do"
    assert max(waits[600:]) < 1.25, "of half a second that is allowed"
