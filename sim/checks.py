"""What is checked while the simulation runs, and at its end.

The cores assert their own invariants (`check`); here is what only an outsider sees: that psi which a ticket holds
is there when its rank comes (I1), that what a rank reads is what its history says (I5), one producer a key (I4),
answers in time (I6), nothing left at the end (I7), and that a rank with a ticket meets the instance that made its psi.

Source: design, section 5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sim.violations import Violation

EVERY = 1_000
"""Events between two looks at one whole process, each in its turn, where only what was touched is checked."""


class Checked(Protocol):
    """What asserts its own invariants."""

    def check(self) -> None:
        """Assert them all."""
        ...

    def check_touched(self) -> None:
        """Assert what the last event can have broken, in a time that does not grow with the tables."""
        ...


class Checks:
    """Collects what an event touched and has it checked after the event.

    Args:
        is_full: after each event the whole of what it touched; otherwise the parts it touched, and now and then
            one whole process in its turn.
    """

    def __init__(self, *, is_full: bool) -> None:
        self.is_full = is_full
        self._touched: list[Checked] = []
        self._turn = 0
        self._events = 0
        self.everything: Callable[[], list[Checked]] = list
        self.done = 0
        self.whole = 0
        """Times that everything was checked."""

    def touch(self, machine: Checked) -> None:
        """An event has reached this machine."""
        if machine not in self._touched:
            self._touched.append(machine)

    def after_event(self) -> None:
        """Check what is due."""
        touched = self._touched
        if touched:
            self.done += len(touched)
            for machine in touched:
                if self.is_full:
                    machine.check()
                else:
                    machine.check_touched()
            touched.clear()
        if self.is_full:
            return
        self._events += 1
        if self._events % EVERY == 0:
            machines = self.everything()
            self._turn = (self._turn + 1) % len(machines)
            machines[self._turn].check()
            self.done += 1

    def all_now(self) -> None:
        """Check everything."""
        for machine in self.everything():
            machine.check()
            self.done += 1
        self.whole += 1


def demand(holds: bool, rule: str, text: str) -> None:
    """Assert a rule by its name in the design; not where the text is dear and asked for often.

    Raises:
        Violation: it does not hold.
    """
    if not holds:
        raise Violation(rule, text)
