"""Where a rank goes when affinity does not decide it.

Only ranks are placed otherwise: Resolve and PreInfer are the router's own.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Collection
from typing import Any

from services.router.core.binding import Binding, Branch, Placement, Subject, TicketRef
from services.router.core.membership import Member


class FreePlacement(Binding):
    """A rank goes to any instance of its model; `pick` says which.

    Args:
        tickets_anywhere: psi of a ticket can be had on every instance; counts for the view of load alone.
        limits: the router's own bounds.
    """

    def __init__(self, *, tickets_anywhere: bool = False, **limits: Any) -> None:
        super().__init__(**limits)
        self._tickets_anywhere = tickets_anywhere

    @abstractmethod
    def pick(self, able: list[Member], now_ns: int, *, is_first: bool) -> Member:
        """One of at least one instance, in order of their ids; `is_first` unless another failed this request."""

    def route_rank(
        self, subject: Subject, ticket: TicketRef | None, tried: Collection[str], now_ns: int
    ) -> Placement | None:
        """The instance to rank on, whatever the ticket says; the ticket still decides the model."""
        model_key = ticket.model_key if ticket else self.default_model(tried)
        able = self.candidates(model_key, tried) if model_key is not None else []
        if not able:
            return None
        able.sort(key=lambda member: member.record.instance_id)
        record = self.pick(able, now_ns, is_first=not tried).record
        if ticket is None:
            return Placement(record, Branch.REROUTED if tried else Branch.SPILL)
        is_there = (record.instance_id, record.epoch) == (ticket.instance_id, ticket.epoch)
        return Placement(record, Branch.TICKET if is_there or self._tickets_anywhere else Branch.REROUTED)


class LeastLoaded(FreePlacement):
    """The instance with the least device time queued; of equals, the next after the one chosen last."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._last_id = ""

    def pick(self, able: list[Member], now_ns: int, *, is_first: bool) -> Member:
        """The least loaded."""
        after = [member for member in able if member.record.instance_id > self._last_id]
        in_turn = after + able[: len(able) - len(after)]
        chosen = min(in_turn, key=lambda member: self.load.load_ns(member.record.instance_id, now_ns))
        if is_first:
            # Whether there is another to go to is asked too, and takes nobody's turn.
            self._last_id = chosen.record.instance_id
        return chosen


class UniformlyRandom(FreePlacement):
    """Any instance, all as likely."""

    def __init__(self, *, seed: int, **settings: Any) -> None:
        super().__init__(**settings)
        self._random = random.Random(seed)

    def pick(self, able: list[Member], now_ns: int, *, is_first: bool) -> Member:
        """A random one."""
        return self._random.choice(able)
