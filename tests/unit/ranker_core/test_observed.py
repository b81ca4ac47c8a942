"""What an instance tells triggers of itself."""

from __future__ import annotations

import pytest

from relaygr.domain.feedback import Feedback
from services.ranker.core.counters import Counters
from services.ranker.core.observed import RATE_MEMORY_NS, Observed

MS = 1_000_000


def asked(times_ms):
    observed = Observed()
    for each in times_ms:
        observed.rank_asked(each * MS)
    return observed


@pytest.mark.parametrize("seconds", (2, 5, 60))
def test_the_rate_is_right_from_its_first_seconds_on(seconds):
    observed = asked(range(0, seconds * 1_000, 50))
    assert observed.rank_rate_hz(seconds * 1_000 * MS) == pytest.approx(20, rel=0.03)


def test_the_rate_fades_and_one_rank_is_no_flood():
    assert asked([]).rank_rate_hz(5) == 0
    assert asked([0]).rank_rate_hz(0) <= 1.1
    assert asked(range(0, 20_000, 50)).rank_rate_hz(20_000 * MS + 5 * RATE_MEMORY_NS) < 0.2


def test_feedback_adds_its_own_counts_to_the_machines():
    counters, observed = Counters(), Observed()
    for name in ("accepted_started", "accepted_joined", "declined_footprint", "declined_draining"):
        counters.add(name)
    for name in ("rank_with_ticket", "rank_with_ticket_hit", "rank_with_ticket", "rank_with_ticket_lost"):
        counters.add(name)
    observed.produced(7)
    observed.produced(-3)  # Clocks of two threads.
    assert observed.feedback(counters) == Feedback(4, 1, 0, 2, 1, 2, 7)


def test_news_are_what_is_between_two_counts_and_never_negative():
    assert Feedback(5, 2, 0, 4).since(Feedback(3, 2, 0, 6)) == Feedback(pre_infers=2)
