"""Psi in another host's memory is reloaded only when that takes less than computing it."""

from __future__ import annotations

from dataclasses import replace

from services.ranker.core import effects as fx
from services.ranker.core import events as ev
from services.ranker.core.residency import Residency
from tests.unit.ranker_core.histories import COST, chain, key, residency

REMOTE = replace(COST, reload_fixed_ns=16_000.0, reload_byte_ns=1.0)
"""Computing 200 tokens takes 21 us, reloading them 18 us."""
SLOW = replace(REMOTE, reload_fixed_ns=22_000.0)


def found(machine: Residency, tokens: int) -> list[fx.Effect]:
    """What follows when DRAM has so many of 200 tokens."""
    asked = chain("ann", 200)
    machine.handle(ev.DramAttached(True), 0)
    machine.handle(ev.PreInferAsked("t1", key("ann"), asked, 1_000_000, ""), 0)
    return machine.handle(ev.LookupEnded(1, tokens, asked.digest_at(tokens)), 0)


def test_a_reload_that_takes_longer_than_computing_is_not_made() -> None:
    machine = residency(cost=SLOW, is_dram_remote=True)
    abandoned, computed = found(machine, 200)
    assert abandoned == fx.AbandonLookup(1), "its pin is let go"
    assert isinstance(computed, fx.StartCompute) and computed.from_tokens == 0
    machine.check()


def test_a_reload_that_takes_less_is_made() -> None:
    assert isinstance(found(residency(cost=REMOTE, is_dram_remote=True), 200)[0], fx.StartReload)


def test_a_short_reload_from_this_host_is_made_whatever_computing_takes() -> None:
    """It leaves the device to others, and the fixed part of its prediction is a guess."""
    assert isinstance(found(residency(cost=SLOW), 200)[0], fx.StartReload)


def test_what_was_measured_later_decides() -> None:
    machine = residency(cost=REMOTE, is_dram_remote=True)
    machine.use_costs(SLOW)
    assert not any(isinstance(effect, fx.StartReload) for effect in found(machine, 200))
