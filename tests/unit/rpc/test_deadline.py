import time
from contextvars import copy_context
from typing import Any

import pytest

from relaygr.errors import DeadlineTooShort
from relaygr.rpc.deadline import child_timeout_s, remaining_ns, start_default


class Context:
    def __init__(self, left_s: float | None) -> None:
        self._left_s = left_s

    def time_remaining(self) -> float | None:
        return self._left_s


def remaining(left_s: float | None, default_ns: int) -> int:
    context: Any = Context(left_s)
    return remaining_ns(context, default_ns)


def test_callers_deadline_wins_over_the_default() -> None:
    assert remaining(0.25, 10) == 250_000_000
    assert remaining(60.0, 10) == 60_000_000_000


def test_passed_deadline_is_zero_and_not_negative() -> None:
    assert remaining(-1.0, 10) == 0


@pytest.mark.parametrize("left_s", [None, float("inf"), 1e9])
def test_no_deadline_or_a_boundless_one_is_the_default(left_s: float | None) -> None:
    assert remaining(left_s, 77) == 77


def test_servers_default_counts_from_arrival_and_caps_the_servicers() -> None:
    def served(default_ns: int) -> int:
        start_default(1_000_000_000)
        return remaining(None, default_ns)

    assert copy_context().run(served, 5) == 5
    before_ns = time.monotonic_ns()
    left_ns = copy_context().run(served, 60_000_000_000)
    assert 1_000_000_000 - (time.monotonic_ns() - before_ns) <= left_ns <= 1_000_000_000


def test_child_leaves_the_margin() -> None:
    assert child_timeout_s(30_000_000, 5_000_000) == 0.025


@pytest.mark.parametrize("left_ns", [0, 4_000_000, 5_000_000])
def test_child_with_nothing_left_is_refused(left_ns: int) -> None:
    with pytest.raises(DeadlineTooShort) as caught:
        child_timeout_s(left_ns, 5_000_000)
    assert caught.value.is_definite
