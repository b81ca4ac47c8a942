"""Psi in another host's memory is reloaded only when that takes less than computing it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.ranker.core import effects as fx
from services.ranker.core import events as ev
from services.ranker.core.residency import Residency
from tests.unit.ranker_core.histories import COST, chain, key, residency

REMOTE = replace(COST, reload_fixed_ns=5_000.0, reload_byte_ns=5.0)
"""Computing n tokens: 1 us + 100 ns each. Reloading them: 5 us + 50 ns each. Even at 80."""


def found(machine: Residency, tokens: int) -> list[fx.Effect]:
    """What follows when DRAM has so many of 200 tokens."""
    asked = chain("ann", 200)
    machine.handle(ev.DramAttached(True), 0)
    machine.handle(ev.PreInferAsked("t1", key("ann"), asked, 1_000_000, ""), 0)
    return machine.handle(ev.LookupEnded(1, tokens, asked.digest_at(tokens)), 0)


@pytest.mark.parametrize(("tokens", "is_reloaded"), [(79, False), (81, True), (200, True)])
def test_a_reload_that_takes_longer_than_computing_is_not_made(tokens: int, is_reloaded: bool) -> None:
    machine = residency(cost=REMOTE, is_dram_remote=True)
    effects = found(machine, tokens)
    if is_reloaded:
        assert [type(effect) for effect in effects] == [fx.StartReload]
        return
    abandoned, computed = effects
    assert abandoned == fx.AbandonLookup(1), "its pin is let go"
    assert isinstance(computed, fx.StartCompute) and computed.from_tokens == 0
    counters = machine.snapshot().counters
    assert (counters["reloads_too_slow"], counters["lookups_unusable"]) == (1, 0)
    machine.check()


def test_a_reload_from_this_host_is_made_whatever_it_takes() -> None:
    """It leaves the device to others, and the fixed part of its prediction is a guess."""
    assert isinstance(found(residency(cost=REMOTE), 79)[0], fx.StartReload)


def test_what_was_measured_later_decides() -> None:
    machine = residency(cost=COST, is_dram_remote=True)
    machine.use_costs(REMOTE)
    assert not any(isinstance(effect, fx.StartReload) for effect in found(machine, 79))
