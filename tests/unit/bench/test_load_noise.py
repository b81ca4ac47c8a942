"""Whose the machine was during a probe."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bench.load.noise import FOREIGN_SHARE_MAX, CpuTimes, Pacers, idle_probe, own_cpu_s, process_s, share_between

BUSY = "import time\nend = time.process_time() + 0.4\nwhile time.process_time() < end: pass\ninput()"


def times(*, busy_s=0.0, at_s=0.0, ours_s=0.0, foreign_s=0.0, stolen_s=0.0):
    return CpuTimes(busy_s, stolen_s, at_s, {"router": ours_s}, {7: foreign_s})


@pytest.fixture
def cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})


@pytest.mark.usefixtures("cores")
def test_what_is_neither_ours_nor_idle_is_foreign():
    share = share_between(times(), times(busy_s=5.0, at_s=10.0, ours_s=2.0), own_s=1.0)
    assert share.foreign_share == pytest.approx(2.0 / 20.0)
    assert share.by_process == {"router": 0.2}
    assert share.is_disturbed


@pytest.mark.usefixtures("cores")
def test_a_foreign_process_is_seen_also_where_the_machines_account_missed_it():
    share = share_between(times(), times(busy_s=1.0, at_s=10.0, ours_s=1.0, foreign_s=4.0), own_s=1.0)
    assert share.foreign_share == pytest.approx(4.0 / 20.0) and share.is_disturbed


@pytest.mark.usefixtures("cores")
def test_a_quiet_machine_does_not_disturb():
    least = FOREIGN_SHARE_MAX * 20.0 / 2
    assert not share_between(times(), times(busy_s=3.0 + least, at_s=10.0, ours_s=2.0), own_s=1.0).is_disturbed
    assert share_between(times(), times(at_s=10.0, stolen_s=1.0), own_s=0.0).is_disturbed


def test_a_process_that_computes_is_found_and_one_that_is_named_is_ours():
    with subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE) as child:
        before, named = CpuTimes.read([]), CpuTimes.read([("child", child.pid)])
        while process_s(child.pid) < 0.4:
            pass
        found, ours = CpuTimes.read([]), CpuTimes.read([("child", child.pid)])
        child.communicate(b"\n")
    assert found.foreign_s[child.pid] - before.foreign_s.get(child.pid, 0.0) > 0.2
    assert child.pid not in ours.foreign_s and ours.by_process_s["child"] - named.by_process_s["child"] > 0.2
    assert process_s(child.pid) == 0.0, "it is gone"
    assert own_cpu_s() > 0


def test_an_idle_probe_leaves_the_process_where_it_may_run():
    before = os.sched_getaffinity(0)
    idle = idle_probe(0.02)
    assert os.sched_getaffinity(0) == before
    assert 0 <= idle.lost_share < 1 and idle.piece_p50_us <= idle.piece_p99_us <= idle.piece_max_us


def test_pacers_say_nothing_before_their_first_piece_and_end_with_their_context():
    with Pacers() as pacers:
        assert 0 <= pacers.slow_share() <= 1
    assert Pacers().slow_share() == 0.0
