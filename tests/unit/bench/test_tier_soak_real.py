"""What the soak of a real cluster makes of its samples and outcomes."""

import os
from collections import Counter
from dataclasses import replace

import pytest

from bench.tiers.soak_growth import AGE_LEAST_S, growth, growths
from bench.tiers.soak_load import SoakOutcome
from bench.tiers.soak_plot import draw
from bench.tiers.soak_real import RealSettings, RealSoak
from bench.tiers.soak_samples import ProcessSample, Sample, own_kb, read_process

PERIOD_S = 5.0
SMAPS = """\
00400000-00401000 r-xp 00000000 08:02 1 /usr/bin/python
Rss:                 100 kB
Pss:                  40 kB
7f0000000000-7f0000001000 rw-s 00000000 00:01 2 /dev/shm/relaygr.soak.segment
Rss:                1000 kB
Pss:                 500 kB
7f0000002000-7f0000003000 rw-p 00000000 00:00 0
Pss:                   2 kB
"""


def life(seconds: float, mb_per_s: float = 0.0, fds_per_s: float = 0.0, pid: int = 1, name: str = "ranker-1"):
    times_s = [PERIOD_S * step for step in range(int(seconds / PERIOD_S) + 1)]
    return [
        (at_s, ProcessSample(name, pid, at_s, 0.0, 0.0, 100.0 + mb_per_s * at_s, 20 + int(fds_per_s * at_s), 8))
        for at_s in times_s
    ]


def samples(*lives) -> list[Sample]:
    return [Sample(at_s, (one,), {}, {}, ()) for points in lives for at_s, one in points]


def soaked(**changes) -> RealSoak:
    found = RealSoak(
        settings=RealSettings(seconds=60.0),
        outcome=SoakOutcome(requests=100, judged=80, answered=80, verified=9),
        samples=[],
        blows=Counter(),
        must_be_zero={"corrupt": 0},
        leaked={"pins": 0},
        settled_s=1.0,
        log_errors={"router": 0},
    )
    return replace(found, **changes)


def test_memory_that_stays_is_no_growth():
    found = growth(life(300.0))
    assert found is not None and not found.is_growing
    assert found.ratio == pytest.approx(1.0) and found.slope_mb_per_hour == pytest.approx(0.0, abs=1e-6)


def test_memory_and_files_that_grow_are_seen():
    leaking = growth(life(300.0, mb_per_s=0.2))
    assert leaking is not None and leaking.is_growing
    assert leaking.slope_mb_per_hour == pytest.approx(720.0)
    opening = growth(life(300.0, fds_per_s=0.2))
    assert opening is not None and opening.is_growing and opening.fds > 8


def test_a_life_that_was_too_short_says_nothing():
    assert growth(life(AGE_LEAST_S - PERIOD_S)) is None


def test_of_a_process_that_was_killed_the_longest_life_is_judged():
    found = growths(samples(life(300.0), life(130.0, mb_per_s=5.0, pid=2), life(50.0, name="router", pid=3)))
    assert found["ranker-1"] is not None and not found["ranker-1"].is_growing
    assert found["router"] is None


def test_a_segment_is_nobodys_memory():
    assert own_kb(SMAPS) == 42


def test_this_process_can_be_read():
    one = read_process("test", os.getpid(), 1.0)
    assert one.rss_mb > 1 and one.own_mb > 1 and one.anonymous_mb > 1 and one.fds > 2 and one.threads >= 1


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"leaked": {"pins": 1}}, "pins is 1"),
        ({"must_be_zero": {"corrupt": 2}}, "corrupt is 2"),
        ({"log_errors": {"router": 1}}, "router logged 1 errors"),
        ({"growth": {"router": growth(life(300.0, mb_per_s=0.2))}}, "router grows"),
        ({"outcome": SoakOutcome(judged=100, answered=96, verified=1)}, "96 of 100 were answered"),
        ({"outcome": SoakOutcome(judged=1, answered=1, verified=3, wrong_scores=1)}, "1 of 3 scores are wrong"),
        ({"outcome": SoakOutcome()}, "0 of 0 scores are wrong"),
        (
            {"outcome": SoakOutcome(verified=1, errors=Counter({"ordinary: PeerFailed": 1}))},
            "ordinary: PeerFailed",
        ),
    ],
)
def test_each_fault_is_a_bad_verdict(changes, text):
    assert soaked(**changes).verdict == [text]
    assert soaked(**changes).to_json()["verdict"] == text


def test_errors_that_churn_explains_are_counted_and_no_fault():
    outcome = SoakOutcome(verified=1, errors=Counter({"short deadline: DeadlineTooShort": 5}))
    found = soaked(outcome=outcome)
    assert found.verdict == []
    assert found.to_json()["errors"] == {"short deadline: DeadlineTooShort": 5}


def test_a_picture_is_drawn_also_of_a_ranker_that_was_away(tmp_path):
    seen = {"ranker-1 used share": 0.9, "ranker-1 rank_device": 100}
    lives = [(0.0, seen), (5.0, {}), (10.0, seen | {"ranker-1 rank_device": 160})]
    points = [Sample(at_s, (life(5.0)[0][1],), {"pins": 1}, of, ()) for at_s, of in lives]
    draw(points, tmp_path / "soak.svg")
    assert "used share" in (tmp_path / "soak.svg").read_text()
