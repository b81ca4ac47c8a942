"""The load bound by itself: over every span, charges are at most burst + share * span."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from services.trigger.core.account import LoadDebt

MS = 1_000_000
steps = st.lists(st.tuples(st.integers(0, 200 * MS), st.integers(1, 300 * MS)), min_size=1, max_size=60)


def taken(steps, share, burst_ns):
    """Time and size of the charges that were let through."""
    debt, now_ns, charges = LoadDebt(0), 0, []
    for pause_ns, device_ns in steps:
        now_ns += pause_ns
        debt.drain(share, now_ns)
        if debt.can_charge(device_ns, burst_ns):
            debt.charge(device_ns)
            charges.append((now_ns, device_ns))
    return charges


@given(steps=steps, share=st.sampled_from([0.05, 0.25, 0.5, 1.0]), burst_ns=st.integers(1, 200 * MS))
@settings(max_examples=200, deadline=None)
def test_charges_over_every_span_stay_within_share_and_burst(steps, share, burst_ns):
    charges = taken(steps, share, burst_ns)
    for first in range(len(charges)):
        spent_ns = 0
        for at_ns, device_ns in charges[first:]:
            spent_ns += device_ns
            largest_ns = max(size for _, size in charges[first:])
            assert spent_ns <= max(burst_ns, largest_ns) + share * (at_ns - charges[first][0])


@given(steps=steps)
@settings(max_examples=50, deadline=None)
def test_a_full_share_is_used_when_there_is_demand(steps):
    # One millisecond of work every millisecond at share 1 is never refused.
    charges = taken([(MS, MS)] * len(steps), 1.0, 2 * MS)
    assert len(charges) == len(steps)


@given(
    charge_ns=st.integers(1, 100 * MS),
    pauses=st.lists(st.integers(0, MS), min_size=1, max_size=200),
    share=st.floats(0.1, 1),
)
@settings(max_examples=100, deadline=None)
def test_draining_often_drains_no_more_than_draining_once(charge_ns, pauses, share):
    often, once = LoadDebt(0), LoadDebt(0)
    often.charge(charge_ns), once.charge(charge_ns)
    now_ns = 0
    for pause_ns in pauses:
        now_ns += pause_ns
        often.drain(share, now_ns)
    once.drain(share, now_ns)
    assert once.debt_ns <= often.debt_ns <= once.debt_ns + len(pauses)
