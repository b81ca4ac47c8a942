"""How much of its bounds a trigger uses on one instance, by what the instance says of its pre-infers.

The bounds themselves are settings. Whether they fit is seen only at the instance: it declines, it loses psi, or its
pre-infers wait so long for the device that they come too late. Each bound is multiplied by a scale in
[SCALE_LEAST, 1] that such feedback lowers and its absence raises:

    footprint   declines for want of pages; psi lost before its rank
    load        declines because a queue was full; the wait of pre-infers against their lifecycle window

The law. Once a period T, with p the worst of the signals divided by what is allowed of it,

    scale <- clip(scale * exp(GAIN * clamp(1 - p, -1, RELAX)), SCALE_LEAST, 1)

so it falls by at most 5 % a period and rises by at most 2.5 %. Its fixed point is p = 1: there is no dead zone in
which it rests anywhere, and none to jump over. A period without feedback counts as calm. Because counts only grow
and all triggers read the same ones, replicas move together, and what is lost or late on the way changes nothing.

Why it settles. Let the signal follow the scale by any rising law after a delay of d periods, and s* be where p = 1.
Once the scale has crossed s* it is turned back at the latest d + 1 periods later, when what it did is seen, and each
of these moves it by at most GAIN down or GAIN * RELAX up. So from then on

    s* exp(-GAIN (d + 1)) <= scale <= s* exp(GAIN RELAX (d + 1)),

however steep the law. Near s*, with k = d ln p / d ln scale, the steps are z^(d+1) = z^d - GAIN k, which dies out
when GAIN k < 2 sin(pi / (2 (2 d + 1))): up to k = 20 for d = 1, and k = 12 for d = 2. The wait of a queue has
k = 1 / (1 - load), so that it may rest at a load of 92 %. A queue also adds up what is too much, which shows later
still: tests/unit/trigger/test_pressure.py sweeps load and delay, finds rest for d = 1 and 2, and for d = 3 swings of
less than exp(GAIN (d + 1)) from end to end.
Where the signal does not depend on the scale at all, the scale goes to its end and stays; SCALE_LEAST bounds what
that can cost.

It works beside the risk test, not on it: who is at risk is judged as if everybody ran in full, so queues that
a working relay empties do not change who is at risk, and here they only end the throttling.

Source: design, section 3 (trigger); docs/decisions/0018-feedback-scales-the-bounds.md.
"""

from __future__ import annotations

import math

from relaygr.domain.feedback import Feedback

PERIOD_NS = 1_000_000_000
"""Longer than a decision takes to be seen: a pre-infer's wait, its rank, and the next answer that tells of both."""
GAIN = 0.05
"""From one end to the other in half a minute. Four times as much left a queue with a delay of two periods swinging
between half and the whole of what it could take, without an end."""
RELAX = 0.5
"""Rising against falling: what is not admitted costs speed, what is admitted in vain costs others' speed too."""
SCALE_LEAST = 0.25
DECLINED_ALLOWED = 0.1
"""Share of pre-infers an instance may decline for one reason: what is on its way may meet a burst."""
LOST_ALLOWED = 0.02
"""Share of relays that may find no psi though their ticket is open."""
WAIT_ALLOWED = 0.25
"""Mean wait, as a share of the window: then about 2 % of waits with an exponential tail exceed it (e^-4).

Of the window, not of the time until the rank. A pre-infer that is late is joined by its rank and not lost, while a
request that is refused runs in full, on the same device and ahead of all pre-infers. So with a stricter limit the wait
grows when less is admitted: in the simulator, at 420 requests a second on eight instances, 82 % of requests held their
budgets instead of 99."""
COUNT_LEAST = 16
"""A share of fewer than this is taken of this many: one of two is not half."""
PERIODS_MAX = 1_000
"""Periods made up for at once; far more than it takes to rise from one end to the other."""


class Pressure:
    """The two scales of one boot of one instance. Integers and floats only: same feedback, same scales."""

    __slots__ = ("_began_ns", "_seen", "_taken", "footprint", "load")

    def __init__(self, now_ns: int) -> None:
        self.footprint = 1.0
        self.load = 1.0
        self._began_ns = now_ns
        self._seen: Feedback | None = None
        self._taken: Feedback | None = None

    def observe(self, feedback: Feedback | None, window_ns: float, now_ns: int) -> None:
        """Hear what the instance has counted by now, and move once a period is over.

        Args:
            feedback: counts since its boot; older ones than were heard already are passed over.
            window_ns: lifecycle window, in the mean; 0: not known.
            now_ns: now.
        """
        if feedback is not None and (self._seen is None or feedback.pre_infers >= self._seen.pre_infers):
            self._seen = feedback
            # The first that is heard of tells nothing of this period.
            self._taken = self._taken or feedback
        periods = (now_ns - self._began_ns) // PERIOD_NS
        if periods < 1:
            return
        self._began_ns += periods * PERIOD_NS
        news = Feedback()
        if self._seen is not None and self._taken is not None:
            news, self._taken = self._seen.since(self._taken), self._seen
        calm = min(periods - 1, PERIODS_MAX)
        self.footprint = _moved(_moved(self.footprint, footprint_pressure(news)), 0.0, calm)
        self.load = _moved(_moved(self.load, load_pressure(news, window_ns)), 0.0, calm)

    def check(self) -> None:
        """Assert the invariants."""
        assert SCALE_LEAST <= self.footprint <= 1.0
        assert SCALE_LEAST <= self.load <= 1.0


def footprint_pressure(news: Feedback) -> float:
    """Of the signals that pages are short, the worst against what is allowed: 1 is where the scale rests."""
    declined = _share(news.declined_footprint, news.pre_infers) / DECLINED_ALLOWED
    return max(declined, _share(news.relays_lost, news.relays) / LOST_ALLOWED)


def load_pressure(news: Feedback, window_ns: float) -> float:
    """Of the signals that the device is short, the worst against what is allowed.

    Args:
        news: of one period.
        window_ns: lifecycle window, in the mean; 0: not known, and then no wait is too long.
    """
    declined = _share(news.declined_overloaded, news.pre_infers) / DECLINED_ALLOWED
    wait_ns = news.production_wait_ns / max(1, news.productions)
    return max(declined, wait_ns / (WAIT_ALLOWED * window_ns)) if window_ns > 0 else declined


def _share(part: int, whole: int) -> float:
    return part / max(COUNT_LEAST, whole)


def _moved(scale: float, pressure: float, periods: int = 1) -> float:
    step = GAIN * min(RELAX, max(-1.0, 1.0 - pressure))
    return min(1.0, max(SCALE_LEAST, scale * math.exp(step * periods)))
