import asyncio
from typing import Any

import pytest

from relaygr.runtime.loop import LoopLagProbe


async def test_lag_is_what_the_timer_was_late_by(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0]
    seen: list[float] = []
    due: list[Any] = []

    class Handle:
        def cancel(self) -> None:
            due.clear()

    def call_later(delay_s: float, call: Any) -> Handle:
        due.append(call)
        return Handle()

    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", call_later)
    probe = LoopLagProbe(seen.append, period_s=0.1, clock=lambda: now[0])
    probe.start()
    for now_ns in (100_000_000, 350_000_000, 450_000_000):
        now[0] = now_ns
        due.pop()()
    assert seen == [0.0, 0.15, 0.0]
    assert probe.take_worst_s() == 0.15
    assert probe.take_worst_s() == 0.0
    probe.stop()
    assert due == []


async def test_probe_runs_on_a_real_loop() -> None:
    measured = asyncio.Event()
    probe = LoopLagProbe(lambda lag_s: measured.set(), period_s=0.001)
    probe.start()
    await asyncio.wait_for(measured.wait(), 5)
    probe.stop()
